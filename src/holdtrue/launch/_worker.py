"""One worker process: starting it, its pipes, its end."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, final

from holdtrue.errors import GroupError
from holdtrue.wire import (
    FailedReport,
    JoinedReport,
    Report,
    WorkerEnvironment,
    decode_report,
    encode_settings,
)

from ._job import JobSpec, WorkerEnd

_TIE = Path(__file__).with_name("_tie_to_parent.py")
_MAX_LINE_BYTES = 1 << 20


@final
class Worker:
    """A started worker as the launcher sees it; mutable, owned by the launcher's loop."""

    def __init__(self, rank: int, process: subprocess.Popen[bytes], report_fd: int, log: IO[bytes]) -> None:
        self.rank = rank
        self.process = process
        self.report_fd = report_fd
        self.log = log
        self.log_path = Path(log.name)
        self.log_start = os.fstat(log.fileno()).st_size
        self.has_joined = False
        self.failure: FailedReport | None = None
        self.was_signalled = False
        self.end: WorkerEnd | None = None
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
                complaints.append(f"worker {self.rank}: {error}")
                continue
            if report is not None:
                self._note(report)
                reports.append(report)
        return reports, complaints, at_end

    def _read_all(self) -> tuple[bytes, bool]:
        pieces: list[bytes] = []
        while True:
            try:
                pieces.append(os.read(self.report_fd, 65536))
            except BlockingIOError:
                return b"".join(pieces), False
            if not pieces[-1]:
                return b"".join(pieces), True

    def _note(self, report: Report) -> None:
        if isinstance(report, JoinedReport):
            self.has_joined = True
        elif isinstance(report, FailedReport) and self.failure is None:
            self.failure = report

    def see_end(self) -> WorkerEnd | None:
        """Its end, if it ended. The process stays unreaped, so that its group keeps its number."""
        if self.end is None:
            found = os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if found is not None:
                status = found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
                self.end = WorkerEnd(
                    rank=self.rank,
                    status=status,
                    joined=self.has_joined,
                    kind=self.failure.kind if self.failure else None,
                    sentence=self.failure.sentence if self.failure else None,
                    where=self.failure.where if self.failure else None,
                    was_stopped=self.was_signalled,
                    log=self.log_path,
                )
        return self.end

    def terminate(self) -> None:
        """Ask it to stop at the next step boundary. Not its group: its loaders would die under it."""
        if self.is_alive:
            self.was_signalled = True
            os.kill(self.process.pid, signal.SIGTERM)

    def kill_group(self) -> None:
        """End it and every process that it started, at once. Only before `reap`."""
        self.was_signalled = self.was_signalled or self.is_alive
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def reap(self) -> None:
        """Forget the process; its number may be used again from now on."""
        self.process.wait()
        for stream in (self.process.stdout, self.process.stderr, self.log):
            if stream is not None:
                stream.close()
        os.close(self.report_fd)


def start_worker(
    spec: JobSpec,
    rank: int,
    device: str,
    *,
    store: socket.socket,
    life_fd: int,
    base_env: Mapping[str, str],
) -> Worker:
    """Start worker `rank` in a session of its own.

    Args:
        spec: The job.
        rank: Index of the worker.
        device: Its device.
        store: The bound listening socket; rank 0 inherits it.
        life_fd: Read end of the pipe that the launcher holds open.
        base_env: The launcher's environment.
    """
    report_read, report_write = os.pipe()
    os.set_blocking(report_read, False)
    environment = WorkerEnvironment(
        worker=rank,
        rank=rank,
        world_size=spec.workers,
        store_host=store.getsockname()[0],
        store_port=store.getsockname()[1],
        store_fd=store.fileno() if rank == 0 else None,
        report_fd=report_write,
        life_fd=life_fd,
        job=spec.name,
        device=device,
        mapping=spec.mapping,
    )
    log = (spec.run_dir / "logs" / f"worker-{rank}.log").open("ab", buffering=0)
    # The main worker's output is also shown, so it passes through the launcher.
    output = subprocess.PIPE if rank == 0 else log
    program = ["-u", *(["-m"] if spec.is_module else []), spec.script, *spec.arguments]
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_TIE), str(os.getpid()), sys.executable, *program],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=worker_variables(spec, environment, base_env),
            pass_fds=[fd for fd in (environment.store_fd, report_write, life_fd) if fd is not None],
            start_new_session=True,
        )
    except BaseException:
        os.close(report_read)
        log.close()
        raise
    finally:
        os.close(report_write)
    return Worker(rank, process, report_read, log)


def worker_variables(
    spec: JobSpec, environment: WorkerEnvironment, base_env: Mapping[str, str]
) -> dict[str, str]:
    """All environment variables of a worker. Pure.

    Threads, hashing and workspaces are pinned since bits depend on them, and gloo is kept on the
    loopback interface.
    """
    pinned = {
        "OMP_NUM_THREADS": str(spec.threads),
        "MKL_NUM_THREADS": str(spec.threads),
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "PYTHONHASHSEED": "0",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    inherited = {name: value for name, value in base_env.items() if not name.startswith("HOLDTRUE_WORKER_")}
    return inherited | pinned | encode_settings(spec.settings) | environment.to_env()
