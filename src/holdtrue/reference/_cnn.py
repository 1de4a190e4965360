"""`python -m holdtrue.reference._cnn`: a convolutional network with batch norm and dropout, on images of patterns."""

import torch
import torch.nn.functional as F
from torch import nn

import holdtrue as ht
from holdtrue.numerics import portable_mode

from ._data import CLASSES, make_images

EPOCHS = 8


def build() -> nn.Module:
    """Two convolutions with batch norm, dropout, one linear layer; `[N, 1, 12, 12]` in, `[N, 8]` out."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(0.25), nn.Linear(32 * 3 * 3, CLASSES),
    )  # fmt: skip


def main() -> None:
    """Train, and log the accuracy on other images."""
    run = ht.init(virtual_nodes=4, global_batch_size=64, seed=0, numerics="portable")
    with portable_mode(key=run.plan.seed):
        model = build()
    train_set, test_set = make_images(2048, part=0), make_images(1024, part=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    steps = EPOCHS * (len(train_set) // run.plan.global_batch_size)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    model, optimizer, scheduler = run.prepare(model, optimizer, scheduler)
    for step in run.steps(train_set, epochs=EPOCHS):
        for images, labels in step:
            step.backward(F.cross_entropy(model(images), labels, label_smoothing=0.1))
        step.update()
    scores = run.evaluate(lambda x, y: {"accuracy": (model(x).argmax(-1) == y).float().mean()}, test_set)
    run.log(**scores)


if __name__ == "__main__":
    main()
