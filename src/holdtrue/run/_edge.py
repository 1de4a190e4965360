"""The edges of a worker's process: uncaught errors, signals, the launcher's end, the script's end."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import traceback
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

from holdtrue.errors import HoldtrueError
from holdtrue.wire import FailedReport, FinishedReport, watch_life

if TYPE_CHECKING:
    from ._core import Core

EXIT_USAGE, EXIT_FAILED, EXIT_INTERRUPTED = 2, 1, 130
_present: Core | None = None
_is_installed = False


def present_run() -> Core | None:
    """The latest run of this process that has not been closed."""
    return _present


def install_edge(run: Core) -> None:
    """Make `run` the process's run, and watch the process's edges for it.

    Called by:
        `holdtrue.init`, in the main thread of a process of its own.
    """
    global _present, _is_installed
    _present = run
    worker = run.membership.worker
    if worker is not None and worker.life_fd is not None and not _is_installed:
        watch_life(worker.life_fd, _end_without_launcher)
    if _is_installed:
        return
    _is_installed = True
    sys.excepthook = _report_error
    atexit.register(_finish)
    if threading.current_thread() is threading.main_thread():
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, _interrupt)


def _end_without_launcher() -> None:
    sys.stderr.write("holdtrue: the launcher is gone; this worker ends.\n")
    sys.stderr.flush()
    os._exit(EXIT_FAILED)


def _interrupt(signum: int, _: FrameType | None) -> None:
    if _present is not None and _present.interrupt():
        return  # the loop ends at the next step boundary, with a checkpoint
    signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)
    if signum == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(EXIT_INTERRUPTED)


def _report_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Show an uncaught error once, with what the run knows of it; exit 2 for a user's mistake, else 1."""
    run = _present
    if isinstance(error, KeyboardInterrupt):
        sys.stderr.write("holdtrue: interrupted.\n")
        _leave(EXIT_INTERRUPTED)
    where = run.describe_pass() if run is not None else ""
    is_ours = isinstance(error, HoldtrueError)
    if is_ours:
        at = _user_line(trace)
        sys.stderr.write(
            f"holdtrue: {error}\n" + (f"  at {at}\n" if at else "") + (f"  {where}\n" if where else "")
        )
    else:
        if where:
            error.add_note(where)
        if "Expected more than 1 value per channel" in str(error):
            error.add_note(
                "A batch norm layer needs more than one value per channel in a pass. Give every virtual node at least two "
                "examples: fewer virtual_nodes, a larger global_batch_size, or drop_last=True."
            )
        traceback.print_exception(kind, error, trace)
    sys.stderr.flush()
    if run is not None:
        sentence = str(error) if is_ours else f"{kind.__name__}: {error}" + (f" ({where})" if where else "")
        run.outlet.send(FailedReport(rank=run.membership.rank, kind=kind.__name__, sentence=sentence))
        run.outlet.event("failed", step=run.calls.position.step, reason=sentence)
        run.has_failed = True
    if is_ours and isinstance(error, ValueError):
        _leave(EXIT_USAGE)


def _leave(status: int) -> None:
    """End the process with `status` from within the excepthook, whose own status is always 1."""
    sys.stdout.flush()
    sys.stderr.flush()
    atexit._run_exitfuncs()
    os._exit(status)


def _user_line(trace: TracebackType | None) -> str:
    """File and line of the innermost frame outside holdtrue."""
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    frames = [f for f in traceback.extract_tb(trace) if not f.filename.startswith((here, "<"))]
    return f"{frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line}" if frames else ""


def _finish() -> None:
    """Close the run at the end of the script."""
    run = _present
    if run is None:
        return
    if not run.has_failed:
        position = run.calls.position
        run.outlet.send(FinishedReport(rank=run.membership.rank, digest=run.last_digest, steps=position.step))
    run.close()
