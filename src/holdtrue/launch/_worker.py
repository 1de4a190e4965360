"""One worker process: starting it, its pipes, its end."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, final

from holdtrue.errors import GroupError
from holdtrue.wire import (
    FailedReport,
    FinishedReport,
    InterruptedReport,
    JoinedReport,
    Report,
    WorkerEnvironment,
    decode_report,
    encode_settings,
)

from ._at import At, AtPage
from ._job import JobSpec, WorkerEnd
from ._leases import LEASES_VARIABLE, Lease
from ._output import StderrHold
from ._part_memory import DEVICE_MEMORY_VARIABLE
from ._watchman import Guard

TOKEN_VARIABLE = "HOLDTRUE_TOKEN"
"""Where `holdtrue worker` may have its token; a script has no need of it."""
_HOSTS_OWN = (TOKEN_VARIABLE, LEASES_VARIABLE, DEVICE_MEMORY_VARIABLE)
"""Variables of the host that a script has no need of."""
_MAX_LINE_BYTES = 1 << 20


@final
class Worker:
    """A started worker as its host sees it; mutable, owned by the host's loop."""

    def __init__(
        self,
        number: int,
        process: subprocess.Popen[bytes],
        *,
        pipes: "Pipes",
        log: IO[bytes],
        at: AtPage | None,
        guard: Guard,
    ) -> None:
        self.number = number
        self.process = process
        self.pipes = pipes
        self.log = log
        self.log_path = Path(log.name)
        self.log_start = os.fstat(log.fileno()).st_size
        self.at = at
        self.hold = StderrHold()
        self.has_joined = False
        self.has_finished = False
        self.was_interrupted = False
        self.failure: FailedReport | None = None
        self.condemned = ""
        """Why its host ended it for what it did, as a sentence: that is its own failure, and no death."""
        self.was_signalled = False
        self.end: WorkerEnd | None = None
        self.is_reaped = False
        """Whether its process is forgotten, and its number may be another's."""
        self._guard = guard
        self._partial = b""

    @property
    def is_alive(self) -> bool:
        """Whether its end has not been seen yet."""
        return self.end is None

    def read_reports(self) -> tuple[list[Report], list[str], bool]:
        """Reports that arrived, complaints about lines that are none, whether the pipe is at its end."""
        data, at_end = self._read_all()
        *lines, self._partial = (self._partial + data).split(b"\n")
        if len(self._partial) > _MAX_LINE_BYTES:
            lines, self._partial = [*lines, self._partial], b""
        reports: list[Report] = []
        complaints: list[str] = []
        for line in lines:
            try:
                report = decode_report(line)
            except GroupError as error:
                complaints.append(f"worker {self.number}: {error}")
                continue
            if report is not None:
                self._note(report)
                reports.append(report)
        return reports, complaints, at_end

    def _read_all(self) -> tuple[bytes, bool]:
        pieces: list[bytes] = []
        while True:
            try:
                pieces.append(os.read(self.pipes.report, 65536))
            except BlockingIOError:
                return b"".join(pieces), False
            if not pieces[-1]:
                return b"".join(pieces), True

    def _note(self, report: Report) -> None:
        if isinstance(report, JoinedReport):
            self.has_joined = True
        elif isinstance(report, FinishedReport):
            self.has_finished = True
        elif isinstance(report, InterruptedReport):
            self.was_interrupted = True
        elif isinstance(report, FailedReport) and self.failure is None:
            self.failure = report

    def see_end(self) -> WorkerEnd | None:
        """Its end, if it ended. The process stays unreaped, so that its group keeps its number."""
        if self.end is None:
            found = os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if found is not None:
                status = found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
                self.end = WorkerEnd(
                    worker=self.number,
                    status=status,
                    joined=self.has_joined,
                    finished=self.has_finished,
                    interrupted=self.was_interrupted,
                    kind=self.failure.kind if self.failure else None,
                    sentence=self.failure.sentence if self.failure else None,
                    where=self.failure.where if self.failure else None,
                    was_stopped=self.was_signalled,
                    log=self.log_path,
                )
                if self.condemned and status < 0:
                    self.end = replace(
                        self.end, status=1, kind="UsageError", sentence=self.condemned, was_stopped=False
                    )
        return self.end

    def condemn(self, sentence: str) -> None:
        """End it, and every process that it started, at once, for what it did: a failure of its job with that sentence."""
        self.condemned = self.condemned or sentence
        self.kill_group()

    def read_at(self) -> At | None:
        """The pass in which it is, or was when it died, if it says so."""
        return self.at.read() if self.at is not None else None

    def terminate(self, *, ends_all: bool = False) -> None:
        """Ask it to stop at the next step boundary. Not its group: its loaders would die under it.

        Args:
            ends_all: The whole job is to end there, and this worker must tell the others: an elastic worker takes
                SIGTERM for its own leave, and SIGINT for this.
        """
        if self.is_alive:
            self.was_signalled = True
            os.kill(self.process.pid, signal.SIGINT if ends_all and self.has_joined else signal.SIGTERM)

    def kill_group(self) -> None:
        """End it and every process that it started, at once; nothing after `reap`."""
        if self.is_reaped:
            return
        self.was_signalled = self.was_signalled or self.is_alive
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def reap(self) -> None:
        """Forget the process, and close what was kept for it; its number may be used again from now on."""
        if self.is_reaped:
            return
        self.is_reaped = True
        self._guard.forget(self.process.pid)
        self.process.wait()
        self.log.close()
        self.pipes.close()
        if self.at is not None:
            self.at.close()


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Pipes:
    """The host's ends of a worker's pipes, non-blocking."""

    report: int
    stdout: int
    stderr: int

    @property
    def all(self) -> tuple[int, int, int]:
        """All of them."""
        return self.report, self.stdout, self.stderr

    def close(self) -> None:
        """Close all of them."""
        for fd in self.all:
            os.close(fd)


