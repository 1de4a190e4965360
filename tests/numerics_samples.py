"""Awkward matrices for the tests of products."""

import math

import torch

KINDS = ("plain", "zeros", "wide", "denormal", "special", "huge", "one-hot")


def sample(kind: str, rows: int, columns: int, seed: int) -> torch.Tensor:
    """An awkward matrix of one kind."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, columns, generator=g)
    if kind == "zeros":
        return torch.where(torch.rand(rows, columns, generator=g) < 0.6, -0.0, x)
    if kind == "wide":
        return x * torch.pow(2.0, torch.randint(-60, 60, (rows, columns), generator=g).float())
    if kind == "denormal":
        return x * 2.0**-130
    if kind == "huge":
        return x * 2.0**126
    if kind == "one-hot":
        return (
            torch.nn.functional.one_hot(torch.randint(0, columns, (rows,), generator=g), columns).float() * x
        )
    if kind == "special":
        special = torch.tensor([math.inf, -math.inf, math.nan, 0.0, -0.0])
        pick = torch.randint(0, 40, (rows, columns), generator=g)
        return torch.where(pick < 5, special[pick.clamp(max=4)], x)
    return x
