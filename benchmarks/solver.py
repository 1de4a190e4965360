"""How long the solver takes: 2,048 devices of 6 kinds and 8,192 virtual nodes, and some smaller cases.

    python benchmarks/solver.py [--repeats 5] [--out benchmarks/raw/solver.json]

The profile is made up: six kinds of unlike speed, overhead, memory and link. What is timed is `solve` whole: costs,
search, layout and prediction. Times are wall clock on a machine that others may use: the least and the spread
are both in the file.
"""

import argparse
import json
import os
import platform
import random
import shlex
import statistics
import sys
import time
from pathlib import Path

import numpy as np

from holdtrue.errors import PlanError
from holdtrue.plan import NumericsLevel, Plan
from holdtrue.profile import DeviceProfile, PassPoint, Profile
from holdtrue.solve import DeviceGroup, recommend, solve

GIB = 1024**3
# kind: seconds of a pass of 8, fixed seconds, memory GiB, link GiB/s
KINDS = {
    "h100": (0.0101, 0.021, 80, 25.0),
    "a100": (0.0193, 0.023, 40, 25.0),
    "v100": (0.0407, 0.031, 16, 12.5),
    "p100": (0.0911, 0.037, 16, 12.5),
    "t4": (0.1301, 0.041, 15, 6.25),
    "k80": (0.3307, 0.067, 12, 3.125),
}


def make_profile(gradient_bytes: int) -> Profile:
    """Points at 1, 8, 32 and 64 examples; larger passes are a little cheaper per example."""
    devices = []
    for kind, (pass_s, fixed_s, memory, link) in KINDS.items():
        points = tuple(
            PassPoint(
                batch_size=b,
                seconds=pass_s * (0.1 + 0.9 * (b / 8) ** 0.97),
                peak_bytes=2 * GIB + b * GIB // 8,
            )
            for b in (1, 8, 32, 64)
        )
        devices.append(
            DeviceProfile(
                kind=kind,
                torch_version="2.13.0",
                date="2026-11-23",
                points=points,
                fixed_s=fixed_s,
                memory_bytes=memory * GIB,
                exchange_bytes_per_s=link * GIB,
                exchange_latency_s=0.001,
            )
        )
    return Profile(model_name="made up", devices=tuple(devices), gradient_bytes=gradient_bytes)


def spread_devices(total: int) -> tuple[DeviceGroup, ...]:
    """`total` devices over the six kinds, more of the older ones."""
    weights = np.array([1, 2, 3, 4, 3, 3])
    counts = np.maximum(1, weights * total // weights.sum()).tolist()
    counts[-1] += total - sum(counts)
    return tuple(DeviceGroup(kind=kind, count=count) for kind, count in zip(KINDS, counts, strict=True))


def time_case(
    devices: int, virtual_nodes: int, gradient_bytes: int, numerics: NumericsLevel, repeats: int
) -> dict[str, object]:
    """Seconds of `solve` for one problem, and what it answered."""
    profile, groups = make_profile(gradient_bytes), spread_devices(devices)
    plan = Plan(virtual_nodes=virtual_nodes, global_batch_size=virtual_nodes * 8, numerics=numerics)
    times_s: list[float] = []
    for _ in range(repeats):
        start = time.perf_counter()
        answer = solve(profile, groups, plan)
        times_s.append(time.perf_counter() - start)
    return {
        "devices": devices,
        "kinds": len(groups),
        "virtual_nodes": virtual_nodes,
        "gradient_bytes": gradient_bytes,
        "numerics": numerics,
        "seconds": times_s,
        "median_s": statistics.median(times_s),
        "least_s": min(times_s),
        "most_s": max(times_s),
        "step_s": answer.step_s,
        "workers": len(answer.prediction.busy),
        "contributions": answer.prediction.contributions,
    }


def time_random(number: int) -> list[dict[str, object]]:
    """Seconds of `solve` for random profiles at full size: unlike links, limits and gradients, V of any kind."""
    rng = random.Random(0)
    cases: list[dict[str, object]] = []
    for _ in range(number):
        gradient_bytes = 10 ** rng.randint(7, 11)
        devices = tuple(
            DeviceProfile(
                kind=kind,
                torch_version="2.13.0",
                date="2026-11-23",
                points=(PassPoint(batch_size=8, seconds=0.01 + rng.random(), peak_bytes=GIB),),
                fixed_s=rng.random(),
                memory_bytes=rng.choice([None, GIB + 6 * gradient_bytes]),
                exchange_bytes_per_s=rng.choice([1, 3, 10]) * (0.1 + rng.random()) * 1e9,
                exchange_latency_s=rng.random() * rng.choice([0.0, 0.1, 1.0]),
            )
            for kind in KINDS
        )
        parts = sorted(rng.sample(range(1, 2048), len(KINDS) - 1))
        counts = [b - a for a, b in zip([0, *parts], [*parts, 2048], strict=True)]
        groups = tuple(DeviceGroup(kind=kind, count=n) for kind, n in zip(KINDS, counts, strict=True))
        virtual_nodes = rng.choice([8192, 8191, 8190, 5461])
        plan = Plan(virtual_nodes=virtual_nodes, global_batch_size=virtual_nodes * 8)
        profile = Profile(model_name="random", devices=devices, gradient_bytes=gradient_bytes)
        start = time.perf_counter()
        try:
            workers = len(solve(profile, groups, plan).prediction.busy)
        except PlanError:
            workers = 0
        seconds = time.perf_counter() - start
        cases.append(
            {
                "virtual_nodes": virtual_nodes,
                "gradient_bytes": gradient_bytes,
                "workers": workers,
                "seconds": seconds,
            }
        )
    return cases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "raw" / "solver.json")
    options = parser.parse_args()
    cases = [
        time_case(devices, virtual_nodes, gradient_bytes, numerics, options.repeats)
        for devices, virtual_nodes in ((8, 32), (64, 512), (2048, 8192), (2048, 8191))
        for gradient_bytes in (0, 400_000_000)
        for numerics in ("exact", "fast")
    ]
    hostile = time_random(40)
    start = time.perf_counter()
    recommend(make_profile(400_000_000), spread_devices(2048), global_batch_size=65536)
    recommend_s = time.perf_counter() - start
    result = {
        "command": shlex.join(["python", "benchmarks/solver.py", *sys.argv[1:]]),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, shared with other work",
        "repeats": options.repeats,
        "cases": cases,
        "random_2048_devices": hostile,
        "recommend_2048_devices_s": recommend_s,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    for case in cases:
        print(
            {
                key: case[key]
                for key in (
                    "devices",
                    "virtual_nodes",
                    "gradient_bytes",
                    "numerics",
                    "median_s",
                    "most_s",
                    "workers",
                    "contributions",
                )
            }
        )
    print("random, most", max(case["seconds"] for case in hostile))
    print("recommend", recommend_s)


if __name__ == "__main__":
    main()
