"""Portable forms of operators that add where indices say: in the order of the indices, in float64, rounded once."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from ._native import count, native, pointer
from ._registry import form


def add_rows(
    rows: torch.Tensor, index: torch.Tensor, size: int, start: torch.Tensor | None = None
) -> torch.Tensor:
    """Rows added up by index.

    Args:
        rows: `[n, width]`, float32 or float64.
        index: n integers; negative ones are left out.
        size: Number of rows of the result.
        start: `[size, width]`: what is added to; zeros by default.

    Returns:
        `[size, width]`, float64: each row the sum of its rows in the order of n.
    """
    width = rows.shape[1]
    out = (
        torch.zeros((size, width), dtype=torch.float64, device=rows.device)
        if start is None
        else start.double().contiguous().clone()
    )
    if index.numel() and bool((index >= size).any()):
        raise IndexError(f"an index is {int(index.max())}; there are {size} rows")
    found = native(rows, index)
    if found is not None and rows.dtype == torch.float32 and index.numel():
        rows, index = rows.contiguous(), index.long().contiguous()
        found[0].ht_add_rows(pointer(rows), pointer(index), pointer(out), count(len(index)), count(width))
        return out
    kept = index >= 0
    rows, index = rows[kept].double(), index[kept].long()
    order = torch.argsort(index, stable=True)
    index, rows = index[order], rows[order]
    # Of each group of equal indices one row at a time: then nothing is added twice in one operation.
    place = torch.arange(len(index), device=rows.device)
    is_first = torch.ones_like(index, dtype=torch.bool)
    is_first[1:] = index[1:] != index[:-1]
    rank = place - torch.cummax(torch.where(is_first, place, 0), 0).values if len(index) else place
    for r in range(int(rank.max()) + 1 if len(index) else 0):
        now = rank == r
        out[index[now]] = out[index[now]] + rows[now]
    return out


@form("embedding_dense_backward")
def embedding_backward(
    grad: torch.Tensor, indices: torch.Tensor, num_weights: int, padding_idx: int, scale_grad_by_freq: bool
) -> torch.Tensor:
    """Gradient of a table of embeddings, added in the order of the tokens."""
    index, rows = indices.reshape(-1), grad.reshape(-1, grad.shape[-1])
    if padding_idx >= 0:
        index = torch.where(index == padding_idx, -1, index)
    if scale_grad_by_freq:
        counts = torch.bincount(index[index >= 0], minlength=num_weights).clamp(min=1)
        rows = rows / counts[index.clamp(min=0)][:, None].to(rows.dtype)
    return add_rows(rows, index, num_weights).to(grad.dtype)


@form("index_add")
def index_add(
    x: torch.Tensor, dim: int, index: torch.Tensor, source: torch.Tensor, *, alpha: float = 1
) -> torch.Tensor:
    """x with slices of source added, in the order of index."""
    if not x.is_floating_point():
        return torch.index_add(x, dim, index, source, alpha=alpha)
    into, rows = x.movedim(dim, 0), source.movedim(dim, 0)
    rows = rows if alpha == 1 else rows * alpha
    out = add_rows(rows.reshape(len(index), -1), index, into.shape[0], into.reshape(into.shape[0], -1))
    return out.to(x.dtype).reshape(into.shape).movedim(0, dim).contiguous()


@form("scatter_add")
def scatter_add(x: torch.Tensor, dim: int, index: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """x with elements of source added where index says, in row-major order of index."""
    if not x.is_floating_point():
        return torch.scatter_add(x, dim, index, source)
    places = torch.arange(x.numel(), device=x.device).reshape(x.shape)
    part = tuple(slice(0, n) if d != dim % x.dim() else slice(None) for d, n in enumerate(index.shape))
    at = places[part].gather(dim, index)
    taken = source[tuple(slice(0, n) for n in index.shape)]
    out = add_rows(taken.reshape(-1, 1), at.reshape(-1), x.numel(), x.reshape(-1, 1))
    return out.to(x.dtype).reshape(x.shape)


@form("scatter")
def scatter(
    x: torch.Tensor, dim: int, index: torch.Tensor, source: Any, *, reduce: str | None = None
) -> torch.Tensor:
    """x with elements replaced; where two indices are equal, the answer would depend on the device."""
    if reduce is not None:
        raise NotImplementedError("a scatter with a reduction; use scatter_add")
    if isinstance(source, torch.Tensor) and index.numel():
        ordered = index.sort(stable=True, dim=dim).values
        n = ordered.shape[dim]
        if bool((ordered.narrow(dim, 1, n - 1) == ordered.narrow(dim, 0, n - 1)).any()):
            raise NotImplementedError("a scatter of several values to one place; use scatter_add")
    return torch.scatter(x, dim, index, source)


@form("index_put", "_unsafe_index_put", "_index_put_impl")
def index_put(
    x: torch.Tensor,
    indices: Sequence[torch.Tensor | None],
    values: torch.Tensor,
    accumulate: bool = False,
    *_: bool,
) -> torch.Tensor:
    """x with values put or added at indices; added in row-major order of the indices."""
    places = torch.arange(x.numel(), device=x.device).reshape(x.shape)
    at = torch.ops.aten.index(places, indices)
    spread = values.expand(at.shape)
    if accumulate and x.is_floating_point():
        out = add_rows(spread.reshape(-1, 1), at.reshape(-1), x.numel(), x.reshape(-1, 1))
        return out.to(x.dtype).reshape(x.shape)
    if accumulate:
        return torch.ops.aten.index_put(x, indices, values, True)  # type: ignore[no-any-return]
    if values.numel() > 1 and at.numel() != math.prod(torch.unique(at).shape):
        raise NotImplementedError("an assignment of several values to one place; make the indices unique")
    return torch.ops.aten.index_put(x, indices, values, False)  # type: ignore[no-any-return]


@form("bincount")
def bincount(x: torch.Tensor, weights: torch.Tensor | None = None, minlength: int = 0) -> torch.Tensor:
    """Counts, or sums of weights in order."""
    if weights is None:
        return torch.bincount(x, minlength=minlength)
    size = max(minlength, int(x.max()) + 1 if x.numel() else 0)
    return add_rows(weights.reshape(-1, 1), x, size)[:, 0]
