"""Running a job: start the workers, listen, stop them in time, tell how it ended."""

import contextlib
import os
import selectors
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import final

from holdtrue import errors
from holdtrue.errors import UsageError
from holdtrue.wire import CheckpointReport, FinishedReport, Report, StepReport

from ._devices import assign_devices, count_cuda_devices, torch_has_cuda
from ._job import Failure, JobResult, JobSpec, WorkerEnd
from ._judge import is_failed, judge_ends, merge_alike
from ._leftovers import leftovers
from ._observer import JobObserver, Stream
from ._output import StderrHold, read_tail
from ._signals import catch_interrupts
from ._stopping import StopState, next_stop
from ._worker import Worker, start_worker

_TICK_S = 0.25
_LEFTOVER_WAIT_S = 2.0
"""What processes that a worker started have to end by themselves after it (they clean up shared memory)."""


def launch_job(spec: JobSpec, observer: JobObserver) -> JobResult:
    """Run a job on this machine to its end.

    Args:
        spec: What to start.
        observer: Who is told what happens; called in this thread.

    Raises:
        UsageError: there is no such script, or no such device.

    Guarantee:
        No process of the job is left when this returns or raises, nor when this process is killed. The
        first failure of a worker ends the others within 6 s.

    Blocks:
        Until the job ends. One SIGINT or SIGTERM (main thread) asks the workers to stop at the step
        boundary, for at most `spec.interrupt_wait_s`; the second kills them.
    """
    _check_start(spec)
    cuda_devices = count_cuda_devices(os.environ) if spec.device != "cpu" and torch_has_cuda() else 0
    devices = spec.devices or assign_devices(spec.device, spec.workers, cuda_devices)
    (spec.run_dir / "logs").mkdir(parents=True, exist_ok=True)
    started_s = time.monotonic()
    with ExitStack() as stack:
        interrupt_fd = stack.enter_context(catch_interrupts())
        workers = stack.enter_context(_started_workers(spec, devices))
        loop = _Loop(spec, workers, observer)
        stack.callback(loop.close)
        loop.run(interrupt_fd)
        return loop.result(time.monotonic() - started_s)


def _check_start(spec: JobSpec) -> None:
    if sys.platform != "linux":
        raise UsageError(
            f"this system is {sys.platform}; a job of several processes needs Linux. "
            f"Run `python {spec.script}` alone: it is a job of one worker."
        )
    if not spec.is_module and not Path(spec.script).is_file():
        what = "is a folder" if Path(spec.script).is_dir() else "does not exist"
        raise UsageError(
            f"the script {spec.script} {what}; a job needs a Python file. "
            f"Name one, as seen from {Path.cwd()}."
        )


@contextlib.contextmanager
def _started_workers(spec: JobSpec, devices: tuple[str, ...]) -> Iterator[list[Worker]]:
    workers: list[Worker] = []
    life_read, life_write = os.pipe()
    try:
        # Bound here, to loopback alone: a store that binds by itself listens on every interface.
        with socket.create_server(("127.0.0.1", 0), backlog=256) as store:
            for rank, device in enumerate(devices):
                workers.append(
                    start_worker(spec, rank, device, store=store, life_fd=life_read, base_env=os.environ)
                )
        yield workers
    finally:
        for worker in workers:
            worker.kill_group()
        for worker in workers:
            worker.reap()
        os.close(life_read)
        os.close(life_write)