def start_worker(
    spec: JobSpec,
    environment: WorkerEnvironment,
    *,
    log: Path,
    base_env: Mapping[str, str],
    guard: Guard,
    at: AtPage | None = None,
    lease: Lease | None = None,
) -> Worker:
    """Start a worker in a session of its own.

    Args:
        spec: The job.
        environment: What the worker is told; descriptors in it are inherited. Pipes and log are added here.
        log: The file to which its output is appended.
        base_env: The launcher's environment.
        guard: Who sees to the worker's end if this process dies.
        at: The page in which the worker says where it is; the worker's end gives it back.
        lease: The device that it alone may drive; the worker holds it from now on, and the caller closes it.
    """
    with ExitStack() as undo:
        file = undo.enter_context(log.open("ab", buffering=0))
        reads, writes = zip(*(_pipe(undo) for _ in range(3)), strict=True)
        pipes = Pipes(report=reads[0], stdout=reads[1], stderr=reads[2])
        environment = replace(
            environment,
            report_fd=writes[0],
            log_file=str(log.absolute()),
            output_fds=(pipes.stdout, pipes.stderr),
            at_fd=at.fd if at is not None else None,
        )
        process = subprocess.Popen(
            [sys.executable, "-u", *(["-m"] if spec.is_module else []), spec.script, *spec.arguments],
            stdin=subprocess.DEVNULL,
            stdout=writes[1],
            stderr=writes[2],
            env=worker_variables(spec, environment, base_env) | (lease.variables if lease else {}),
            pass_fds=(*_inherited(environment), *([lease.fd] if lease else [])),
            start_new_session=True,
        )
        guard.watch(process.pid)
        undo.pop_all()
    for fd in writes:
        os.close(fd)
    return Worker(environment.worker, process, pipes=pipes, log=file, at=at, guard=guard)


def _pipe(undo: ExitStack) -> tuple[int, int]:
    read, write = os.pipe()
    undo.callback(os.close, read)
    undo.callback(os.close, write)
    os.set_blocking(read, False)
    return read, write


def _inherited(environment: WorkerEnvironment) -> tuple[int, ...]:
    single = (environment.store_fd, environment.report_fd, environment.life_fd, environment.at_fd)
    return (*(fd for fd in single if fd is not None), *environment.output_fds)


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own alone.

    >>> is_loopback("127.0.0.1"), is_loopback("10.1.0.1")
    (True, False)
    """
    return host == "localhost" or host == "::1" or host.startswith("127.")


def worker_variables(
    spec: JobSpec, environment: WorkerEnvironment, base_env: Mapping[str, str]
) -> dict[str, str]:
    """All environment variables of a worker. Pure.

    Threads, hashing and workspaces are pinned since bits depend on them, and gloo is kept on the
    loopback interface where the workers are.
    """
    pinned = {
        "OMP_NUM_THREADS": str(spec.threads),
        "MKL_NUM_THREADS": str(spec.threads),
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "PYTHONHASHSEED": "0",
        "TORCH_CPP_LOG_LEVEL": "ERROR",  # that a store died with its worker is no news
    }
    if is_loopback(environment.store_host):
        pinned["GLOO_SOCKET_IFNAME"] = "lo"
    inherited = {
        name: value
        for name, value in base_env.items()
        if not name.startswith("HOLDTRUE_WORKER_") and name not in _HOSTS_OWN
    }
    own = dict(spec.variables[environment.worker]) if environment.worker < len(spec.variables) else {}
    return inherited | pinned | own | encode_settings(spec.settings) | environment.to_env()
