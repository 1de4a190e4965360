"""A convolutional network learns handwritten digits: a script for holdtrue from top to bottom.

python examples/digits/train.py                           one worker
holdtrue run --workers 2 examples/digits/train.py         two, the same bits
holdtrue verify examples/digits/train.py                  shows it, step by step

With `--epochs 500` it runs for a minute or two: long enough to resize it.
"""

import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

import holdtrue as ht


class Net(nn.Module):
    """Two convolutions with batch norm, dropout, one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(32 * 2 * 2, 10))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(images))


def load_images() -> tuple[TensorDataset, TensorDataset]:
    """1,437 real 8x8 images to train on, 360 to test on."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).div(16).unsqueeze(1)
    labels = torch.tensor(digits.target)
    return TensorDataset(images[:1437], labels[:1437]), TensorDataset(images[1437:], labels[1437:])


def main() -> None:
    parser = argparse.ArgumentParser(description="Learn handwritten digits.")
    parser.add_argument("--epochs", type=int, default=20)
    epochs = parser.parse_args().epochs

    run = ht.init(virtual_nodes=8, global_batch_size=128, seed=0)
    train_set, test_set = load_images()
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    steps = epochs * (len(train_set) // run.plan.global_batch_size)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    model, optimizer, scheduler = run.prepare(model, optimizer, scheduler)

    for step in run.steps(train_set, epochs=epochs):
        for images, labels in step:
            step.backward(F.cross_entropy(model(images), labels))
        step.update(max_grad_norm=1.0)

    scores = run.evaluate(lambda x, y: {"accuracy": (model(x).argmax(-1) == y).float().mean()}, test_set)
    run.log(**scores)
    run.save("digits.safetensors")


if __name__ == "__main__":
    main()
