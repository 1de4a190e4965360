"""The edges of a worker's process: uncaught errors, signals, the launcher's end, the script's end."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import traceback
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, NoReturn

from holdtrue.errors import ExpelledError, HoldtrueError, JobOverError, UsageError
from holdtrue.wire import (
    ORPHAN_WAIT_S,
    FailedReport,
    ReportSender,
    WorkerEnvironment,
    redirect_output,
    watch_life,
)

from ._frames import user_frame

if TYPE_CHECKING:
    from ._core import Core

EXIT_USAGE, EXIT_FAILED, EXIT_INTERRUPTED = 2, 1, 130
_HEAR_WAIT_S = 5.0
"""What a controller has to be reached again by a worker that lost its host."""
_present: Core | None = None
_worker: WorkerEnvironment | None = None
_installed_in: int | None = None
"""Process in which the edge was installed: a forked child inherits the handlers, but not the run."""


def install_edge() -> None:
    """Watch the process's edges: errors from here on are sentences with an exit status.

    Called by:
        `holdtrue.init`, first of all, in a process of its own.
    """
    global _installed_in
    if _installed_in is not None:
        return
    _installed_in = os.getpid()
    # A signal between a fork and the child's first instruction would be forgotten with our handler in place.
    os.register_at_fork(before=_hold_sigterm, after_in_parent=_let_sigterm, after_in_child=_forget_sigterm)
    sys.excepthook = _report_error
    atexit.register(_finish)
    if threading.current_thread() is threading.main_thread():
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, _interrupt)


def _hold_sigterm() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def _let_sigterm() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _forget_sigterm() -> None:
    if (
        signal.getsignal(signal.SIGTERM) is _interrupt
        and threading.current_thread() is threading.main_thread()
    ):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _let_sigterm()


def join_launcher(worker: WorkerEnvironment | None) -> None:
    """Take the launcher's word on what this process is, and end when the launcher does."""
    global _worker
    if worker is None or _worker is not None:
        return
    _worker = worker
    if worker.life_fd is not None:
        watch_life(worker.life_fd, _end_without_launcher)


def watch_run(run: Core) -> None:
    """Make `run` the process's run.

    Raises:
        UsageError: another one is open and belongs to a group: a group's workers meet once.
    """
    global _present
    if _present is not None and not _present.is_closed:
        if _present.is_in_group:
            raise UsageError(
                "holdtrue.init was called a second time in a worker of a job; a process belongs "
                "to one job. Train several models in one run (run.prepare takes them all), or start a job for each."
            )
        _present.close()
    _present = run


def _end_without_launcher() -> None:
    """End at the next boundary, keeping what is done, or after a bounded time anyway; in the life thread."""
    if _worker is not None:
        redirect_output(_worker.log_file, _worker.output_fds)
    run = _present
    if run is None or run.is_closed or not run.has_boundaries:
        _say_end_without_launcher("this worker ends.")
        os._exit(EXIT_FAILED)
    if _worker is not None and _worker.is_guest and run.leaves_without_host(_HEAR_WAIT_S):
        words = f"holdtrue: the host of this worker is gone; it leaves the job at {run.next_boundary}.\n"
        os.write(2, words.encode())
        threading.Event().wait(ORPHAN_WAIT_S)
        os._exit(EXIT_FAILED)
    _say_end_without_launcher(
        f"this worker ends at {run.next_boundary} with a checkpoint, or in {ORPHAN_WAIT_S:.0f} s without."
        if run.is_looping
        else f"this worker ends at {run.next_boundary}, or in {ORPHAN_WAIT_S:.0f} s."
    )
    run.interrupt()
    threading.Event().wait(ORPHAN_WAIT_S)  # the main thread ends the process before
    os._exit(EXIT_FAILED)


def _say_end_without_launcher(what: str) -> None:
    os.write(2, f"holdtrue: the launcher is gone; {what}\n".encode())


def _interrupt(signum: int, _: FrameType | None) -> None:
    if os.getpid() != _installed_in:
        _interrupt_child(signum)
        return
    if signum == signal.SIGTERM and _present is not None and _present.offer_to_leave():
        return  # the others are told at the next boundary
    if _present is not None and _present.interrupt():
        return  # it ends at the next boundary, and keeps what is done
    if _present is not None:
        _present.has_failed = True
    signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)
    if signum == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(EXIT_INTERRUPTED)


def _interrupt_child(signum: int) -> None:
    """In a process that the script forked: Ctrl-C is the parent's business, which still needs its data loaders."""
    if signum == signal.SIGTERM:
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)


