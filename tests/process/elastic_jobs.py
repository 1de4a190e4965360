"""A `holdtrue run` in a process of its own, and what a test asks of it while it runs."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from commands import HOLDTRUE, Ended, environment, holdtrue

from holdtrue.elastic import ControlClient, read_tokens
from holdtrue.launch import JobEntry, find_job, jobs_folder

WAIT_S = 120.0
LOOK_S = 0.02


@dataclass
class ElasticJob:
    """A running job of the test's own, found by its name as a user finds it."""

    folder: Path
    process: subprocess.Popen[str]
    name: str
    hosts: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def entry(self) -> JobEntry:
        """What the user's folder of jobs says of it."""
        return find_job(jobs_folder(os.environ), self.name)[0]

    def client(self, scope: str = "admin") -> ControlClient:
        """Its controller."""
        return _client_of(self.entry, scope)

    def facts(self) -> dict[str, Any]:
        """What the controller says now; empty while it cannot be asked."""
        return facts_of(self.name)

    def wait_until(self, is_so: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        """The controller's facts once they are so."""
        until_s = time.monotonic() + WAIT_S
        while time.monotonic() < until_s:
            facts = self.facts()
            if facts and is_so(facts):
                return facts
            assert self.process.poll() is None, f"the job ended before {what}: {self.process.communicate()}"
            time.sleep(LOOK_S)
        raise AssertionError(f"{what} did not come in {WAIT_S} s; the job is {self.facts()}")

    def wait_for_workers(self, count: int, *, step: int = 0) -> dict[str, Any]:
        """The facts once so many members stand in the present view, `step` is reached, and nothing is under way."""
        return self.wait_until(
            lambda facts: stands(facts, count, step=step), f"{count} workers at step {step}"
        )

    def pids(self) -> dict[int, int]:
        """Process id of each member, by number."""
        return {member["worker"]: member["pid"] for member in members_of(self.facts())}

    def controller_pid(self) -> int:
        """Process id of its controller."""
        found = [
            child.pid
            for child in psutil.Process(self.process.pid).children()
            if "holdtrue.elastic" in " ".join(child.cmdline())
        ]
        assert len(found) == 1, found
        return found[0]

    def command(self, *words: str) -> Ended:
        """`holdtrue WORDS` beside the job."""
        return holdtrue(*words, cwd=self.folder)

    def join(self, *options: str) -> subprocess.Popen[str]:
        """`holdtrue worker --join` in a process of its own."""
        entry = self.entry
        command = [HOLDTRUE, "worker", "--join", entry.url, "--token-file", entry.join_file, *options]
        self.hosts.append(_begin(command, self.folder))
        return self.hosts[-1]

    def end(self) -> Ended:
        """Its status and words, once it has ended."""
        started_s = time.monotonic()
        out, err = self.process.communicate(timeout=WAIT_S)
        return Ended(status=self.process.returncode, out=out, err=err, seconds=time.monotonic() - started_s)

    def close(self) -> None:
        """End everything."""
        for process in (self.process, *self.hosts):
            process.kill()
            process.communicate(timeout=WAIT_S)


def _client_of(entry: JobEntry, scope: str) -> ControlClient:
    return ControlClient(url=entry.url, token=read_tokens(Path(entry.token_file)).by_scope[scope])


def facts_of(name: str) -> dict[str, Any]:
    """What the controller of a job says now; empty while it cannot be asked."""
    try:
        return _client_of(find_job(jobs_folder(os.environ), name)[0], "read").job()
    except Exception:  # noqa: BLE001 - it starts, or was killed by the test
        return {}


def sentences_of(name: str) -> list[str]:
    """What the controller of a job says became of its membership, oldest first."""
    events = _client_of(find_job(jobs_folder(os.environ), name)[0], "read").events(limit=1000)["events"]
    return [event["sentence"] for event in events]


def stands(facts: dict[str, Any], count: int, *, step: int) -> bool:
    """Whether so many members stand in the present view, `step` is reached, and nothing is under way."""
    members = members_of(facts)
    return (
        len(members) == count == facts["target"]
        and all(member["generation"] == facts["generation"] for member in members)
        and step_of(facts) >= step
    )


def step_of(facts: dict[str, Any]) -> int:
    """The step that the run last spoke of."""
    return max(facts["step"], facts["progress"].get("step") or 0)


def members_of(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Workers with a rank, by rank."""
    ranked = [worker for worker in facts.get("workers", []) if worker["rank"] is not None]
    return sorted(ranked, key=lambda worker: worker["rank"])


def start_job(
    folder: Path, script: str, *options: str, name: str, arguments: tuple[str, ...] = ()
) -> ElasticJob:
    """Start `holdtrue run` in a process of its own."""
    command = [
        HOLDTRUE,
        "run",
        "--device",
        "cpu",
        "--name",
        name,
        "--run-dir",
        "run",
        *options,
        script,
        *arguments,
    ]
    return ElasticJob(folder=folder, process=_begin(command, folder), name=name)


def _begin(command: list[str], folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def kill_9(pid: int) -> None:
    """SIGKILL."""
    os.kill(pid, signal.SIGKILL)


def read_events(folder: Path) -> list[dict[str, Any]]:
    """Lines of the run's events.jsonl."""
    return [json.loads(line) for line in (folder / "run" / "events.jsonl").read_text().splitlines()]
