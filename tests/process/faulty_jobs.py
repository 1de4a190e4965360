"""Jobs of `faulty_train` and what must hold after them, whatever happened to their workers."""

import itertools
import json
import os
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from commands import Ended, frozen
from elastic_jobs import ElasticJob, start_job
from faulty_train import MARKS

HERE = Path(__file__).parent
LOOK_S = 0.005
_numbers = itertools.count()


@dataclass(frozen=True, slots=True, kw_only=True)
class Undisturbed:
    """What one worker leaves that nothing happens to."""

    digests: dict[int, dict[str, Any]]
    """Lines of digests.jsonl by step."""
    losses: dict[int, float]
    weights: dict[str, torch.Tensor]


def start(folder: Path, *options: str, label: str = "f", **arguments: Any) -> ElasticJob:
    """Start a job of `faulty_train.main(**arguments)`."""
    folder.mkdir(exist_ok=True)
    words = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    (folder / "train.py").write_text(
        frozen(f"import sys; sys.path.append({str(HERE)!r})\nimport faulty_train")
        + f"faulty_train.main({words})\n"
    )
    name = f"{label}{os.getpid()}-{next(_numbers)}"
    return start_job(folder, "train.py", "--digest-every", "1", *options, name=name)


def mark(folder: Path, name: str) -> dict[str, Any] | None:
    """What a worker wrote of itself; None if it did not."""
    try:
        found: dict[str, Any] = json.loads((folder / MARKS / name).read_text())
    except FileNotFoundError:
        return None
    return found


def wait_for_mark(job: ElasticJob, name: str, *, limit_s: float = 60.0) -> dict[str, Any]:
    """What a worker wrote of itself, once it did."""
    until_s = time.monotonic() + limit_s
    while (found := mark(job.folder, name)) is None:
        assert job.process.poll() is None, f"the job ended before {name}: {job.process.communicate()}"
        assert time.monotonic() < until_s, f"{name} was not written in {limit_s} s; {job.facts()}"
        time.sleep(LOOK_S)
    return found


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def read_undisturbed(folder: Path) -> Undisturbed:
    """What the run of one worker left."""
    return Undisturbed(
        digests={line["step"]: line for line in read_lines(folder / "run" / "digests.jsonl")},
        losses={line["step"]: line["loss"] for line in read_lines(folder / "run" / "steps.jsonl")},
        weights=safetensors.torch.load_file(folder / "trained.safetensors"),
    )


def differences(folder: Path, ended: Ended, base: Undisturbed, *, dead: set[int]) -> list[str]:
    """What does not hold after a job; nothing if all does.

    Args:
        folder: The job's.
        ended: Its end.
        base: The undisturbed run.
        dead: Workers that were killed: all others must have come to the end, or left.
    """
    found = [] if ended.status == 0 else [f"the job ended with status {ended.status}"]
    if "Traceback" in ended.text:
        found.append("there is a traceback")
    if ended.status != 0 or not (folder / "trained.safetensors").exists():
        return [*found, "there is no saved model, or no end to compare"]
    steps, digests = (read_lines(folder / "run" / f"{name}.jsonl") for name in ("steps", "digests"))
    for name, lines in (("steps", steps), ("digests", digests)):
        counts = Counter(line["step"] for line in lines if line["step"] >= 0)
        if counts != Counter(base.losses.keys()):
            found.append(f"{name}.jsonl has the steps {sorted(counts.items())}")
    for line in digests:
        right = base.digests[line["step"]]
        if line["digest"] != right["digest"]:
            names = [n for n in right["entries"] if line["entries"].get(n) != right["entries"][n]]
            found.append(f"step {line['step']} has another digest; {names}")
    found += [
        f"step {line['step']} has another loss" for line in steps if line["loss"] != base.losses[line["step"]]
    ]
    found += _differences_of_workers(folder, set(base.losses), dead)
    weights = safetensors.torch.load_file(folder / "trained.safetensors")
    if not all(torch.equal(weights[name], value) for name, value in base.weights.items()):
        found.append("the saved weights differ")
    return found


def _differences_of_workers(folder: Path, steps: set[int], dead: set[int]) -> list[str]:
    """Survivors are the processes that began, and ran the code after update once in every step they were in."""
    found = []
    numbers = {int(path.name.split("-")[1]) for path in (folder / MARKS).glob("born-*")}
    for worker in sorted(numbers):
        born, end = mark(folder, f"born-{worker}"), mark(folder, f"end-{worker}")
        if born is None or end is None:
            continue
        if (born["pid"], born["token"]) != (end["pid"], end["token"]):
            found.append(f"worker {worker} is another process at its end")
        first = end["done"][0] if end["done"] else len(steps)
        if end["done"] != list(range(first, len(steps))) or end["count"] != len(steps):
            found.append(f"worker {worker} ran the code after update in {end['done']}, {end['count']} in all")
    ended = {w for w in numbers if mark(folder, f"end-{w}") is not None}
    if not ended - dead:
        found.append(f"nobody came to the end; {sorted(numbers)} began, {sorted(dead)} died")
    return found
