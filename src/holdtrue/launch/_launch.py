"""Running a job of a fixed group: start the workers, listen, stop them in time, tell how it ended."""

import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import final

from holdtrue.errors import UsageError
from holdtrue.wire import WorkerEnvironment

from ._crew import TICK_S, Crew
from ._devices import assign_devices, count_cuda_devices, torch_has_cuda
from ._job import JobResult, JobSpec, WorkerEnd
from ._judge import is_failed, judge_ends
from ._observer import JobObserver
from ._signals import catch_interrupts
from ._stopping import StopState, count_interrupts, next_stop
from ._watchman import Guard
from ._worker import Worker, start_worker


def launch_job(spec: JobSpec, observer: JobObserver) -> JobResult:
    """Run a job of a fixed group of workers on this machine to its end.

    Args:
        spec: What to start.
        observer: Who is told what happens; called in this thread.

    Raises:
        UsageError: there is no such script, or no such device, or the run directory cannot be made.

    Guarantee:
        No process of the job is left when this returns or raises, nor 32 s after this process was killed. The
        first failure of a worker ends the others within 6 s.

    Blocks:
        Until the job ends. One SIGINT or SIGTERM (main thread) asks the workers to stop at the step
        boundary, for at most `spec.interrupt_wait_s`; the second kills them.
    """
    check_start(spec)
    devices = spec.devices or assign_devices(spec.device, spec.workers, cuda_devices_of(spec))
    make_run_dir(spec)
    started_s = time.monotonic()
    with ExitStack() as stack:
        interrupt_fd = stack.enter_context(catch_interrupts())
        job = _FixedJob(spec, observer)
        life_fd = stack.enter_context(life_pipe())
        guard = Guard(wait_s=spec.orphan_wait_s)
        stack.callback(guard.close)
        stack.callback(job.crew.close)
        job.start(devices, life_fd, guard)
        job.run(interrupt_fd)
        return job.result(time.monotonic() - started_s)


def check_start(spec: JobSpec) -> None:
    """Refuse what cannot be started at all.

    Raises:
        UsageError: this is not Linux, or there is no such script.
    """
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


def make_run_dir(spec: JobSpec) -> None:
    """Make the folder of the job's records, with one for its logs.

    Raises:
        UsageError: it cannot be made.
    """
    try:
        (spec.run_dir / "logs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"the run directory {spec.run_dir} cannot be made ({error.strerror}); records, checkpoints and logs of a run are "
            f"in a folder of its own. Give another --run-dir."
        ) from error


def cuda_devices_of(spec: JobSpec) -> int:
    """CUDA devices that the job may use on this machine."""
    return count_cuda_devices(os.environ) if spec.device != "cpu" and torch_has_cuda() else 0


@contextmanager
def life_pipe() -> Iterator[int]:
    """The read end of a pipe whose write end lives as long as this process, or until it is left."""
    read, write = os.pipe()
    try:
        yield read
    finally:
        os.close(read)
        os.close(write)


@final
class _FixedJob:
    """The launcher's loop around a fixed group; owner of all that changes while the job runs."""

    def __init__(self, spec: JobSpec, observer: JobObserver) -> None:
        self._spec = spec
        self._observer = observer
        self.crew = Crew(observer, self._see_end)
        self._stop = StopState()

    def start(self, devices: tuple[str, ...], life_fd: int, guard: Guard) -> None:
        """Start all workers."""
        # Bound here, to loopback alone: a store that binds by itself listens on every interface.
        with socket.create_server(("127.0.0.1", 0), backlog=256) as store:
            host, port = store.getsockname()
            for rank, device in enumerate(devices):
                environment = WorkerEnvironment(
                    worker=rank,
                    rank=rank,
                    world_size=self._spec.workers,
                    store_host=host,
                    store_port=port,
                    store_fd=store.fileno() if rank == 0 else None,
                    life_fd=life_fd,
                    job=self._spec.name,
                    device=device,
                    mapping=self._spec.mapping,
                )
                log = self._spec.run_dir / "logs" / f"worker-{rank}.log"
                self.crew.add(
                    start_worker(self._spec, environment, log=log, base_env=os.environ, guard=guard)
                )

    def run(self, interrupt_fd: int) -> None:
        """Until every worker ended and its output was read."""
        self.crew.watch(interrupt_fd, lambda: self._read_interrupts(interrupt_fd))
        while self.crew.alive:
            self.crew.turn(self._wait_s())
            self._stop_in_time(time.monotonic())
        self.crew.drain(waits=self._stop.killed_at_s is None)

    def result(self, seconds: float) -> JobResult:
        """How the job ended; call it after `run`."""
        was_interrupted = self._stop.interrupts > 0
        verdict = judge_ends(self.crew.ends, script=self._spec.title, was_interrupted=was_interrupted)
        return self.crew.result(verdict, was_interrupted=was_interrupted, seconds=seconds)

    def _wait_s(self) -> float:
        action = next_stop(self._stop, interrupt_wait_s=self._spec.interrupt_wait_s)
        until_stop_s = action.at_s - time.monotonic() if action else TICK_S
        return max(0.0, min(TICK_S, until_stop_s))

    def _stop_in_time(self, now_s: float) -> None:
        action = next_stop(self._stop, interrupt_wait_s=self._spec.interrupt_wait_s)
        if action is None or action.at_s > now_s:
            return
        if action.way == "terminate":
            self._stop = replace(self._stop, terminated_at_s=now_s)
            for worker in self.crew.alive:
                worker.terminate()
        else:
            self._stop = replace(self._stop, killed_at_s=now_s)
            self.crew.kill_all(action.reason)

    def _read_interrupts(self, fd: int) -> None:
        before = self._stop.interrupts
        self._stop = count_interrupts(self._stop, len(os.read(fd, 64)), time.monotonic())
        if before == 0:
            self._observer.show_note(INTERRUPT_NOTE)

    def _see_end(self, worker: Worker, end: WorkerEnd) -> None:
        if self._stop.failed_at_s is None and is_failed(end, was_interrupted=self._stop.interrupts > 0):
            self._stop = replace(self._stop, failed_at_s=time.monotonic())


INTERRUPT_NOTE = "stopping at the next boundary; what is done is kept; Ctrl-C again kills the workers"
