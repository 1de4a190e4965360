"""Fit the seconds per step of the paper's workloads to the logged durations of its 20 jobs at full demand.

    python benchmarks/fit_paper_speeds.py [--data ../shared/data]

Prints the numbers that src/holdtrue/cluster/traces/_speeds.py holds, and how well they meet each job.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
from scipy.optimize import nnls

from holdtrue.cluster.traces._speeds import HELD_OUT, TRAINING

DURATIONS = (
    *(656, 1440, 793, 1336, 833, 965, 828, 911, 950, 438),
    *(1415, 1156, 757, 520, 682, 733, 605, 1334, 606, 1093),
)
START_S = 63


def main() -> None:
    """Fit each workload and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    trace = json.loads((parser.parse_args().data / "virtualflow/traces/medium20_12jph.json").read_text())
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
        print(workload, "base, sync, example, evaluation:", [f"{x:.4g}" for x in fit])
        for name, measured, predicted in zip(names, y, A @ fit, strict=True):
            print(
                f"  job {name}: {measured:.3f} s per step, fitted {predicted:.3f} ({predicted / measured - 1:+.1%})"
            )


if __name__ == "__main__":
    main()
