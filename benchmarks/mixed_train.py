"""The script that `mixed_devices.py` measures: a convolutional network on random images, with its own clock.

    holdtrue run --workers 2 benchmarks/mixed_train.py --steps 20 --out FOLDER

Each worker writes `FOLDER/worker-R.json`: its process id at the first step, and at the end the seconds from one
step to the next and what its pass timer says.
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
    parser.add_argument("--warm", type=int, default=4)
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
    count = run.plan.global_batch_size * (arguments.steps + arguments.warm + 1)
    data = TensorDataset(torch.randn(count, 1, 28, 28), torch.randint(0, 10, (count,)))
    begun, rank = [], 0
    for step in run.steps(data):
        rank = run._core.group.rank  # the script has no business to know; the benchmark has
        if step.index == 0 and arguments.out:
            (arguments.out / f"pid-{rank}").write_text(str(os.getpid()))
        begun.append(time.perf_counter())
        for x, y in step:
            step.backward(F.cross_entropy(model(x), y))
        step.update()
        if len(begun) > arguments.warm + arguments.steps:
            break
    if arguments.out:
        steps_s = [b - a for a, b in pairwise(begun)][arguments.warm :]
        timer = run._core.engine.timer  # the public way to it comes with live re-mapping
        values = {"steps_s": steps_s, "pass_s": timer.pass_s}
        (arguments.out / f"worker-{rank}.json").write_text(json.dumps(values))


if __name__ == "__main__":
    main()
