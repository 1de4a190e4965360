"""How long training stands still when devices join, leave and die, beside torchrun's restart from a checkpoint.

One round, in this order: of a holdtrue job of 120 MB of state with 2 workers one is killed, the other grows to 2 again and
shrinks to 1; of the same with a small model one is killed; then `torchrun --nnodes=1:2` trains the big model on two devices
(two agents with one worker each), and one worker is killed just after a checkpoint was written, so that it repeats no step.
Times come from the training script itself, on the machine's monotonic clock:

    pause          a worker that stays: from the end of a step to the start of the next
    kill to step   from SIGKILL to the end of the next step that the others complete after the loss
    kill to start  torchrun alone: to the start of the next step, which is held against the pauses

    python benchmarks/elastic.py --out benchmarks/raw/elastic.json
"""

import argparse
import contextlib
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import psutil

from common import describe, spread, write_json
from elastic_train import state_bytes
from holdtrue.elastic import ControlClient, read_tokens
from holdtrue.launch import find_job, jobs_folder

SCRIPT = str(Path(__file__).with_name("elastic_train.py"))
BIN = Path(sys.executable).parent
STEPS = 10
"""Undisturbed steps before each change."""
WAIT_S, LOOK_S = 40.0, 0.02
Stamp = tuple[str, int, float]
T = TypeVar("T")


def wait_for(find: Callable[[], T | None], what: str) -> T:
    """What `find` finds, at most `WAIT_S` later."""
    until_s = time.monotonic() + WAIT_S
    while time.monotonic() < until_s:
        found = find()
        if found:
            return found
        time.sleep(LOOK_S)
    raise SystemExit(f"{what} did not come within {WAIT_S:.0f} s; see the job's output above.")


def read_stamps(folder: Path) -> dict[int, list[Stamp]]:
    """What every process has written, by process id."""
    found = {}
    for path in folder.glob("stamps-*"):
        lines = [line.split() for line in path.read_text().split("\n")[:-1]]
        found[int(path.name.removeprefix("stamps-"))] = [
            (kind, int(step), float(at)) for kind, step, at in lines
        ]
    return found


def last_step(stamps: list[Stamp]) -> int:
    """Newest step that ended; -1 before the first."""
    return max((step for kind, step, _ in stamps if kind == "end"), default=-1)


def step_times(stamps: list[Stamp], last: int) -> list[float]:
    """From start to start of the undisturbed steps that ended before step `last` did."""
    starts = {step: at for kind, step, at in stamps if kind == "start"}
    chosen = range(last - STEPS + 3, last)
    return [starts[i + 1] - starts[i] for i in chosen if i in starts and i + 1 in starts]


