"""Norms and softmax by the compiled kernels: the same operations as in _norms.py and _reductions.py, in one pass.

Each function gives None where the kernels cannot serve: without them, on another device, for float64 or other strides.
"""

import ctypes

import torch

from ._native import count, native, pointer

Maybe = torch.Tensor | None
Shape = tuple[int, int, int]
"""N, C, L: statistics belong to C."""


def _kernels(*tensors: Maybe) -> tuple[ctypes.CDLL, int] | None:
    given = [t for t in tensors if t is not None]
    if any(t.dtype != torch.float32 or t.numel() == 0 for t in given):
        return None
    return native(*given)


def _place(x: Maybe) -> ctypes.c_void_p | None:
    return None if x is None else pointer(x)


def moments(x: torch.Tensor, shape: Shape) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Mean and mean square about it of each c, float64 `[C]`; x is `[N, C, L]` in memory."""
    found = _kernels(x)
    if found is None or not x.is_contiguous():
        return None
    N, C, L = shape
    mean, square = torch.empty(C, dtype=torch.float64), torch.empty(C, dtype=torch.float64)
    line = torch.empty(N * L, dtype=torch.float64)
    found[0].ht_moments(
        pointer(x), pointer(mean), pointer(square), count(N), count(C), count(L), pointer(line), found[1]
    )
    return mean, square


def normalise(
    x: torch.Tensor,
    shape: Shape,
    mean: torch.Tensor,
    scale: torch.Tensor,
    weight: Maybe,
    bias: Maybe,
    *,
    per_c: bool,
) -> torch.Tensor | None:
    """(x - mean) * scale * weight + bias; mean and scale float64 `[C]`, weight and bias of C (`per_c`) or of L."""
    found = _kernels(x, weight, bias)
    if found is None or not x.is_contiguous():
        return None
    N, C, L = shape
    y = torch.empty_like(x)
    weight, bias = _dense(weight), _dense(bias)
    found[0].ht_normalise(
        pointer(x),
        pointer(y),
        count(N),
        count(C),
        count(L),
        pointer(mean),
        pointer(scale),
        _place(weight),
        _place(bias),
        int(per_c),
        found[1],
    )
    return y


def _dense(x: Maybe) -> Maybe:
    return None if x is None else x.contiguous()


def normalise_back(
    grad: torch.Tensor,
    x: torch.Tensor,
    shape: Shape,
    mean: torch.Tensor,
    scale: torch.Tensor,
    weight: Maybe,
    wanted: tuple[bool, bool, bool],
    *,
    per_c: bool,
) -> tuple[Maybe, Maybe, Maybe] | None:
    """Gradient of x; float64 gradients of weight and bias `[C]` with `per_c`, else the products to be summed, and None."""
    found = _kernels(grad, x, weight)
    if found is None or not x.is_contiguous():
        return None
    N, C, L = shape
    grad, weight = grad.contiguous(), _dense(weight)
    gx = torch.empty_like(x) if wanted[0] else None
    gw = torch.empty(C, dtype=torch.float64) if wanted[1] and per_c else None
    gb = torch.empty(C, dtype=torch.float64) if wanted[2] and per_c else None
    along = torch.empty(x.shape, dtype=torch.float64) if wanted[1] and not per_c else None
    room = torch.empty(3 * N * L, dtype=torch.float64)
    found[0].ht_normalise_back(
        pointer(grad),
        pointer(x),
        count(N),
        count(C),
        count(L),
        pointer(mean),
        pointer(scale),
        _place(weight),
        int(per_c),
        _place(gx),
        _place(gw),
        _place(gb),
        _place(along),
        pointer(room),
        found[1],
    )
    return gx, (gw if per_c else along), gb


def softmax(x: torch.Tensor, dim: int, *, is_log: bool) -> torch.Tensor | None:
    """Softmax or its logarithm along the last dimension."""
    found = _kernels(x)
    if found is None or dim % x.dim() != x.dim() - 1:
        return None
    x = x.contiguous()
    y, line = torch.empty_like(x), torch.empty(x.shape[-1], dtype=torch.float64)
    rows = x.numel() // x.shape[-1]
    found[0].ht_softmax(
        pointer(x), pointer(y), count(rows), count(x.shape[-1]), int(is_log), pointer(line), found[1]
    )
    return y


def softmax_back(grad: torch.Tensor, y: torch.Tensor, dim: int, *, is_log: bool) -> torch.Tensor | None:
    """Gradient of `softmax` from its result."""
    found = _kernels(grad, y)
    if found is None or dim % y.dim() != y.dim() - 1:
        return None
    grad, y = grad.contiguous(), y.contiguous()
    gx, line = torch.empty_like(y), torch.empty(y.shape[-1], dtype=torch.float64)
    found[0].ht_softmax_back(
        pointer(grad),
        pointer(y),
        pointer(gx),
        count(y.numel() // y.shape[-1]),
        count(y.shape[-1]),
        int(is_log),
        pointer(line),
        found[1],
    )
    return gx
