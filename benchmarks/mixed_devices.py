"""How good the predictions are, and what moving virtual nodes gives on unequal devices.

    python benchmarks/mixed_devices.py predict --out benchmarks/raw/mixed_predict.json
        (again for one more round)
    python benchmarks/mixed_devices.py throttle --out benchmarks/raw/mixed_throttle.json

`predict` profiles `mixed_train.py` with `holdtrue profile` and then runs it on mappings that the profile has not
seen: measured step time against the predicted one. `throttle` holds one of two workers to a part of a core, and runs
the even split, and a job that re-maps itself (`--rebalance`); in the middle of that job the throttle moves to the
other worker. Ideal is what both workers reach alone, added up.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import describe, spread, write_json
from holdtrue.mapping import parse_mapping
from holdtrue.plan import Plan
from holdtrue.profile import read_profile
from holdtrue.solve import aligned_mapping, parse_devices, predict_step
from mixed_throttle import Front, Throttle, throttled

SCRIPT = Path(__file__).with_name("mixed_train.py")
HOLDTRUE = str(Path(sys.executable).with_name("holdtrue"))
WARM = 4
"""Steps of each run that are left out."""

FRONT = Front()

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

THROTTLE_V, THROTTLE_B = 64, 1024


def run_job(
    virtual_nodes: int,
    batch: int,
    options: list[str],
    *,
    workers: int,
    steps: int,
    throttle: Throttle | None = None,
    rank: int = 0,
    move_at: int | None = None,
) -> dict[str, Any]:
    """Run the script; what its workers wrote down.

    Args:
        virtual_nodes: V.
        batch: B.
        options: More words for `holdtrue run`.
        workers: How many write a file.
        steps: Steps.
        throttle: Holds the worker of `rank` from its first step on.
        rank: The worker that is held.
        move_at: Step in which the throttle moves to the other worker; None leaves it.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = [HOLDTRUE, "run", *options, "--virtual-nodes", str(virtual_nodes)]
        words += ["--global-batch-size", str(batch), "--run-dir", f"{folder}/run", "--digest-every", "0"]
        words += ["--checkpoint-every", "0", str(SCRIPT), "--steps", str(steps), "--out", name]
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and read_number(folder / "pid-0") is None:
            time.sleep(0.01)
        with FRONT:
            moved_in = follow_run(process, folder, throttle, rank, move_at)
            _, said = process.communicate(timeout=280)
        if process.returncode:
            raise SystemExit(said)
        found = [json.loads((folder / f"worker-{r}.json").read_text()) for r in range(workers)]
        events = [json.loads(line) for line in (folder / "run" / "events.jsonl").read_text().splitlines()]
    kept = ("remap", "remapped")
    return {
        "steps_s": found[0]["steps_s"],
        "passes": [one["passes"] for one in found],
        "pass_s": [one["pass_s"] for one in found],
        "moved_in": moved_in,
        "events": [event for event in events if event["kind"] in kept],
    }


def run_watched(*words: Any, **more: Any) -> dict[str, Any]:  # Any: of run_job
    """A run, and which part of the machine's time others used beside it."""
    before_s, own_s, began_s = busy_s(), children_s(), time.monotonic()
    found = run_job(*words, **more)
    others_s = busy_s() - before_s - (children_s() - own_s)
    found["others"] = others_s / (time.monotonic() - began_s) / (os.cpu_count() or 1)
    return found


def busy_s() -> float:
    """Seconds that the machine's cores have worked since it started."""
    user, nice, system, _, _, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def children_s() -> float:
    """Seconds that this process's ended descendants have worked."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def follow_run(
    process: "subprocess.Popen[str]", folder: Path, throttle: Throttle | None, rank: int, move_at: int | None
) -> int | None:
    """Hold a worker once it trains, and later the other one; the step in which that was."""
    wanted = throttle is not None
    while throttle is not None and process.poll() is None:
        time.sleep(0.003)
        if wanted and (pid := read_number(folder / f"pid-{rank}")) is not None:
            throttle.move(pid)
            wanted = False
            if move_at is None:
                return None
        at = read_number(folder / f"at-{rank}")
        if not wanted and move_at is not None and at is not None and at >= move_at:
            other = read_number(folder / f"pid-{1 - rank}")
            assert other is not None
            throttle.move(other)
            return read_number(folder / f"at-{rank}")
    return None


def read_number(path: Path) -> int | None:
    """What a file says; None if it does not yet."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