@final
class _Loop:
    """The launcher's one loop; owner of all that changes while a job runs."""

    def __init__(self, spec: JobSpec, workers: list[Worker], observer: JobObserver) -> None:
        self._spec = spec
        self._workers = workers
        self._observer = observer
        self._selector = selectors.DefaultSelector()
        self._stop = StopState()
        self._hold = StderrHold()
        self._ends: list[WorkerEnd] = []
        self._pidfds: list[int] = []
        self._reports: dict[type[Report], Report] = {}
        """The newest report of each kind from the main worker."""

    def run(self, interrupt_fd: int) -> None:
        """Until every worker ended and its output was read."""
        self._watch(interrupt_fd, lambda: self._read_interrupts(interrupt_fd))
        for worker in self._workers:
            self._watch_worker(worker)
        while any(worker.is_alive for worker in self._workers):
            self._turn(self._wait_s())
        self._drain()

    def close(self) -> None:
        """Let go of everything but the workers."""
        self._selector.close()
        for fd in self._pidfds:
            os.close(fd)

    def result(self, seconds: float) -> JobResult:
        """How the job ended; call it after `run`."""
        was_interrupted = self._stop.interrupts > 0
        name = self._spec.script if not self._spec.is_module else self._spec.name
        verdict = judge_ends(self._ends, script=name, was_interrupted=was_interrupted)
        if not any(0 in failure.ranks for failure in verdict.failures) and not self._has_failed(0):
            self._show_stderr(self._hold.release())
        step = self._reports.get(StepReport)
        finished = self._reports.get(FinishedReport)
        checkpoint = self._reports.get(CheckpointReport)
        # Not every step is reported: a checkpoint may be newer than the newest report.
        known = [step.step + 1] if isinstance(step, StepReport) else []
        known += [checkpoint.step] if isinstance(checkpoint, CheckpointReport) else []
        steps = max(known, default=None)
        return JobResult(
            exit_code=verdict.exit_code,
            failures=merge_alike([self._with_tail(failure) for failure in verdict.failures]),
            was_interrupted=was_interrupted,
            ends=tuple(sorted(self._ends, key=lambda end: end.rank)),
            steps=finished.steps if isinstance(finished, FinishedReport) else steps,
            digest=finished.digest if isinstance(finished, FinishedReport) else None,
            loss=step.loss if isinstance(step, StepReport) else None,
            checkpoint_step=checkpoint.step if isinstance(checkpoint, CheckpointReport) else None,
            seconds=seconds,
        )

    # --- one turn ---------------------------------------------------------------------------------

    def _turn(self, wait_s: float) -> None:
        events = self._selector.select(wait_s)
        # Reports first: a worker reports its failure before it writes its traceback.
        for key, _ in sorted(events, key=lambda event: event[0].data[0]):
            key.data[1]()
        now_s = time.monotonic()
        if self._hold.release_after(now_s) == 0.0 and self._workers[0].failure is None:
            self._show_stderr(self._hold.release())
        action = next_stop(self._stop, interrupt_wait_s=self._spec.interrupt_wait_s)
        if action is not None and action.at_s <= now_s:
            self._stop_workers(action.way, action.reason, now_s)
        self._observer.tick(now_s)

    def _wait_s(self) -> float:
        action = next_stop(self._stop, interrupt_wait_s=self._spec.interrupt_wait_s)
        until_stop_s = action.at_s - time.monotonic() if action else _TICK_S
        return max(0.0, min(_TICK_S, until_stop_s))

    def _stop_workers(self, way: str, reason: str, now_s: float) -> None:
        if way == "terminate":
            self._stop = replace(self._stop, terminated_at_s=now_s)
            for worker in self._workers:
                worker.terminate()
            return
        self._stop = replace(self._stop, killed_at_s=now_s)
        alive = [worker for worker in self._workers if worker.is_alive]
        ranks = ", ".join(str(worker.rank) for worker in alive)
        self._observer.show_note(f"worker{'s' if len(alive) > 1 else ''} {ranks} killed: {reason}")
        for worker in alive:
            worker.kill_group()

    # --- what arrives -----------------------------------------------------------------------------

    def _watch(self, fd: int, act: Callable[[], None], order: int = 1) -> None:
        self._selector.register(fd, selectors.EVENT_READ, (order, act))

    def _watch_worker(self, worker: Worker) -> None:
        self._watch(worker.report_fd, lambda: self._read_reports(worker), order=0)
        pidfd = os.pidfd_open(worker.process.pid)
        self._pidfds.append(pidfd)
        self._watch(pidfd, lambda: self._see_end(worker, pidfd), order=2)
        for stream, pipe in (("stdout", worker.process.stdout), ("stderr", worker.process.stderr)):
            if pipe is not None:
                os.set_blocking(pipe.fileno(), False)
                self._watch_output(worker, pipe.fileno(), "stdout" if stream == "stdout" else "stderr")

    def _watch_output(self, worker: Worker, fd: int, stream: Stream) -> None:
        self._watch(fd, lambda: self._read_output(worker, fd, stream))

    def _read_interrupts(self, fd: int) -> None:
        count = len(os.read(fd, 64))
        before = self._stop.interrupts
        since_s = time.monotonic() if before == 0 else self._stop.interrupted_at_s
        self._stop = replace(self._stop, interrupts=before + count, interrupted_at_s=since_s)
        if before == 0:
            self._observer.show_note(
                "stopping at the next step boundary, with a checkpoint; Ctrl-C again kills the workers"
            )

    def _read_reports(self, worker: Worker) -> None:
        reports, complaints, at_end = worker.read_reports()
        for report in reports:
            if worker.rank == 0:
                self._reports[type(report)] = report
            self._observer.show_report(worker.rank, report)
        for complaint in complaints:
            self._observer.show_note(complaint)
        if at_end:
            self._selector.unregister(worker.report_fd)

    def _read_output(self, worker: Worker, fd: int, stream: Stream) -> None:
        try:
            data = os.read(fd, 65536)
        except BlockingIOError:
            return
        if not data:
            self._selector.unregister(fd)
            return
        worker.log.write(data)
        if stream == "stderr":
            data = self._hold.pass_through(
                data, now_s=time.monotonic(), has_failed=worker.failure is not None
            )
        if data:
            self._observer.show_output(stream, data)

    def _see_end(self, worker: Worker, pidfd: int) -> None:
        if worker.report_fd in self._selector.get_map():
            self._read_reports(worker)  # what it said last belongs to its end
        end = worker.see_end()
        if end is None:
            return
        self._selector.unregister(pidfd)
        self._ends.append(end)
        if self._stop.failed_at_s is None and is_failed(end, was_interrupted=self._stop.interrupts > 0):
            self._stop = replace(self._stop, failed_at_s=time.monotonic())

    # --- the end ----------------------------------------------------------------------------------

    def _drain(self) -> None:
        """Read what is left in the pipes, and give processes left behind a moment before they are killed."""
        groups = {worker.process.pid for worker in self._workers}
        until_s = time.monotonic() + _LEFTOVER_WAIT_S
        while leftovers(groups) and time.monotonic() < until_s and self._stop.killed_at_s is None:
            self._turn(0.05)
        for worker in self._workers:
            worker.kill_group()
        until_s = time.monotonic() + _LEFTOVER_WAIT_S  # something that left the session may write on
        while self._selector.select(0) and time.monotonic() < until_s:
            self._turn(0)

    def _has_failed(self, rank: int) -> bool:
        return any(end.rank == rank and end.status != 0 for end in self._ends)

    def _show_stderr(self, data: bytes) -> None:
        if data:
            self._observer.show_output("stderr", data)

    def _with_tail(self, failure: Failure) -> Failure:
        """The failure with the last words of its log where the worker itself said nothing of use."""
        if failure.sentence is not None and failure.kind in _OWN_ERRORS:
            return failure
        worker = self._workers[failure.ranks[0]]
        tail = "\n".join(read_tail(failure.log, worker.log_start))
        return replace(failure, sentence=tail or failure.sentence)


_OWN_ERRORS = frozenset(
    name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)
)
"""Errors whose sentence says all; others are shown with their traceback."""