@contextmanager
def started(command: list[str], folder: Path, env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A job in a session of its own; it and all that it started end with the block."""
    with (folder / "output").open("ab") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=env, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield process
    except BaseException:
        sys.stderr.write((folder / "output").read_text()[-4000:])
        raise
    finally:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for each in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        process.wait()


class Job:
    """A running `holdtrue run` of the script."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name

    def stamps(self) -> dict[int, list[Stamp]]:
        return read_stamps(self.folder)

    def events(self) -> list[dict[str, Any]]:
        path = self.folder / "run" / "events.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def changes(self) -> list[dict[str, Any]]:
        return [event for event in self.events() if event["kind"] in ("resize", "loss")]

    def client(self) -> ControlClient:
        entry = find_job(jobs_folder(os.environ), self.name)[0]
        return ControlClient(url=entry.url, token=read_tokens(Path(entry.token_file)).by_scope["admin"])

    def pids(self) -> list[int]:
        """Of the members, by rank."""
        members = [worker for worker in self.client().job()["workers"] if worker["rank"] is not None]
        return [worker["pid"] for worker in sorted(members, key=lambda worker: worker["rank"])]

    def wait_steps(self, pid: int, more: int) -> int:
        """The newest step of a process, once it has done `more`."""
        before = last_step(self.stamps().get(pid, []))

        def find() -> int | None:
            now = last_step(self.stamps().get(pid, []))
            return now if now >= before + more else None

        return wait_for(find, f"{more} more steps of process {pid}")

    def wait_change(self, count: int) -> dict[str, Any]:
        """The next event of a change, once it is written."""
        try:
            return wait_for(lambda: self.changes()[count:], "the change")[0]
        except SystemExit:
            self.show_stacks()
            raise

    def show_stacks(self) -> None:
        """Where the workers hang."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGUSR1)
        time.sleep(1.0)
        for log in sorted((self.folder / "run" / "logs").glob("*")):
            sys.stderr.write(f"{log.name}:\n{log.read_text()[-6000:]}\n")


def measure_resize(job: Job, pid: int, workers: int) -> dict[str, Any]:
    """Pause of process `pid`, which stays, when the job goes to `workers`."""
    before = job.wait_steps(pid, STEPS)
    count = len(job.changes())
    asked = time.monotonic()
    job.client().resize(workers)
    event = job.wait_change(count)
    job.wait_steps(pid, 3)
    stamps = job.stamps()[pid]
    at = event["step"]
    start = next(at_s for kind, step, at_s in stamps if kind == "start" and step == at)
    end = next(at_s for kind, step, at_s in stamps if kind == "end" and step == at - 1)
    return {
        "pause_s": start - end,
        "until_group_s": event["details"]["seconds"],
        "asked_to_start_s": start - asked,
        "step_s": statistics.median(step_times(stamps, before)),
    }


def measure_kill(job: Job, pids: list[int], victim: int, choose: random.Random) -> dict[str, Any]:
    """From the SIGKILL of one process to the next completed step, at a random moment of a step."""
    survivor = next(pid for pid in pids if pid != victim)
    before = job.wait_steps(survivor, STEPS)
    step_s = statistics.median(step_times(job.stamps()[survivor], before))
    time.sleep(choose.random() * step_s)
    count = len(job.changes())
    os.kill(victim, signal.SIGKILL)
    killed = time.monotonic()
    event = job.wait_change(count)
    job.wait_steps(survivor, 3)
    ends = [at for kind, step, at in job.stamps()[survivor] if kind == "end" and step >= event["step"]]
    return {
        "kill_to_step_s": min(at for at in ends if at > killed) - killed,
        "until_group_s": event["details"]["seconds"],
        "step_s": step_s,
        "killed_rank": pids.index(victim),
    }


@contextmanager
def holdtrue_job(model: str, workers: int, number: int) -> Iterator[tuple[Job, int]]:
    """A job that trains, and its main worker's process."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, name = Path(temporary), f"bench-{os.getpid()}-{number}"
        command = [
            str(BIN / "holdtrue"), "run", "--device", "cpu", "--workers", str(workers), "--name", name,
            "--run-dir", str(folder / "run"), SCRIPT, "holdtrue", "--model", model, "--folder", str(folder),
        ]  # fmt: skip
        job = Job(folder, name)
        with started(command, folder, dict(os.environ)):
            wait_for(lambda: len(job.stamps()) == workers, "the first step")
            yield job, job.pids()[0]


def holdtrue_round(number: int, choose: random.Random) -> dict[str, Any]:
    """Kill, grow and shrink with the big model; kill with the small one."""
    found: dict[str, Any] = {}
    with holdtrue_job("big", 2, number) as (job, _):
        pids = job.pids()
        victim = pids[number % 2]
        found["kill big"] = measure_kill(job, pids, victim, choose)
        (pid,) = (pid for pid in pids if pid != victim)
        found["grow"] = measure_resize(job, pid, 2)
        found["shrink"] = measure_resize(job, pid, 1)
    with holdtrue_job("small", 2, number) as (job, _):
        pids = job.pids()
        found["kill small"] = measure_kill(job, pids, pids[number % 2], choose)
    return found


def torchrun_round() -> dict[str, Any]:
    """One worker of two killed just after a checkpoint."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as stack:
        folder = Path(temporary)
        command = [
            str(BIN / "torchrun"), "--nnodes=1:2", "--nproc-per-node=1", "--max-restarts=3", "--rdzv-backend=c10d",
            f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=bench", "--local-addr=127.0.0.1", SCRIPT, "ddp",
            "--model", "big", "--folder", str(folder),
        ]  # fmt: skip
        env = os.environ | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "OMP_NUM_THREADS": "1"}
        for _ in range(2):
            stack.enter_context(started(command, folder, env))
        wait_for(lambda: len(read_stamps(folder)) == 2, "torchrun's first step")
        old = list(read_stamps(folder))

        def find_saved() -> int | None:
            saved = [
                step for each in read_stamps(folder).values() for kind, step, _ in each if kind == "saved"
            ]
            return max(saved) if len(saved) >= 2 else None

        saved = wait_for(find_saved, "torchrun's second checkpoint")
        victim = next(
            pid for pid, each in read_stamps(folder).items() if not any(k == "saved" for k, *_ in each)
        )
        os.kill(victim, signal.SIGKILL)
        killed = time.monotonic()

        def find_new() -> dict[int, list[Stamp]] | None:
            new = {pid: each for pid, each in read_stamps(folder).items() if pid not in old}
            done = sum(last_step(each) >= saved for each in new.values())
            return new if done == 2 else None

        new = wait_for(find_new, "torchrun's restart")
        before = [stamp for pid in old for stamp in read_stamps(folder)[pid]]
        ended = {step: at for kind, step, at in before if kind == "end"}
        reached = max(ended)
        stamps = [stamp for each in new.values() for stamp in each]
        return {
            "kill_to_step_s": min(at for kind, step, at in stamps if kind == "end" and step > reached) - killed,
            "kill_to_start_s": min(at for kind, step, at in stamps if kind == "start" and step > reached) - killed,
            "repeated_steps": reached + 1 - min(step for kind, step, _ in stamps if kind == "start"),
            "step_s": statistics.median(step_times(read_stamps(folder)[old[0]], reached)),
        }  # fmt: skip


def measure_bandwidth() -> list[float]:
    """Bytes a second between two processes, by gloo over loopback."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    env = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    command = [sys.executable, SCRIPT, "bandwidth", "--folder", "."]
    both = [
        subprocess.Popen(command, env=env | {"RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=WAIT_S)[0] for process in both]
    return [float(line) for line in outputs[1].split()]


def summarise(rounds: list[dict[str, Any]], bandwidth: float) -> dict[str, Any]:
    """Spreads, allowances and ratios within rounds."""
    size = state_bytes("big")
    found: dict[str, Any] = {}
    for name in ("grow", "shrink"):
        each = [r[name] for r in rounds]
        allowed = [e["step_s"] + 0.3 + size / bandwidth for e in each]
        found[name] = {
            key: spread([e[key] for e in each])
            for key in ("pause_s", "until_group_s", "asked_to_start_s", "step_s")
        } | {
            "allowed_s": spread(allowed),
            "of_allowed": spread([e["pause_s"] / a for e, a in zip(each, allowed, strict=True)]),
            "restart_over_pause": spread(
                [r["torchrun"]["kill_to_start_s"] / r[name]["pause_s"] for r in rounds]
            ),
        }
    for name in ("kill big", "kill small"):
        found[name] = {
            key: spread([r[name][key] for r in rounds])
            for key in ("kill_to_step_s", "until_group_s", "step_s")
        }
    found["kill big"]["restart_over_kill"] = spread(
        [r["torchrun"]["kill_to_step_s"] / r["kill big"]["kill_to_step_s"] for r in rounds]
    )
    found["torchrun"] = {
        key: spread([r["torchrun"][key] for r in rounds])
        for key in ("kill_to_start_s", "kill_to_step_s", "repeated_steps", "step_s")
    }
    return found


def show(number: int, found: dict[str, Any]) -> None:
    """Figures as they come."""
    for name, figures in found.items():
        print(number, name, {key: round(value, 3) for key, value in figures.items()}, flush=True)


def report(bandwidths: list[float], rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The raw file."""
    values = describe("python benchmarks/elastic.py")
    values |= {"rounds": len(rounds), "state_bytes": state_bytes("big")}
    values["bandwidth_bytes_per_s"] = spread(bandwidths)
    values["results"] = summarise(rounds, statistics.median(bandwidths)) | {"rounds": rounds}
    return values


def main() -> None:
    """Run the rounds and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--add", help="raw file whose rounds come first: a measurement in several calls")
    parser.add_argument("--out", help="raw JSON file")
    options = parser.parse_args()
    bandwidths, rounds = measure_bandwidth(), []
    if options.add:
        former = json.loads(Path(options.add).read_text())
        bandwidths = former["bandwidth_bytes_per_s"]["values"] + bandwidths
        rounds = former["results"]["rounds"]
    print(f"{statistics.median(bandwidths) / 1e6:.0f} MB/s, state {state_bytes('big') / 1e6:.0f} MB")
    for number in range(len(rounds), options.rounds):
        each = holdtrue_round(number, random.Random(number)) | {"torchrun": torchrun_round()}
        show(number, each)
        rounds.append(each)
        # After every round: what a time limit cuts off is not lost.
        write_json(options.out, report(bandwidths, rounds))


if __name__ == "__main__":
    main()
