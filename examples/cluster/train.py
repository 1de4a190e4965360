"""A small network learns handwritten digits for as many epochs as it is told: one job of a shared cluster.

holdtrue submit examples/cluster/job.toml
"""

import sys

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

import holdtrue as ht


def main() -> None:
    epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    run = ht.init(virtual_nodes=8, global_batch_size=256, seed=0)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).div(16).unsqueeze(1)
    model = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.3), nn.Linear(64 * 4 * 4, 10),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    run.prepare(model, optimizer)
    for step in run.steps(TensorDataset(images, torch.tensor(digits.target)), epochs=epochs):
        for x, y in step:
            step.backward(F.cross_entropy(model(x), y))
        step.update()


if __name__ == "__main__":
    main()
