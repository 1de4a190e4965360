"""Noticing that the launcher is gone."""

import os
import threading
from collections.abc import Callable


def watch_life(life_fd: int, on_end: Callable[[], None]) -> threading.Thread:
    """Start a daemon thread that calls `on_end` once when the launcher is gone.

    Args:
        life_fd: Read end of the pipe from the launcher; this thread owns it from now on. It is made
            private to this process, so that processes the worker starts do not keep it.
        on_end: Called in the thread at the pipe's end; normally it ends the process.

    Blocks:
        Never; the thread sleeps in one read.

    Called by:
        Every worker, once, as early as it can. (On Linux the kernel kills the worker too; this is
        for the rest, and for clean-up that must happen.)
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