# ---- predicted against measured ----


def profile_script(folder: Path, sizes: str) -> Path:
    """Profile the script as a user would."""
    path = folder / "profile.json"
    words = [HOLDTRUE, "profile", "--devices", "cpu:2", "--batch-sizes", sizes, "--out", str(path)]
    with FRONT:
        subprocess.run([*words, str(SCRIPT)], check=True, stdout=subprocess.DEVNULL, timeout=280)
    return path


def predict(steps: int) -> dict[str, Any]:
    """One round: a profile of its own, and predicted against measured step times."""
    with tempfile.TemporaryDirectory() as name:
        path = profile_script(Path(name), "8,16,32,64")
        profile, text = read_profile(path), json.loads(path.read_text())
    print(json.dumps(text["devices"]["cpu"]))
    rows = []
    for virtual_nodes, counts in MAPPINGS:
        mapping = (
            parse_mapping(counts, virtual_nodes)
            if isinstance(counts, str)
            else aligned_mapping(virtual_nodes, counts)
        )
        plan, workers = Plan(virtual_nodes=virtual_nodes, global_batch_size=256), mapping.world_size
        predicted = predict_step(profile, parse_devices(f"cpu:{workers}"), plan, mapping)
        options = ["--mapping", str(mapping), "--device", "cpu"]
        found = run_watched(virtual_nodes, 256, options, workers=workers, steps=steps + WARM)
        steps_s = found["steps_s"][WARM:]
        rows.append(
            {
                "virtual_nodes": virtual_nodes,
                "mapping": str(mapping),
                "predicted_s": predicted.step_s,
                "measured_s": spread(steps_s),
                "pass_s": [statistics.median(filter(None, times[WARM:])) for times in found["pass_s"]],
                "others": found["others"],
            }
        )
        measured_s, others = rows[-1]["measured_s"]["median"], found["others"]
        print(
            f"V={virtual_nodes:2d} {str(mapping)[:36]:36s} {predicted.step_s:.4f} {measured_s:.4f} "
            f"{predicted.step_s / measured_s - 1:+.1%} others {others:.0%}",
            [round(1e3 * t, 2) for t in rows[-1]["pass_s"]],
            flush=True,
        )
    return {"profile": text, "rows": rows}


