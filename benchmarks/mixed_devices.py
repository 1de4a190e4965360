"""How good the predictions are, and what an uneven mapping gives on unequal devices.

    python benchmarks/mixed_devices.py predict --out benchmarks/raw/mixed_predict.json
        (again for one more round)
    python benchmarks/mixed_devices.py throttle --out benchmarks/raw/mixed_throttle.json

`predict` profiles `mixed_train.py` with `holdtrue profile` and then runs it on mappings that the profile has not
seen: measured step time against the predicted one. `throttle` holds one of two workers to a part of a core, by a
cgroup (cpu.cfs_quota_us) or, where none can be made, by SIGSTOP and SIGCONT in turn, and runs the even split
and the mapping that the solver makes of the pass times measured in it. Ideal is what both workers reach alone,
added up. To follow a throttle that moves in mid-run, add a part here that calls `Throttle.move`.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common import describe, spread, write_json
from holdtrue.mapping import parse_mapping
from holdtrue.plan import Plan
from holdtrue.profile import read_profile
from holdtrue.solve import (
    aligned_mapping,
    best_mapping,
    cost_devices,
    measured_costs,
    parse_devices,
    predict_step,
)

SCRIPT = Path(__file__).with_name("mixed_train.py")
HOLDTRUE = str(Path(sys.executable).with_name("holdtrue"))
CGROUPS = Path("/sys/fs/cgroup/cpu")
PERIOD_US = 10_000

# (V, counts of each worker or the text of a mapping); B is 256 throughout.
MAPPINGS: list[tuple[int, tuple[int, ...] | str]] = [
    (16, (16,)),
    (16, (8, 8)),
    (16, (9, 7)),
    (16, (10, 6)),
    (16, (11, 5)),
    (16, (12, 4)),
    (16, (14, 2)),
    (16, (15, 1)),
    (16, "0,2,4,6,8,10,12,14/1,3,5,7,9,11,13,15"),
    (8, (8,)),
    (8, (4, 4)),
    (8, (5, 3)),
    (8, (6, 2)),
    (4, (2, 2)),
    (32, (16, 16)),
    (32, (20, 12)),
]


class Throttle:
    """Holds one process to a part of a core."""

    def __init__(self, part: float) -> None:
        self.part = part
        self.folder = CGROUPS / f"holdtrue-{os.getpid()}"
        self.pid: int | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        try:
            self.folder.mkdir()
            (self.folder / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (self.folder / "cpu.cfs_quota_us").write_text(str(int(part * PERIOD_US)))
            self.how = f"cgroup cpu.cfs_quota_us {int(part * PERIOD_US)} of {PERIOD_US}"
        except OSError:
            self.folder = Path()
            self.how = f"SIGSTOP/SIGCONT, {part:.0%} of 20 ms"

    def move(self, pid: int) -> None:
        """Throttle this process, and no longer the one before."""
        if self.folder != Path():
            if self.pid is not None and Path(f"/proc/{self.pid}").exists():
                (CGROUPS / "cgroup.procs").write_text(str(self.pid))
            (self.folder / "cgroup.procs").write_text(str(pid))
        self.pid = pid
        if self.folder == Path() and self._thread is None:
            self._thread = threading.Thread(target=self._alternate, daemon=True)
            self._thread.start()

    def _alternate(self) -> None:
        while not self._stop.is_set() and self.pid is not None:
            try:
                os.kill(self.pid, signal.SIGSTOP)
                time.sleep(0.02 * (1 - self.part))
                os.kill(self.pid, signal.SIGCONT)
                time.sleep(0.02 * self.part)
            except ProcessLookupError:
                return

    def close(self) -> None:
        """Let go."""
        self._stop.set()
        if self.folder != Path():
            for _ in range(100):
                try:
                    self.folder.rmdir()
                    return
                except OSError:
                    time.sleep(0.05)


@contextmanager
def throttled(part: float) -> Iterator[Throttle]:
    """A throttle for the time of a block."""
    throttle = Throttle(part)
    try:
        yield throttle
    finally:
        throttle.close()


def run_job(
    virtual_nodes: int, mapping: str, *, steps: int, throttle: Throttle | None = None, rank: int = 0
) -> dict[str, Any]:
    """Run the script on a mapping; what its workers wrote down."""
    with tempfile.TemporaryDirectory() as folder:
        words = [
            HOLDTRUE,
            "run",
            "--mapping",
            mapping,
            "--virtual-nodes",
            str(virtual_nodes),
            "--device",
            "cpu",
        ]
        words += ["--run-dir", f"{folder}/run", "--digest-every", "0", str(SCRIPT)]
        words += ["--steps", str(steps), "--out", folder]
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        pid = Path(folder) / f"pid-{rank}"
        while throttle is not None and process.poll() is None:
            if pid.exists() and pid.read_text():
                throttle.move(int(pid.read_text()))
                break
            time.sleep(0.005)
        _, said = process.communicate(timeout=280)
        if process.returncode:
            raise SystemExit(said)
        world = len(mapping.split("/"))
        workers = [json.loads((Path(folder) / f"worker-{r}.json").read_text()) for r in range(world)]
    return {"mapping": mapping, "steps_s": workers[0]["steps_s"], "pass_s": [w["pass_s"] for w in workers]}


def profile_script(folder: Path, sizes: str) -> Path:
    """Profile the script as a user would."""
    path = folder / "profile.json"
    words = [
        HOLDTRUE,
        "profile",
        "--devices",
        "cpu:2",
        "--batch-sizes",
        sizes,
        "--out",
        str(path),
        str(SCRIPT),
    ]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, timeout=280)
    return path


def predict(steps: int) -> dict[str, Any]:
    """Predicted against measured step times."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        path = profile_script(Path(name), "8,16,32,64")
        profile = read_profile(path)
        text = json.loads(path.read_text())
    for virtual_nodes, counts in MAPPINGS:
        mapping = (
            parse_mapping(counts, virtual_nodes)
            if isinstance(counts, str)
            else aligned_mapping(virtual_nodes, counts)
        )
        plan = Plan(virtual_nodes=virtual_nodes, global_batch_size=256)
        predicted = predict_step(profile, parse_devices(f"cpu:{mapping.world_size}"), plan, mapping)
        found = run_job(virtual_nodes, str(mapping), steps=steps)
        measured_s = statistics.median(found["steps_s"])
        error = predicted.step_s / measured_s - 1
        rows.append(
            {
                "virtual_nodes": virtual_nodes,
                "mapping": str(mapping),
                "predicted_s": predicted.step_s,
                "measured_s": spread(found["steps_s"]),
                "error": error,
            }
        )
        print(
            f"V={virtual_nodes:2d} {str(mapping)[:40]:40s} {predicted.step_s:.4f} {measured_s:.4f} {error:+.1%}"
        )
    mean = statistics.mean(abs(row["error"]) for row in rows)
    print(f"mean error {mean:.1%} over {len(rows)} mappings")
    return {"profile": text, "rows": rows, "mean_error": mean, "steps": steps}


