"""Fit the seconds per step of the paper's workloads to the logged durations of its 20 jobs at full demand.

    python benchmarks/fit_paper_speeds.py [--data ../shared/data]

Prints the numbers that src/holdtrue/cluster/traces/_speeds.py holds, and how well they meet each job.
"""

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import nnls

from holdtrue.cluster.traces._speeds import HELD_OUT, TRAINING

DURATIONS = (
    *(656, 1440, 793, 1336, 833, 965, 828, 911, 950, 438),
    *(1415, 1156, 757, 520, 682, 733, 605, 1334, 606, 1093),
)
START_S = 63


@dataclass(frozen=True, kw_only=True)
class Fit:
    """One workload's fit."""

    workload: str
    coefficients: tuple[float, ...]
    """Base, synchronisation, example, evaluation: as in `StepModel`."""
    jobs: dict[int, tuple[float, float]]
    """By place in the trace, seconds per step as logged and as fitted."""


def main() -> None:
    """Fit each workload and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    for fit in fit_workloads(parser.parse_args().data):
        print(
            fit.workload,
            "base, sync, example, evaluation:",
            [f"{x:.4g}" for x in fit.coefficients],
        )
        for name, (measured, predicted) in fit.jobs.items():
            print(
                f"  job {name}: {measured:.3f} s per step, fitted {predicted:.3f} ({predicted / measured - 1:+.1%})"
            )


def fit_workloads(data_folder: Path) -> Iterator[Fit]:
    """Fit the workloads to the traces in a folder."""
    trace = json.loads((data_folder / "virtualflow/traces/medium20_12jph.json").read_text())
    for workload in ("bert", "resnet", "transformer"):
        rows, seconds, names = [], [], []
        for i, (job, duration) in enumerate(zip(trace, DURATIONS, strict=True)):
            data = job.get("glue_task") or job.get("dataset", "")
            if job["workload"] != workload or data == "cifar10":
                continue
            per_epoch = job.get("num_steps") or TRAINING[data] // job["batch_size"]
            evaluated = HELD_OUT.get(data, 0) / per_epoch
            devices = job["gpu_demand"]
            rows.append([1, math.log2(devices), job["batch_size"] / devices, evaluated])
            seconds.append((duration - START_S) / (per_epoch * job.get("num_epochs", 1)))
            names.append(i)
        A, y = np.array(rows), np.array(seconds)
        fit, _ = nnls(A / y[:, None], np.ones(len(y)))
        met = zip(y.tolist(), (A @ fit).tolist(), strict=True)
        yield Fit(
            workload=workload,
            coefficients=tuple(fit.tolist()),
            jobs=dict(zip(names, met, strict=True)),
        )


if __name__ == "__main__":
    main()