def sum_up_predictions(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over rounds: predicted against measured."""
    rows = []
    for same in zip(*(one["rows"] for one in rounds), strict=True):
        predicted_s = statistics.median(row["predicted_s"] for row in same)
        measured = spread([row["measured_s"]["median"] for row in same])
        error = predicted_s / measured["median"] - 1
        kept = {name: same[0][name] for name in ("virtual_nodes", "mapping")}
        rows.append(kept | {"predicted_s": predicted_s, "measured_s": measured, "error": error})
    mean = statistics.mean(abs(row["error"]) for row in rows)
    singles = [
        statistics.mean(abs(r["predicted_s"] / r["measured_s"]["median"] - 1) for r in one["rows"])
        for one in rounds
    ]
    print(f"mean error {mean:.1%} over {len(rows)} mappings and {len(rounds)} rounds")
    return {"rows": rows, "mean_error": mean, "mean_error_of_rounds": singles}


# ---- one of two workers held back ----


def throttle(steps: int, part: float) -> dict[str, Any]:
    """One round: even split, re-mapping job and ideal with one worker held to a part of a core."""
    one, two = ["--workers", "1", "--device", "cpu"], ["--devices", "cpu:2"]
    with throttled(part) as held:

        def run(options: list[str], **more: Any) -> dict[str, Any]:  # Any: of run_job
            return run_watched(THROTTLE_V, THROTTLE_B, options, **more)

        runs = {
            "alone": run(one, workers=1, steps=steps),
            "alone held": run(one, workers=1, steps=steps, throttle=held),
            "even": run([*two, "--no-rebalance"], workers=2, steps=steps, throttle=held, rank=1),
            "re-mapping": run(two, workers=2, steps=4 * steps, throttle=held, rank=1, move_at=2 * steps),
        }
        how = held.how
    follow = follow_throttle(runs["re-mapping"])
    rate = {
        name: THROTTLE_B / statistics.median(found["steps_s"][WARM:])
        for name, found in runs.items()
        if name != "re-mapping"
    }
    rate["re-mapping"] = THROTTLE_B / statistics.median(follow["settled_s"])
    others = {name: found["others"] for name, found in runs.items()}
    print({name: round(value, 1) for name, value in rate.items()}, follow["mappings"], follow, others)
    return {
        "how": how,
        "part": part,
        "virtual_nodes": THROTTLE_V,
        "global_batch_size": THROTTLE_B,
        "examples_per_s": rate,
        "follow": follow,
        "runs": runs,
    }


def follow_throttle(live: dict[str, Any]) -> dict[str, Any]:
    """When the job followed the throttle, and its steps where virtual nodes and throttle belong together."""
    counts, moved_in = list(zip(*live["passes"], strict=True)), live["moved_in"]
    even = counts[0][0]
    first = next((k for k, pair in enumerate(counts) if pair[0] > even), None)
    second = next((k for k, pair in enumerate(counts) if k > moved_in and pair[1] > even), None)
    if first is None or second is None:
        raise SystemExit(
            f"the job did not follow its throttle: {counts}, {live['events']}, others {live['others']}"
        )
    changes = [k for k in range(1, len(counts)) if counts[k] != counts[k - 1]]
    last_before = max(k for k in changes if k <= moved_in)
    return {
        "first_after": first,
        "moved_in": moved_in,
        "followed_after": second - moved_in,
        "mappings": [[k, *counts[k]] for k in [0, *changes]],
        "settled_s": live["steps_s"][last_before + 1 : moved_in] + live["steps_s"][max(changes) + 1 :],
    }


def sum_up_throttle(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over rounds, and what they are of the ideal."""
    names = rounds[0]["examples_per_s"]
    rate = {name: statistics.median(one["examples_per_s"][name] for one in rounds) for name in names}
    ideal = rate["alone"] + rate["alone held"]
    over_ideal, over_even = rate["re-mapping"] / ideal, rate["re-mapping"] / rate["even"]
    print(f"of ideal {over_ideal:.3f}, over even {over_even:.3f}, {len(rounds)} rounds")
    return {
        "examples_per_s": rate,
        "ideal_examples_per_s": ideal,
        "over_ideal": over_ideal,
        "over_even": over_even,
        "followed_after": [one["follow"]["followed_after"] for one in rounds],
        "first_after": [one["follow"]["first_after"] for one in rounds],
    }


def main() -> None:
    """Run one round, and add it to the raw file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("predict", "throttle"))
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--part", type=float, default=0.4)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rounds = (
        json.loads(arguments.out.read_text())["rounds"] if arguments.out and arguments.out.exists() else []
    )
    if arguments.what == "predict":
        rounds.append(predict(arguments.steps))
        summary = sum_up_predictions(rounds)
    else:
        rounds.append(throttle(arguments.steps, arguments.part))
        summary = sum_up_throttle(rounds)
    write_json(
        arguments.out,
        describe("python benchmarks/mixed_devices.py")
        | {"steps": arguments.steps}
        | summary
        | {"rounds": rounds},
    )


if __name__ == "__main__":
    main()
