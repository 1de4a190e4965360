"""Portable forms of what copies places: nearest resizing, and the gradients of it and of padding that copies."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from ._indexing import add_rows
from ._registry import form

Axis = list[int]
"""For each place of the result, the place that it is a copy of."""


def _nearest(size: int, out: int, scale: float | None, half: float) -> Axis:
    """Where the places of one axis come from: products in float32, as torch has them on every device."""
    step = np.float32(1.0 / scale) if scale else np.float32(size) / np.float32(out)
    at = np.floor((np.arange(out, dtype=np.float32) + np.float32(half)) * step)
    return [min(int(i), size - 1) for i in at]


def _reflected(size: int, before: int, after: int) -> Axis:
    return [size - 1 - abs(size - 1 - abs(i)) for i in range(-before, size + after)]


def _replicated(size: int, before: int, after: int) -> Axis:
    return [min(max(i, 0), size - 1) for i in range(-before, size + after)]


def _copy(x: torch.Tensor, axes: Sequence[Axis]) -> torch.Tensor:
    """x with its last dimensions copied from, the first of the axes along the first of them."""
    for dim, axis in enumerate(axes, -len(axes)):
        x = x.index_select(dim, torch.tensor(axis, device=x.device))
    return x


def _copy_backward(grad: torch.Tensor, axes: Sequence[Axis], sizes: Sequence[int]) -> torch.Tensor:
    """Gradient of `_copy`, added in the order of the places, along the last dimension first; rounded once."""
    g = grad.double()
    for dim in range(-1, -len(axes) - 1, -1):
        rows = g.movedim(dim, 0)
        index = torch.tensor(axes[dim], device=g.device)
        out = add_rows(rows.reshape(len(index), -1), index, sizes[dim])
        g = out.reshape(sizes[dim], *rows.shape[1:]).movedim(0, dim)
    return g.to(grad.dtype).contiguous()


def _add_nearest(dims: int, name: str, half: float) -> None:
    def axes_of(sizes: Sequence[int], out: Sequence[int], scales: Sequence[float | None]) -> list[Axis]:
        given = scales or [None] * dims
        return [_nearest(n, m, scale, half) for n, m, scale in zip(sizes[-dims:], out, given, strict=True)]

    @form(name)
    def resize(x: torch.Tensor, output_size: Sequence[int], *scales: float | None) -> torch.Tensor:
        return _copy(x, axes_of(x.shape, output_size, scales))

    @form(f"{name}_backward")
    def resize_backward(
        grad: torch.Tensor, output_size: Sequence[int], input_size: Sequence[int], *scales: float | None
    ) -> torch.Tensor:
        return _copy_backward(grad, axes_of(input_size, output_size, scales), input_size)


def _add_padding(dims: int, name: str, axis_of: Callable[[int, int, int], Axis]) -> None:
    @form(f"{name}_backward")
    def pad_backward(grad: torch.Tensor, x: torch.Tensor, padding: Sequence[int]) -> torch.Tensor:
        pairs = [(padding[2 * d], padding[2 * d + 1]) for d in reversed(range(dims))]
        axes = [axis_of(n, *pair) for n, pair in zip(x.shape[-dims:], pairs, strict=True)]
        return _copy_backward(grad, axes, x.shape)


for _dims in (1, 2):
    _add_nearest(_dims, f"upsample_nearest{_dims}d", 0.0)
    _add_nearest(_dims, f"_upsample_nearest_exact{_dims}d", 0.5)
    _add_padding(_dims, f"reflection_pad{_dims}d", _reflected)
    _add_padding(_dims, f"replication_pad{_dims}d", _replicated)
