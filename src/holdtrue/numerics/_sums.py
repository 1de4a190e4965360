"""Sums in one fixed order, in float64.

Blocks of 4096 values; in a block lane l of 64 adds its values l, l + 64, ... in that order, from +0; lanes fold by
halves; the block sums are summed by the same rule. The order depends on the number of values alone.
"""

from collections.abc import Sequence
from math import prod

import torch

from ._native import native

LANES = 64
BLOCK = 4096


def sum64(x: torch.Tensor, dims: Sequence[int] | None = None, *, keepdim: bool = False) -> torch.Tensor:
    """Sum over dimensions, in float64.

    Args:
        x: float32 or float64; other types are made float64 first.
        dims: What to sum over; everything by default. The values are taken in row-major order.
        keepdim: Whether the summed dimensions stay, with size 1.

    Returns:
        float64, on the same device.
    """
    count = x.dim()
    if count == 0:
        return x.double() + 0.0
    axes = sorted({d % count for d in dims}) if dims else list(range(count))
    if x.dtype not in (torch.float32, torch.float64):
        x = x.double()
    first, last = axes[0], axes[-1]
    if last - first + 1 != len(axes):
        kept = [d for d in range(x.dim()) if d not in axes]
        out = _sum_middle(x.permute(*kept, *axes).flatten(len(kept)).contiguous(), len(kept), len(kept))
    else:
        out = _sum_middle(x.contiguous(), first, last)
    if keepdim:
        out = out.reshape([1 if d in axes else n for d, n in enumerate(x.shape)])
    return out


def _sum_middle(x: torch.Tensor, first: int, last: int) -> torch.Tensor:
    """Sum of a contiguous tensor over its dimensions first..last."""
    sizes = tuple(x.shape)
    before, after = sizes[:first], sizes[last + 1 :]
    outer, n, inner = prod(before), prod(sizes[first : last + 1]), prod(after)
    if outer * n * inner == 0:
        return torch.zeros(before + after, dtype=torch.float64, device=x.device)
    found = native(x)
    if found is None:
        return _reference(x.reshape(outer, n, inner)).reshape(before + after)
    out = torch.empty(before + after, dtype=torch.float64)
    function = found[0].ht_sum_f32 if x.dtype == torch.float32 else found[0].ht_sum_f64
    function(x.data_ptr(), out.data_ptr(), outer, n, inner, found[1])
    return out


def _reference(x: torch.Tensor) -> torch.Tensor:
    """The same order in torch operations; x is [outer, n, inner]."""
    outer, n, inner = x.shape
    blocks = max(1, -(-n // BLOCK))
    length = BLOCK if blocks > 1 else -(-n // LANES) * LANES
    whole = torch.zeros((outer, blocks * length, inner), dtype=torch.float64, device=x.device)
    whole[:, :n] = x  # a lane that starts at +0 stays the same when +0 is added
    lanes = whole.reshape(outer, blocks, length // LANES, LANES, inner)
    total = torch.zeros((outer, blocks, LANES, inner), dtype=torch.float64, device=x.device)
    for k in range(length // LANES):
        total = total + lanes[:, :, k]
    half = LANES // 2
    while half:
        total = total[:, :, :half] + total[:, :, half:]
        half //= 2
    sums = total[:, :, 0]
    return sums[:, 0] if blocks == 1 else _reference(sums)
