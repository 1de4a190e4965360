"""What the benchmark scripts share: models, spreads, and the conditions that every raw file carries."""

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import TensorDataset

import holdtrue


class Transformer(nn.Module):
    """A small encoder over tokens; width 192, 4 layers, 1.9 M parameters, tied to nothing."""

    def __init__(self, vocabulary: int = 1000, width: int = 192, layers: int = 4, length: int = 64) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(torch.randn(length, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, 4, 4 * width, dropout=0.1, activation="gelu", batch_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Class scores of sequences of tokens."""
        return self.head(self.layers(self.embed(tokens) + self.position).mean(1))


def models(name: str, V: int) -> tuple[Callable[[], nn.Module], TensorDataset, int]:
    """A model's builder, a data set of 64 global batches (or fewer), and the virtual-node batch size."""
    torch.manual_seed(1)
    if name == "tiny-mlp":
        b, examples = 16, 16 * V * 64
        data = TensorDataset(torch.randn(examples, 64), torch.randint(0, 10, (examples,)))
        return lambda: nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)), data, b
    if name == "cnn":
        b, examples = 16, 16 * V * 16
        data = TensorDataset(torch.randn(examples, 1, 28, 28), torch.randint(0, 10, (examples,)))

        def build() -> nn.Module:
            return nn.Sequential(
                nn.Conv2d(1, 16, 3, padding=1),
                nn.BatchNorm2d(16),
                nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Conv2d(16, 32, 3, padding=1),
                nn.BatchNorm2d(32),
                nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Dropout(0.1),
                nn.Flatten(),
                nn.Linear(32 * 49, 10),
            )

        return build, data, b
    if name == "mlp":
        b, examples = 32, 32 * V * 8
        data = TensorDataset(torch.randn(examples, 784), torch.randint(0, 10, (examples,)))
        return (
            lambda: nn.Sequential(
                nn.Linear(784, 1536), nn.ReLU(), nn.Linear(1536, 2048), nn.ReLU(), nn.Linear(2048, 10)
            ),
            data,
            b,
        )
    if name == "transformer":
        b, examples = 8, 8 * V * 8
        data = TensorDataset(torch.randint(0, 1000, (examples, 64)), torch.randint(0, 10, (examples,)))
        return Transformer, data, b
    raise SystemExit(
        f"model {name!r} is not known; the models are tiny-mlp, cnn, mlp, transformer. Name one of them."
    )


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Minimum, median, maximum and the values themselves."""
    return {
        "min": min(values),
        "median": statistics.median(values),
        "max": max(values),
        "values": list(values),
    }


def describe(command: str) -> dict[str, Any]:
    """Command, device and versions of a measurement."""
    name = "unknown"
    with open("/proc/cpuinfo") as lines:
        for line in lines:
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    device: dict[str, Any] = {"cpu": name, "cores": os.cpu_count()}
    if torch.cuda.is_available():
        device["gpu"] = torch.cuda.get_device_name()
    return {
        "command": command if len(sys.argv) == 1 else f"{command} {' '.join(sys.argv[1:])}",
        "device": device,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "holdtrue": holdtrue.__version__,
        },
        "threads": torch.get_num_threads(),
        "date": time.strftime("%Y-%m-%d"),
    }


def write_json(path: str | None, values: dict[str, Any]) -> None:
    """Write a raw file, if a path is given."""
    if path:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps(values, indent=1) + "\n")
        print(f"wrote {path}")
