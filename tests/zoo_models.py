"""Tiny models, one for each way in which a model can be awkward; a pass takes about a millisecond."""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

WORDS = 13
LENGTH = 6


def conv_net() -> nn.Sequential:
    """Convolution, batch norm and dropout on images of 6 x 6."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Conv2d(4, 4, 3),
        nn.BatchNorm2d(4, momentum=None),
        nn.Flatten(),
        nn.Linear(16, 5),
    )


def mlp(features: int, width: int = 17) -> nn.Sequential:
    """An MLP whose first matrix has rows of any alignment."""
    return nn.Sequential(nn.Linear(features, width), nn.Tanh(), nn.Dropout(0.1), nn.Linear(width, 5))


class Recurrent(nn.Module):
    """Two LSTM layers with dropout between them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, 8)
        self.lstm = nn.LSTM(8, 9, num_layers=2, dropout=0.2, batch_first=True)
        self.out = nn.Linear(9, WORDS)

    def forward(self, words: Tensor) -> Tensor:
        return self.out(self.lstm(self.embed(words))[0])  # type: ignore[no-any-return]  # torch's own


class Block(nn.Module):
    """One transformer layer with dropout inside attention."""

    angles: Tensor

    def __init__(self, width: int, *, rotary: bool = False) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        if rotary:
            angles = torch.outer(torch.arange(LENGTH), 10.0 ** -torch.arange(0.0, 1.0, 4 / width))
            self.register_buffer("angles", angles, persistent=False)
        self.rotary = rotary

    def turn(self, x: Tensor) -> Tensor:
        """Rotary positions: frequencies from a buffer that no pass may change by a bit."""
        a, b = x.chunk(2, -1)
        cos, sin = self.angles.cos(), self.angles.sin()
        return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (2, -1)).transpose(1, 2) for t in self.qkv(self.norm_1(x)).chunk(3, -1))
        if self.rotary:
            q, k = self.turn(q), self.turn(k)
        dropout = 0.1 if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        x = x + self.mix(y.transpose(1, 2).flatten(-2))
        return x + F.dropout(self.down(F.gelu(self.up(self.norm_2(x)))), 0.1, self.training)


class Transformer(nn.Module):
    """Tied embeddings, attention dropout, layer norm, GELU; with or without activation checkpointing."""

    def __init__(self, *, rotary: bool = False, reentrant: bool | None = None) -> None:
        super().__init__()
        width = 16
        self.embed = nn.Embedding(WORDS, width)
        self.first, self.second = Block(width, rotary=rotary), Block(width, rotary=rotary)
        self.out = nn.Linear(width, WORDS)
        self.out.weight = self.embed.weight
        self.reentrant = reentrant

    def forward(self, words: Tensor) -> Tensor:
        x = self.embed(words)
        for block in (self.first, self.second):
            x = block(x) if self.reentrant is None else checkpoint(block, x, use_reentrant=self.reentrant)
        if self.reentrant is not None:  # the last layer again: a parameter that accumulates twice in a pass
            x = self.second(x)
        return self.out(x)  # type: ignore[no-any-return]  # torch's own


class PartlyUsed(nn.Module):
    """Which branch a pass takes is its own draw; one parameter is used in no pass of any worker."""

    def __init__(self) -> None:
        super().__init__()
        self.never = nn.Parameter(torch.ones(3, 3))
        self.branches = nn.ModuleList(nn.Linear(11, 7) for _ in range(3))
        self.out = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        branch = int(torch.randint(3, ()))
        return self.out(torch.relu(self.branches[branch](x)))  # type: ignore[no-any-return]  # torch's own


class SpectralRotary(nn.Module):
    """Buffers that are constants (rotary frequencies) or change alike in all passes (power iteration)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Transformer(rotary=True)
        nn.utils.parametrizations.spectral_norm(self.body.first.up)
        nn.utils.spectral_norm(self.body.second.down)

    def forward(self, words: Tensor) -> Tensor:
        return self.body(words)  # type: ignore[no-any-return]  # torch's own


class ThreeDtypes(nn.Module):
    """Parameters in float64, float32 and bfloat16: buckets differ in dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.usual = nn.Linear(9, 8).double(), nn.Linear(8, 8)
        self.narrow = nn.Linear(8, 5).to(torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.usual(self.wide(x.double()).float()).tanh()
        return self.narrow(hidden.bfloat16()).float()  # type: ignore[no-any-return]  # torch's own


class Ruled(nn.Module):
    """One buffer for each rule of `buffers=`, changed in unlike ways by the passes."""

    RULES = ("mean", "sum", "max", "min", "first", "per_node")
    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(10, 5)
        for rule in self.RULES:
            self.register_buffer(rule, torch.full((4,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            seen = x[:, :4].mean(0)
            for rule in self.RULES:
                getattr(self, rule).mul_(0.9).add_(seen, alpha=0.1)
        y = x + torch.cat([self.mean, getattr(self, "per_node"), x.new_zeros(2)])  # noqa: B009 - a buffer
        return self.layer(y)  # type: ignore[no-any-return]  # torch's own


class Average:
    """An exponential moving average of the weights, with a state of its own."""

    def __init__(self, model: nn.Module) -> None:
        self.shadow = copy.deepcopy(model.state_dict())

    @torch.no_grad()
    def follow(self, model: nn.Module) -> None:
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                self.shadow[name].lerp_(value, 0.1)

    def state_dict(self) -> dict[str, Any]:
        return dict(self.shadow)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.shadow = dict(state)


class EarlyStopping:
    """Says when the loss has not fallen for `patience` steps."""

    def __init__(self, patience: int) -> None:
        self.patience, self.best, self.waited = patience, float("inf"), 0

    def is_over(self, loss: float) -> bool:
        self.waited = 0 if loss < self.best else self.waited + 1
        self.best = min(self.best, loss)
        return self.waited >= self.patience

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.waited = state["best"], state["waited"]
