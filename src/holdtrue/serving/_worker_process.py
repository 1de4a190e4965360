"""One worker process and the line to it."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from holdtrue.errors import GroupError

from ._frames import Frame, pack_frame, read_frame
from ._settings import ServeSettings


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """What a worker said when it had tried its model."""

    values: dict[str, Any]  # Any: JSON values: spec, size, positions, sentence, device, seconds


class WorkerRefusedError(GroupError):
    """A worker cannot serve the model, and said why."""

    def __init__(self, sentence: str, *, is_wrong_use: bool) -> None:
        """Keep whether the user can mend it."""
        super().__init__(sentence)
        self.is_wrong_use = is_wrong_use


@final
class WorkerProcess:
    """A worker's process. Mutable, owned by the pool."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Take a started process over."""
        self.process, self._reader, self._writer = process, reader, writer

    @property
    def pid(self) -> int:
        """Process id."""
        return self.process.pid

    async def hello(self) -> Hello:
        """The worker's first words.

        Raises:
            WorkerRefusedError: it cannot serve the model.
            asyncio.IncompleteReadError: it ended.
        """
        values = dict((await read_frame(self._reader)).head)
        if "refused" in values:
            raise WorkerRefusedError(str(values["refused"]), is_wrong_use=bool(values.get("is_wrong_use")))
        return Hello(values=values)

    async def next_answer(self) -> Frame:
        """The next pass that it computed.

        Raises:
            asyncio.IncompleteReadError: it ended.
        """
        return await read_frame(self._reader)

    def send(self, frame: Frame) -> None:
        """Send a pass; at most two are under way, so nothing piles up. A broken line is noticed by the reader."""
        if not self._writer.is_closing():
            self._writer.writelines(pack_frame(frame))

    def kill(self) -> None:
        """SIGKILL: also one that is stopped ends."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """Close the line: the worker ends after its pass."""
        self._writer.close()

    async def ended(self, timeout_s: float) -> int:
        """The exit status; a process that does not end in time is killed."""
        self.close()
        try:
            return await asyncio.wait_for(self.process.wait(), timeout_s)
        except TimeoutError:
            self.kill()
            return await self.process.wait()


async def start_worker(settings: ServeSettings, *, log: Path, device: str) -> WorkerProcess:
    """Start a worker; its output goes to `log`."""
    ours, theirs = socket.socketpair()
    options = {
        "weights": settings.weights,
        "example": settings.example,
        "tokens": settings.tokens,
        "pass_size": settings.pass_size,
        "numerics": settings.numerics,
        "threads": settings.threads,
        "device": device,
        "audit_every": settings.audit_every,
    }
    words = ["-m", "holdtrue.inference", "serve-worker", settings.model]
    words += ["--fd", str(theirs.fileno()), "--options", json.dumps(options)]
    threads = {name: str(settings.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    try:
        with open(log, "ab") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *words,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(theirs.fileno(),),
                env=dict(os.environ) | threads,
                start_new_session=True,  # Ctrl-C is for the server, which ends its workers in order
            )
    finally:
        theirs.close()
    reader, writer = await asyncio.open_connection(sock=ours, limit=2**20)
    return WorkerProcess(process, reader, writer)
