"""Noticing that the launcher is gone, and what then becomes of a worker's output."""

import os
import threading
from collections.abc import Callable
from contextlib import suppress

ORPHAN_WAIT_S = 30.0
"""Seconds from the launcher's death until its workers must have ended: time for a step, and a checkpoint."""


def watch_life(life_fd: int, on_end: Callable[[], None]) -> threading.Thread:
    """Start a daemon thread that calls `on_end` once when the launcher is gone.

    Args:
        life_fd: Read end of the pipe from the launcher; this thread owns it from now on. It is made
            private to this process, so that processes the worker starts do not keep it.
        on_end: Called in the thread at the pipe's end; it ends the process within `ORPHAN_WAIT_S`.

    Blocks:
        Never; the thread sleeps in one read.

    Called by:
        Every worker, once, as early as it can. (The launcher's guard, a process of its own, ends workers
        that outlive `ORPHAN_WAIT_S`; this is for clean-up that must happen before.)
    """
    os.set_inheritable(life_fd, False)

    def watch() -> None:
        try:
            while os.read(life_fd, 64):
                pass
        except OSError:
            pass  # closed under us: the same end
        on_end()

    thread = threading.Thread(target=watch, name="holdtrue-life", daemon=True)
    thread.start()
    return thread


def redirect_output(log_file: str | None, output_fds: tuple[int, ...]) -> None:
    """Send this process's stdout and stderr into its log, and free a print that waits for a full pipe.

    Args:
        log_file: The log; None, or one that cannot be opened, loses the output.
        output_fds: Read ends of the pipes that were stdout and stderr. The worker holds them so that no
            print meets a broken pipe between the launcher's death and this call.

    Called by:
        A worker, once the launcher, which read these pipes, is gone.
    """
    try:
        target = os.open(log_file or os.devnull, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    except OSError:
        target = os.open(os.devnull, os.O_WRONLY)
    os.dup2(target, 1)
    os.dup2(target, 2)
    for fd in output_fds:
        with suppress(OSError):
            os.set_blocking(fd, False)
            while data := os.read(fd, 65536):
                os.write(target, data)
