"""The script that `mixed_devices.py` measures: a convolutional network on random images, with its own clock.

    holdtrue run --workers 2 benchmarks/mixed_train.py --steps 20 --out FOLDER

Each worker writes its process id to `FOLDER/pid-R` at the first step, the number of each step that it begins to
`FOLDER/at-R`, and at the end `FOLDER/worker-R.json`: when each step began, its passes, and what its timer says.
"""

import argparse
import json
import os
import time
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.data import TensorDataset

import holdtrue as ht


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    run = ht.init(virtual_nodes=16, global_batch_size=256, seed=0)
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 32, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(32, 64, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(64 * 49, 128),
        torch.nn.ReLU(),
        torch.nn.Linear(128, 10),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model, optimizer = run.prepare(model, optimizer)
    count = run.plan.global_batch_size * (arguments.steps + 1)
    data = TensorDataset(torch.randn(count, 1, 28, 28), torch.randint(0, 10, (count,)))
    begun, rank, passes, pass_s = [], 0, [], []
    for step in run.steps(data):
        rank = run._core.group.rank  # the script has no business to know; the benchmark has
        if step.index == 0 and arguments.out:
            (arguments.out / f"pid-{rank}").write_text(str(os.getpid()))
            at = (arguments.out / f"at-{rank}").open("w")
        begun.append(time.perf_counter())
        if arguments.out:
            at.seek(0)
            at.write(f"{step.index:6d}")
            at.flush()
        passes.append(0)
        for x, y in step:
            step.backward(F.cross_entropy(model(x), y))
            passes[-1] += 1
        step.update()
        pass_s.append(run._core.engine.timer.seconds_of(step.index))
        if len(begun) > arguments.steps:
            break
    if arguments.out:
        values = {
            "steps_s": [b - a for a, b in pairwise(begun)],
            "passes": passes,
            "pass_s": pass_s,
        }
        (arguments.out / f"worker-{rank}.json").write_text(json.dumps(values))


if __name__ == "__main__":
    main()