def _report_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Show an uncaught error once, with what the run knows of it; exit 2 for a user's mistake, else 1."""
    if os.getpid() != _installed_in:
        sys.__excepthook__(kind, error, trace)
        return
    run = _present
    if isinstance(error, KeyboardInterrupt):
        sys.stderr.write("holdtrue: interrupted.\n")
        leave_at_once(EXIT_INTERRUPTED)
    if isinstance(error, ExpelledError | JobOverError):
        _end_outside(error)
    where = run.describe_pass() if run is not None else ""
    if _FEW_VALUES in str(error):
        error, where = _too_few_values(error, where), ""
        kind = type(error)
    is_ours = isinstance(error, HoldtrueError)
    # First, so that the launcher knows what the words that follow on stderr are.
    _tell_failure(
        kind, str(error) if is_ours else f"{kind.__name__}: {error}" + (f" ({where})" if where else "")
    )
    if is_ours:
        at = _user_line(trace)
        sys.stderr.write(
            f"holdtrue: {error}\n" + (f"  at {at}\n" if at else "") + (f"  {where}\n" if where else "")
        )
    else:
        if where:
            error.add_note(where)
        traceback.print_exception(kind, error, trace)
    sys.stderr.flush()
    # Not by the interpreter's own end: it would wait for threads and collectives that wait for others.
    leave_at_once(EXIT_USAGE if is_ours and isinstance(error, ValueError) else EXIT_FAILED)


def _end_outside(error: ExpelledError | JobOverError) -> NoReturn:
    """End a worker that is no member of its job: no failure of the job, and nothing of its own is written any more.

    Its host learns why it ends, or it would take the status for a failure of the script.
    """
    if _worker is not None and _worker.report_fd is not None:
        report = FailedReport(rank=_worker.worker, kind=type(error).__name__, sentence=str(error))
        ReportSender(_worker.report_fd).send(report)
    if _present is not None:
        _present.has_failed = True
        _present.outlet.close()
    if isinstance(error, ExpelledError):  # how the job ended is told by whoever started it
        sys.stderr.write(f"holdtrue: {error}\n")
    leave_at_once(0 if isinstance(error, JobOverError) else EXIT_FAILED)


def _tell_failure(kind: type[BaseException], sentence: str) -> None:
    """Leave word of the failure with the launcher and in the records."""
    run = _present
    if run is not None:
        run.outlet.send(FailedReport(rank=run.number, kind=kind.__name__, sentence=sentence))
        run.tell_failure(sentence)
        if not run.is_closed:
            run.outlet.event("failed", step=run.calls.position.step, reason=sentence)
        run.has_failed = True
    elif _worker is not None and _worker.report_fd is not None:
        ReportSender(_worker.report_fd).send(
            FailedReport(rank=_worker.worker, kind=kind.__name__, sentence=sentence)
        )


def leave_at_once(status: int) -> NoReturn:
    """End the process with `status`: from where its own would be another, or would wait for collectives that never end."""
    sys.stdout.flush()
    sys.stderr.flush()
    atexit._run_exitfuncs()
    os._exit(status)


_FEW_VALUES = "Expected more than 1 value per channel when training"
"""What torch says of a norm layer that has one value per channel."""


def _too_few_values(error: BaseException, where: str) -> HoldtrueError:
    """What a norm layer's error means on virtual nodes; torch's own words are kept as the cause."""
    found = " ".join(filter(None, (str(error).partition(f"{_FEW_VALUES}, ")[2], where)))
    mistake = UsageError(
        f"a norm layer {found}; in training it needs more than one value per channel in every pass. Give every virtual node "
        f"at least two examples: fewer virtual_nodes, a larger global_batch_size, or drop_last=True."
    )
    mistake.__cause__ = error
    return mistake


def _user_line(trace: TracebackType | None) -> str:
    frame = user_frame(trace)
    return f"{frame.filename}:{frame.lineno}: {frame.line}" if frame is not None else ""


def _finish() -> None:
    """Close the run at the end of the script; after that there is nothing that an interrupt could end better."""
    _close_run()
    if os.getpid() == _installed_in and threading.current_thread() is threading.main_thread():
        for signum in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(signum) is _interrupt:
                alone = signal.SIG_DFL if signum == signal.SIGTERM else signal.default_int_handler
                signal.signal(signum, alone if _worker is None else signal.SIG_IGN)


def _close_run() -> None:
    run = _present
    if run is None or run.is_closed or os.getpid() != _installed_in:
        return
    error = None if run.has_failed else run.left_error
    if error is not None:
        run.left_error = None
        _report_error(type(error), error, None)  # does not return: it is the user's mistake
    if not run.has_failed:
        run.settle()  # a loop that was left by break, as the last thing in the script
    run.close()
