"""A server of `holdtrue serve` for a test, and requests to it."""

import http.client
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from commands import HOLDTRUE, LIMIT_S, environment

MODEL = """
import os, signal
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.a, self.b = torch.nn.Linear(50, 130), torch.nn.Linear(130, 7)
    def forward(self, x):
        if (x[:, 0] == 666).any():
            os.kill(os.getpid(), signal.SIGKILL)
        if (x[:, 0] == 77).any():
            raise ValueError("no 77 here")
        return self.b(torch.tanh(self.a(x)))
"""

SLOW_MODEL = """
import time
import torch
class Net(torch.nn.Module):
    def forward(self, x):
        time.sleep(0.1)
        return x
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer."""

    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def values(self) -> Any:
        """Its JSON."""
        return json.loads(self.body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A server that runs."""

    port: int
    folder: Path
    name: str
    process: subprocess.Popen[bytes]

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Reply:
        """One request on a connection of its own."""
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT_S)
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        try:
            line.request(method, path, body=data, headers=headers or {})
            answer = line.getresponse()
            return Reply(
                status=answer.status,
                body=answer.read(),
                headers={k.lower(): v for k, v in answer.getheaders()},
            )
        finally:
            line.close()

    def predict(self, *instances: Any) -> Reply:
        """Ask the model."""
        return self.ask("POST", "/v1/predict", {"instances": [_plain(i) for i in instances]})

    def tokens(self) -> dict[str, str]:
        """The server's tokens."""
        found: dict[str, str] = json.loads(
            (self.folder / "xdg" / "holdtrue" / "jobs" / f"{self.name}.tokens").read_text()
        )
        return found

    def job(self) -> Any:
        """Workers and mapping."""
        return self.ask("GET", "/v1/job", headers={"Authorization": f"Bearer {self.tokens()['read']}"}).values

    def members(self) -> list[dict[str, Any]]:
        """Workers that take passes."""
        return [w for w in self.job()["workers"] if w["rank"] is not None]

    def until_members(self, count: int, *, without: int = 0) -> list[dict[str, Any]]:
        """The workers, once there are so many and no others, and no process `without`."""
        until_s = time.monotonic() + LIMIT_S
        while (
            len(found := self.members()) != count
            or len(self.job()["workers"]) != count
            or without in {w["pid"] for w in found}
        ):
            assert time.monotonic() < until_s, f"there are {found} and not {count} workers"
            time.sleep(0.05)
        return found

    def metric(self, line: str) -> float:
        """A number of /metrics; 0 where it is not there."""
        text = self.ask("GET", "/metrics").body.decode()
        return next(
            (float(row.rpartition(" ")[2]) for row in text.splitlines() if row.startswith(line + " ")), 0.0
        )


def _plain(instance: Any) -> Any:
    return instance.tolist() if isinstance(instance, np.ndarray) else instance


@contextmanager
def serving(folder: Path, *words: str, model: str = "net.py:Net", name: str = "net") -> Iterator[Served]:
    """A server, ended in order at the end; `folder` is its working folder."""
    env = environment({"XDG_RUNTIME_DIR": str(folder / "xdg")})
    with open(folder / "said.txt", "ab") as said:
        process = subprocess.Popen(
            [HOLDTRUE, "serve", model, "--name", name, "--device", "cpu", *words],
            cwd=folder,
            env=env,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    entry = folder / "xdg" / "holdtrue" / "jobs" / f"{name}.json"
    try:
        until_s = time.monotonic() + LIMIT_S
        while not entry.exists():
            is_well = process.poll() is None and time.monotonic() < until_s
            assert is_well, (folder / "said.txt").read_text()
            time.sleep(0.05)
        port = int(json.loads(entry.read_text())["url"].rpartition(":")[2])
        yield Served(port=port, folder=folder, name=name, process=process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT_S) == 0, (folder / "said.txt").read_text()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def make_folder(folder: Path, model: str = MODEL) -> Path:
    """A model and an example in a folder."""
    (folder / "net.py").write_text(model)
    np.save(folder / "x.npy", np.random.default_rng(0).normal(size=(60, 50)))
    return folder
