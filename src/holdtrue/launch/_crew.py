"""The workers of one host, watched by one loop: what they report, what they print, how they end."""

import os
import selectors
import time
from collections.abc import Callable
from dataclasses import replace
from typing import final

from holdtrue import errors
from holdtrue.units import format_ids, reason_of
from holdtrue.wire import (
    CheckpointReport,
    FinishedReport,
    LogReport,
    PredictedReport,
    Report,
    StartedReport,
    StepReport,
)

from ._job import Failure, JobResult, WorkerEnd
from ._judge import Verdict, merge_alike
from ._leftovers import (
    LEFTOVER_WAIT_S,
    OUTPUT_WAIT_S,
    Remains,
    groups_with_leftovers,
    leftovers,
    next_rite,
)
from ._observer import JobObserver, Stream
from ._output import read_tail
from ._worker import Worker

TICK_S = 0.25
OUTPUT_BYTES = 65536
"""Bytes of one read of a worker's output: what a pipe holds."""
LAST_READS = 16
"""Reads of an ended worker's output before its end counts; a process that it left behind may go on for ever."""
_MAIN_REPORTS = (StartedReport, StepReport, PredictedReport, LogReport, CheckpointReport)
"""Only the main worker sends these; it may be another one after a change of membership."""


@final
class Crew:
    """Owner of the selector and of the living workers; mutable, used by one thread.

    Args:
        observer: Who is told what happens.
        on_end: Called with each worker whose end was seen, after its last reports were read.
    """

    def __init__(self, observer: JobObserver, on_end: Callable[[Worker, WorkerEnd], None]) -> None:
        self.workers: dict[int, Worker] = {}
        """All that were ever started here, by number."""
        self.ends: list[WorkerEnd] = []
        """In order of time."""
        self._observer = observer
        self._on_end = on_end
        self._selector = selectors.DefaultSelector()
        self._pidfds: dict[int, int] = {}
        """Of the living, by number."""
        self._remains: dict[int, Remains] = {}
        """Of the dead that are not cleaned up yet, by number."""
        self._looked_s = 0.0
        self._is_log_cut = False
        """Whether it was said that a log has a gap."""
        self._reports: dict[type[Report], Report] = {}
        """The newest report of each kind from the main worker."""
        self._main: int | None = None

    # --- who is here ------------------------------------------------------------------------------

    @property
    def alive(self) -> list[Worker]:
        """Workers whose end was not seen yet."""
        return [worker for worker in self.workers.values() if worker.is_alive]

    def add(self, worker: Worker) -> None:
        """Watch a worker that was just started."""
        self.workers[worker.number] = worker
        if self._main is None:
            self._main = worker.number
        pidfd = os.pidfd_open(worker.process.pid)
        self._pidfds[worker.number] = pidfd
        self.watch(worker.pipes.report, lambda: self._read_reports(worker), order=0)
        self.watch(pidfd, lambda: self._see_end(worker, pidfd), order=2)
        self.watch(worker.pipes.stdout, lambda: self._read_output(worker, worker.pipes.stdout, "stdout"))
        self.watch(worker.pipes.stderr, lambda: self._read_output(worker, worker.pipes.stderr, "stderr"))

    # --- the loop ---------------------------------------------------------------------------------

    def watch(self, fd: int, act: Callable[[], object], order: int = 1) -> None:
        """Call `act` in each turn in which `fd` can be read; lower orders first."""
        self._selector.register(fd, selectors.EVENT_READ, (order, act))

    def unwatch(self, fd: int) -> None:
        """Forget a descriptor."""
        self._selector.unregister(fd)

    def turn(self, wait_s: float) -> None:
        """Wait for something at most so long, and act on all that is there."""
        events = self._selector.select(wait_s)
        # Reports first: a worker reports its failure before it writes its traceback.
        for key, _ in sorted(events, key=lambda event: event[0].data[0]):
            if self._selector.get_map().get(key.fd) is key:  # an earlier act may have been its last
                key.data[1]()
        now_s = time.monotonic()
        for worker in self.workers.values():
            if worker.hold.release_after(now_s) == 0.0 and worker.failure is None:
                self._show(worker, "stderr", worker.hold.release())
        self._clean_up(now_s)
        self._observer.tick(now_s)

    def drain(self, *, waits: bool) -> None:
        """Read what is left in the pipes, and end processes that workers left behind.

        Args:
            waits: Whether these have a moment to end by themselves.
        """
        until_s = time.monotonic() + LEFTOVER_WAIT_S
        while waits and leftovers(self._groups()) and time.monotonic() < until_s:
            self.turn(0.05)
        for worker in self.workers.values():
            worker.kill_group()
        until_s = time.monotonic() + OUTPUT_WAIT_S  # something that left the session may write on
        while self._selector.select(0) and time.monotonic() < until_s:
            self.turn(0)

    def kill_all(self, reason: str) -> None:
        """Kill all workers that still live, and say so."""
        alive = self.alive
        if alive:
            numbers = format_ids(tuple(sorted(worker.number for worker in alive)))
            self._observer.show_note(f"worker{'s' if len(alive) > 1 else ''} {numbers} killed: {reason}")
        for worker in alive:
            worker.kill_group()

    def close(self) -> None:
        """End every worker at once, with all that it started, and let go of everything."""
        for worker in self.workers.values():
            worker.kill_group()
        for worker in self.workers.values():
            worker.reap()
        self._selector.close()
        for fd in self._pidfds.values():
            os.close(fd)

    # --- the dead ---------------------------------------------------------------------------------

    def _groups(self) -> set[int]:
        """Process groups of all workers that were not reaped: their numbers are still theirs."""
        return {worker.process.pid for worker in self.workers.values() if not worker.is_reaped}

    def _clean_up(self, now_s: float) -> None:
        """End what dead workers left behind, and let go of them: a long job may have had thousands."""
        if not self._remains or now_s < self._looked_s + TICK_S:
            return
        self._looked_s = now_s
        dead = {number: self.workers[number] for number in self._remains}
        left = groups_with_leftovers({worker.process.pid for worker in dead.values()})
        for number, worker in dead.items():
            remains = self._remains[number]
            rite = next_rite(
                remains,
                is_output_open=any(fd in self._selector.get_map() for fd in worker.pipes.all),
                has_leftovers=worker.process.pid in left,
                now_s=now_s,
            )
            if rite == "kill":
                worker.kill_group()
                self._remains[number] = replace(remains, killed_s=now_s)
            elif rite == "reap":
                self._let_go(worker)

    def _let_go(self, worker: Worker) -> None:
        for fd in worker.pipes.all:
            if fd in self._selector.get_map():
                self._selector.unregister(fd)
        worker.kill_group()
        worker.reap()
        del self._remains[worker.number]

    # --- what arrives -----------------------------------------------------------------------------

    def _read_reports(self, worker: Worker) -> None:
        reports, complaints, at_end = worker.read_reports()
        for report in reports:
            self._keep(worker, report)
            self._observer.show_report(worker.number, report)
        for complaint in complaints:
            self._observer.show_note(complaint)
        if at_end:
            self._selector.unregister(worker.pipes.report)

    def _keep(self, worker: Worker, report: Report) -> None:
        if isinstance(report, _MAIN_REPORTS):
            self._main = worker.number
        if worker.number == self._main or (
            isinstance(report, FinishedReport) and FinishedReport not in self._reports
        ):
            self._reports[type(report)] = report

    def _read_output(self, worker: Worker, fd: int, stream: Stream) -> bool:
        """Read what is there, once; False if there is nothing."""
        try:
            data = os.read(fd, OUTPUT_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self._selector.unregister(fd)
            return False
        self._log(worker, data)
        if stream == "stderr":
            data = worker.hold.pass_through(
                data, now_s=time.monotonic(), has_failed=worker.failure is not None
            )
        self._show(worker, stream, data)
        return True

    def _log(self, worker: Worker, data: bytes) -> None:
        """Keep what it printed; a disk that is full ends no job."""
        problem = "the disk is full"
        try:
            if worker.log.write(data) == len(data):
                return
        except OSError as error:
            problem = reason_of(error)
        if not self._is_log_cut:
            self._is_log_cut = True
            self._observer.show_note(
                f"{worker.log_path} could not be written ({problem}); the job goes on, and its logs have gaps"
            )

    def _read_last_output(self, worker: Worker) -> None:
        """What an ended worker had printed: once another one is shown, it would be shown no more."""
        streams: tuple[tuple[int, Stream], ...] = (
            (worker.pipes.stdout, "stdout"),
            (worker.pipes.stderr, "stderr"),
        )
        for fd, stream in streams:
            for _ in range(LAST_READS):
                if fd not in self._selector.get_map() or not self._read_output(worker, fd, stream):
                    break

    def _show(self, worker: Worker, stream: Stream, data: bytes) -> None:
        if data and worker.number == self._main:
            self._observer.show_output(stream, data)

    def _see_end(self, worker: Worker, pidfd: int) -> None:
        if worker.pipes.report in self._selector.get_map():
            self._read_reports(worker)  # what it said last belongs to its end
        end = worker.see_end()
        if end is None:
            return
        self._read_last_output(worker)
        self._selector.unregister(pidfd)
        os.close(self._pidfds.pop(worker.number))
        self._remains[worker.number] = Remains(ended_s=time.monotonic())
        self.ends.append(end)
        self._on_end(worker, end)

    def hand_over(self) -> None:
        """After the end of the main worker, show the output of the one with the lowest number; not where its script came to
        its end, since what it printed the others print again."""
        main = None if self._main is None else self.workers.get(self._main)
        if main is not None and main.has_finished and main.end is not None and main.end.status == 0:
            return
        alive = sorted(worker.number for worker in self.alive)
        if alive and self._main not in alive:
            self._main = alive[0]

    # --- the end ----------------------------------------------------------------------------------

    def result(self, verdict: Verdict, *, was_interrupted: bool, seconds: float) -> JobResult:
        """How the job ended, by `verdict` and what the main worker told."""
        self._release_stderr(verdict)
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
            ends=tuple(sorted(self.ends, key=lambda end: end.worker)),
            steps=finished.steps if isinstance(finished, FinishedReport) else steps,
            digest=finished.digest if isinstance(finished, FinishedReport) else None,
            loss=step.loss if isinstance(step, StepReport) else None,
            checkpoint_step=checkpoint.step if isinstance(checkpoint, CheckpointReport) else None,
            seconds=seconds,
        )

    def _release_stderr(self, verdict: Verdict) -> None:
        """Show what was held back, unless it is the ending that the verdict shows."""
        told = {number for failure in verdict.failures for number in failure.workers}
        for worker in self.workers.values():
            if worker.number not in told and (worker.end is None or worker.end.status == 0):
                self._show(worker, "stderr", worker.hold.release())

    def _with_tail(self, failure: Failure) -> Failure:
        """The failure with the last words of its log where the worker itself said nothing of use."""
        if failure.sentence is not None and failure.kind in _OWN_ERRORS:
            return failure
        worker = self.workers[failure.workers[0]]
        tail = "\n".join(read_tail(failure.log, worker.log_start))
        return replace(failure, sentence=tail, is_tail=True) if tail else failure


_OWN_ERRORS = frozenset(
    name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)
)
"""Errors whose sentence says all; others are shown with their traceback."""
