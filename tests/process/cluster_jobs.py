"""A scheduler in a process of its own, found and asked as users do, with jobs that do what their names say."""

import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
from commands import HOLDTRUE, Ended, call, write_script

from holdtrue.record import read_run
from holdtrue.scheduler import ClusterClient

BODY = """
run = ht.init(virtual_nodes=4, global_batch_size=8)
model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Dropout(0.2), torch.nn.Linear(8, 1))
run.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
mark = pathlib.Path(sys.argv[1])
kept = []
for step in run.steps(examples(240), epochs=int(sys.argv[2])):
    take_step(step, model)
    if step.index == 3 and "crash" in sys.argv[1] and not mark.exists():
        mark.touch()
        os._exit(5)
    if "greedy" in sys.argv[1]:
        kept.append(torch.ones(5_000_000))
    if "endless" in sys.argv[1] or mark.exists():
        time.sleep(0.05)
run.print(run.digest())
"""
WAIT_S = 240.0
KILL_WAIT_S = 30.0


class LiveCluster:
    """A scheduler and its folder."""

    def __init__(self, folder: Path, env: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.env = {"HOLDTRUE_CLUSTER": str(folder / "cluster")} | dict(env or {})
        write_script(folder, BODY)

    def command(self, *words: str) -> Ended:
        """`holdtrue WORDS` in the cluster's folder."""
        return call([HOLDTRUE, *words], cwd=self.folder, env=self.env)

    def start(self, *words: str) -> None:
        ended = self.command("cluster", "start", *words)
        assert ended.status == 0, ended.text

    def job(self, name: str, *, epochs: int = 4, mark: str = "none", **keys: object) -> str:
        """Write a job's file."""
        lines = [
            f'name = "{name}"',
            'script = "train.py"',
            f'arguments = ["{mark}", "{epochs}"]',
            "digest_every = 1",
        ]
        lines += [f"{key} = {value!r}" for key, value in keys.items()]
        (self.folder / f"{name}.toml").write_text("\n".join(lines) + "\n")
        return f"{name}.toml"

    @property
    def client(self) -> ClusterClient:
        return ClusterClient(self.folder / "cluster")

    def jobs(self) -> dict[str, dict[str, Any]]:
        return {job["name"]: job for job in self.client.queue()["jobs"]}

    def wait_until(
        self, is_so: Callable[[dict[str, dict[str, Any]]], bool], what: str
    ) -> dict[str, dict[str, Any]]:
        until_s = time.monotonic() + WAIT_S
        while time.monotonic() < until_s:
            jobs = self.jobs()
            if is_so(jobs):
                return jobs
            time.sleep(0.05)
        raise AssertionError(f"{what} did not come in {WAIT_S} s: {self.jobs()} {self.log()}")

    def log(self) -> str:
        return (self.folder / "cluster" / "scheduler.log").read_text()

    def kill_scheduler(self) -> None:
        scheduler = psutil.Process(self.client.address.pid)
        scheduler.send_signal(signal.SIGKILL)
        # init, or whoever started it, takes its status
        until_s = time.monotonic() + KILL_WAIT_S
        while scheduler.is_running() and scheduler.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < until_s, f"the killed scheduler lives after {KILL_WAIT_S} s"
            time.sleep(0.01)

    def processes(self) -> list[psutil.Process]:
        """All that runs with a path of this cluster in its words."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            if any(str(self.folder) in word for word in process.info["cmdline"] or ()):
                found.append(process)
        return found


def digests_of(run_dir: Path) -> dict[int, str]:
    """Digest before the first step, and after each."""
    return {step: d.digest for step, d in read_run(run_dir).digests.items()}


def over(*names: str) -> Callable[[dict[str, dict[str, Any]]], bool]:
    return lambda jobs: all(jobs[name]["ended_s"] is not None for name in names)
