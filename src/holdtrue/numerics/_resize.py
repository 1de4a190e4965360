"""Portable forms of linear and bilinear resizing: two neighbours along each axis, weights in float64, one rounding."""

import math
from collections.abc import Sequence

import torch

from ._indexing import add_rows
from ._registry import form

Axis = tuple[list[int], list[int], list[float]]
"""For each place of the result: its two neighbours, and the weight of the second."""


def _axis(size: int, out: int, align_corners: bool, scale: float | None) -> Axis:
    """Where the places of one axis come from; plain IEEE arithmetic on Python's floats."""
    if align_corners:
        step = (size - 1) / (out - 1) if out > 1 else 0.0
    else:
        step = 1.0 / scale if scale else size / out
    low, high, weight = [], [], []
    for i in range(out):
        at = i * step if align_corners else max(0.0, (i + 0.5) * step - 0.5)
        first = min(math.floor(at), size - 1)
        low.append(first)
        high.append(min(first + 1, size - 1))
        weight.append(min(max(at - first, 0.0), 1.0))
    return low, high, weight


def _along(x: torch.Tensor, dim: int, axis: Axis) -> torch.Tensor:
    """Interpolate float64 `x` along one dimension."""
    low, high, weight = axis
    w = _weights(x, dim, weight)
    index = torch.tensor(low, device=x.device), torch.tensor(high, device=x.device)
    return x.index_select(dim, index[0]) * (1.0 - w) + x.index_select(dim, index[1]) * w


def _weights(x: torch.Tensor, dim: int, weight: list[float]) -> torch.Tensor:
    shape = [1] * x.dim()
    shape[dim] = len(weight)
    return torch.tensor(weight, dtype=torch.float64, device=x.device).reshape(shape)


def _along_backward(g: torch.Tensor, dim: int, axis: Axis, size: int) -> torch.Tensor:
    """Gradient of `_along`, added in the order of the places: first neighbours, then second ones."""
    low, high, weight = axis
    w = _weights(g, dim, weight)
    rows = torch.cat([(g * (1.0 - w)).movedim(dim, 0), (g * w).movedim(dim, 0)])
    index = torch.tensor([*low, *high], device=g.device)
    out = add_rows(rows.reshape(len(index), -1), index, size)
    return out.reshape(size, *rows.shape[1:]).movedim(0, dim)


@form("upsample_linear1d")
def linear(
    x: torch.Tensor, output_size: Sequence[int], align_corners: bool, scales: float | None = None
) -> torch.Tensor:
    """Linear resizing of `[N, C, L]`."""
    axis = _axis(x.shape[2], output_size[0], align_corners, scales)
    return _along(x.double(), 2, axis).to(x.dtype)


@form("upsample_linear1d_backward")
def linear_backward(
    grad: torch.Tensor,
    output_size: Sequence[int],
    input_size: Sequence[int],
    align_corners: bool,
    scales: float | None = None,
) -> torch.Tensor:
    """Gradient of `linear`."""
    axis = _axis(input_size[2], output_size[0], align_corners, scales)
    return _along_backward(grad.double(), 2, axis, input_size[2]).to(grad.dtype).contiguous()


@form("upsample_bilinear2d")
def bilinear(
    x: torch.Tensor,
    output_size: Sequence[int],
    align_corners: bool,
    scales_h: float | None = None,
    scales_w: float | None = None,
) -> torch.Tensor:
    """Bilinear resizing of `[N, C, H, W]`: along rows, then along columns."""
    down = _axis(x.shape[2], output_size[0], align_corners, scales_h)
    right = _axis(x.shape[3], output_size[1], align_corners, scales_w)
    return _along(_along(x.double(), 2, down), 3, right).to(x.dtype)


@form("upsample_bilinear2d_backward")
def bilinear_backward(
    grad: torch.Tensor,
    output_size: Sequence[int],
    input_size: Sequence[int],
    align_corners: bool,
    scales_h: float | None = None,
    scales_w: float | None = None,
) -> torch.Tensor:
    """Gradient of `bilinear`."""
    down = _axis(input_size[2], output_size[0], align_corners, scales_h)
    right = _axis(input_size[3], output_size[1], align_corners, scales_w)
    g = _along_backward(grad.double(), 3, right, input_size[3])
    return _along_backward(g, 2, down, input_size[2]).to(grad.dtype).contiguous()
