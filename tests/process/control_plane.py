"""A real controller process for tests, and what talks to it."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdtrue.elastic import ControlClient, ControllerAgent, HostLink

TOKENS = {scope: f"{scope}-token-of-this-test" for scope in ("read", "join", "admin")}
WAIT_S = 20.0


@dataclass(frozen=True, kw_only=True)
class Service:
    """A running controller."""

    url: str
    port: int
    pid: int
    log: Path

    def client(self, scope: str = "admin") -> ControlClient:
        """A client with the token of a scope."""
        return ControlClient(url=self.url, token=TOKENS[scope])

    def agent(self, worker: int, **changes: Any) -> ControllerAgent:
        """A worker's agent, not started yet."""
        values: dict[str, Any] = {"host": "127.0.0.1", "port": 20000 + worker} | changes
        return ControllerAgent(url=self.url, token=TOKENS["join"], worker=worker, **values)

    def host(self, name: str = "here", *, slots: int = 8, adds: int = 0) -> HostLink:
        """A host's link, not started yet."""
        return HostLink(
            url=self.url, token=TOKENS["join"], name=name, address="127.0.0.1", slots=slots, adds=adds
        )


@contextmanager
def listening() -> Iterator[socket.socket]:
    """A socket that outlives controllers, as the launcher's does."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        yield listener


@contextmanager
def serving(folder: Path, listener: socket.socket, settings: Mapping[str, Any]) -> Iterator[Service]:
    """A controller on an inherited socket; killed at the end."""
    job, tokens, log = folder / "job.json", folder / "tokens.json", folder / "controller.log"
    job.write_text(json.dumps({"name": "test", "workers": 1, "least": 1} | dict(settings)))
    tokens.unlink(missing_ok=True)
    with os.fdopen(os.open(tokens, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(TOKENS, file)
    command = [sys.executable, "-m", "holdtrue.elastic", "--job", str(job), "--tokens", str(tokens)]
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*command, "--fd", str(listener.fileno())],
            pass_fds=[listener.fileno()],
            stdout=output,
            stderr=output,
        )
    port = listener.getsockname()[1]
    try:
        yield Service(url=f"http://127.0.0.1:{port}", port=port, pid=process.pid, log=log)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait(WAIT_S)
