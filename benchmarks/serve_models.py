"""Models of the serving benchmark, as files that `holdtrue serve` reads: `serve_models.py:perceptron`, `:encoder`."""

import torch
from torch import nn


def perceptron() -> nn.Module:
    """784 features, two hidden layers of 1,024: at one example its time is that of reading 7.5 MB of weights."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(784, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10)
    )


class Encoder(nn.Module):
    """Two transformer layers of width 128 over 32 positions: at one example it computes already."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(128, 4, 512, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Linear(128, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.out(self.layers(x).mean(1))
        return found


def encoder() -> nn.Module:
    """See `Encoder`."""
    torch.manual_seed(0)
    return Encoder()


SHAPES = {"perceptron": (784,), "encoder": (32, 128)}