def add_round(path: str | None, values: dict[str, Any]) -> dict[str, Any]:
    """This round and those in the raw file before it, with medians over rounds.

    On a shared machine whatever else runs slows some of the runs; each round measures its own profile and all
    mappings, and what is compared is the median of the predictions with the median of the measurements.
    """
    before = json.loads(Path(path).read_text())["rounds"] if path and Path(path).exists() else []
    rounds = [*before, values]
    rows = []
    for same in zip(*(one["rows"] for one in rounds), strict=True):
        predicted_s = statistics.median(row["predicted_s"] for row in same)
        measured = spread([row["measured_s"]["median"] for row in same])
        rows.append(
            {
                "virtual_nodes": same[0]["virtual_nodes"],
                "mapping": same[0]["mapping"],
                "predicted_s": predicted_s,
                "measured_s": measured,
                "error": predicted_s / measured["median"] - 1,
            }
        )
    mean = statistics.mean(abs(row["error"]) for row in rows)
    print(f"mean error {mean:.1%} over {len(rows)} mappings and {len(rounds)} rounds")
    return {"rows": rows, "mean_error": mean, "steps": values["steps"], "rounds": rounds}


def throttle(steps: int, part: float, rounds: int) -> dict[str, Any]:
    """Even split, solved mapping and ideal with one worker held to a part of a core."""
    plan = Plan(virtual_nodes=16, global_batch_size=256)
    with tempfile.TemporaryDirectory() as name:
        path = profile_script(Path(name), "16")
        profile = read_profile(path)
    costs = cost_devices(profile, parse_devices("cpu:2"), plan, {})
    found: dict[str, list[dict[str, Any]]] = {"alone": [], "alone throttled": [], "even": [], "solved": []}
    how = ""
    for _ in range(rounds):
        with throttled(part) as held:
            how = held.how
            found["alone"].append(run_job(16, "0-15", steps=steps))
            found["alone throttled"].append(run_job(16, "0-15", steps=steps, throttle=held))
            even = run_job(16, "0-7/8-15", steps=steps, throttle=held, rank=1)
            found["even"].append(even)
            solved = best_mapping(measured_costs(costs, even["pass_s"]))
            assert solved is not None
            found["solved"].append(run_job(16, str(solved), steps=steps, throttle=held, rank=1))
        print({name: statistics.median(runs[-1]["steps_s"]) for name, runs in found.items()}, str(solved))
    rate = {
        name: 256 / statistics.median(s for run in runs for s in run["steps_s"])
        for name, runs in found.items()
    }
    ideal = rate["alone"] + rate["alone throttled"]
    print({name: round(value, 1) for name, value in rate.items()}, "ideal", round(ideal, 1))
    print(f"solved / ideal {rate['solved'] / ideal:.3f}, solved / even {rate['solved'] / rate['even']:.3f}")
    return {
        "part": part,
        "how": how,
        "runs": found,
        "examples_per_s": rate,
        "ideal_examples_per_s": ideal,
        "solved_over_ideal": rate["solved"] / ideal,
        "solved_over_even": rate["solved"] / rate["even"],
        "steps": steps,
    }


def main() -> None:
    """Run one part; `predict` adds a round to its raw file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("predict", "throttle"))
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--part", type=float, default=0.4)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out")
    arguments = parser.parse_args()
    if arguments.what == "predict":
        values = add_round(arguments.out, predict(arguments.steps))
    else:
        values = throttle(arguments.steps, arguments.part, arguments.rounds)
    write_json(arguments.out, describe("python benchmarks/mixed_devices.py") | values)


if __name__ == "__main__":
    main()
