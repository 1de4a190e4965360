"""Portable forms of reductions: sums in the fixed order, extremes by comparison, softmax."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from . import _functions as f
from . import _rows as rows
from ._elementwise import maximum
from ._matmul import matmul
from ._registry import form
from ._sums import sum64

Dims = Sequence[int] | int | None


def _dims(x: torch.Tensor, dims: Dims) -> list[int]:
    if isinstance(dims, int):
        dims = [dims]
    if not dims:
        return list(range(x.dim()))
    found = sorted(_dim(x, d) for d in dims)
    if len(set(found)) < len(found):
        raise RuntimeError(f"dimensions {list(dims)} name one twice; each is summed once. Name it once.")
    return found


def _dim(x: torch.Tensor, d: int) -> int:
    """A dimension of x counted from the first; a single number has one."""
    n = max(x.dim(), 1)
    if not -n <= d < n:
        raise IndexError(
            f"dimension {d} of a tensor with {x.dim()} dimensions; it is from {-n} to {n - 1}. Name one of those."
        )
    return d % n


def _refuse_integers(x: torch.Tensor, what: str) -> None:
    if not x.is_floating_point():
        raise RuntimeError(f"{what} of {x.dtype}; it has values that are no integers. Make it float first.")


def _count(x: torch.Tensor, dims: Dims) -> int:
    return math.prod(x.shape[d] for d in _dims(x, dims)) if x.dim() else 1


def _kind(x: torch.Tensor, dtype: torch.dtype | None) -> torch.dtype:
    return dtype or (x.dtype if x.is_floating_point() else torch.float32)


@form("sum")
def total(
    x: torch.Tensor, dim: Dims = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """Sum in the fixed order; integers as they are."""
    if not x.is_floating_point() and (dtype is None or not dtype.is_floating_point):
        return (
            torch.sum(x, _dims(x, dim), keepdim, dtype=dtype)
            if dim is not None
            else torch.sum(x, dtype=dtype)
        )
    return sum64(x, _dims(x, dim), keepdim=keepdim).to(_kind(x, dtype))


@form("mean")
def mean(
    x: torch.Tensor, dim: Dims = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """Mean in float64, rounded once."""
    if dtype is None:
        _refuse_integers(x, "the mean")
    return f.divided(sum64(x, _dims(x, dim), keepdim=keepdim), float(_count(x, dim))).to(_kind(x, dtype))


def moments(x: torch.Tensor, dims: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean, mean square about it, and the differences from it; all float64, dimensions kept."""
    n = float(_count(x, dims))
    middle = f.divided(sum64(x, dims, keepdim=True), n)
    apart = x.double() - middle
    return middle, f.divided(sum64(apart * apart, dims, keepdim=True), n), apart


def _spread(x: torch.Tensor, dim: Any, arguments: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Variance and mean, float64; dimensions kept if asked for. Any: overloads differ in their arguments."""
    _refuse_integers(x, "a variance")
    keepdim, correction = arguments.get("keepdim", False), arguments.get("correction", 1)
    if isinstance(dim, bool):  # var(x, unbiased)
        dim, correction = None, int(dim)
    if "unbiased" in arguments:
        correction = int(arguments["unbiased"])
    axes = _dims(x, dim)
    middle, square, _ = moments(x, axes)
    n = float(_count(x, axes))
    free = n - float(1 if correction is None else correction)
    variance = f.divided(square * n, free) if free > 0 else torch.full_like(square, math.nan)
    if not keepdim:
        shape = [s for d, s in enumerate(x.shape) if d not in axes]
        variance, middle = variance.reshape(shape), middle.reshape(shape)
    return variance, middle


@form("var")
def var(x: torch.Tensor, dim: Any = None, **arguments: Any) -> torch.Tensor:
    """Variance in two passes."""
    return _spread(x, dim, arguments)[0].to(x.dtype)


@form("std")
def std(x: torch.Tensor, dim: Any = None, **arguments: Any) -> torch.Tensor:
    """Square root of the variance."""
    return f.sqrt64(_spread(x, dim, arguments)[0]).to(x.dtype)


@form("var_mean")
def var_mean(x: torch.Tensor, dim: Any = None, **arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Variance and mean."""
    variance, middle = _spread(x, dim, arguments)
    return variance.to(x.dtype), middle.to(x.dtype)


@form("std_mean")
def std_mean(x: torch.Tensor, dim: Any = None, **arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Standard deviation and mean."""
    variance, middle = _spread(x, dim, arguments)
    return f.sqrt64(variance).to(x.dtype), middle.to(x.dtype)


@form("linalg_vector_norm")
def vector_norm(
    x: torch.Tensor,
    ord: float = 2,
    dim: Dims = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Norm of order 1, 2, or infinity, in float64, rounded once."""
    y = x.double()
    if ord == 2:
        return f.sqrt64(sum64(y * y, _dims(x, dim), keepdim=keepdim)).to(_kind(x, dtype))
    if ord == 1:
        return sum64(y.abs(), _dims(x, dim), keepdim=keepdim).to(_kind(x, dtype))
    if ord == math.inf:
        return amax(y.abs(), dim, keepdim).to(_kind(x, dtype))
    raise NotImplementedError(f"a norm of order {ord}; the orders are 1, 2 and infinity")


@form("norm")
def norm(
    x: torch.Tensor,
    p: float | None = 2,
    dim: Dims = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """As `linalg_vector_norm`."""
    return vector_norm(x, 2 if p is None else p, dim, keepdim, dtype=dtype)


@form("amax")
def amax(x: torch.Tensor, dim: Dims = None, keepdim: bool = False) -> torch.Tensor:
    """Largest value; a zero is +0."""
    return torch.amax(x, _dims(x, dim), keepdim) + 0


@form("amin")
def amin(x: torch.Tensor, dim: Dims = None, keepdim: bool = False) -> torch.Tensor:
    """Smallest value; a zero is +0."""
    return torch.amin(x, _dims(x, dim), keepdim) + 0


def _first(x: torch.Tensor, best: torch.Tensor, dim: int, keepdim: bool) -> torch.Tensor:
    """Index of the first value equal to `best` (kept dimensions), NaN counting as itself."""
    n = x.shape[dim]
    shape = [1] * x.dim()
    shape[dim] = n
    index = torch.arange(n, device=x.device).reshape(shape).expand(x.shape)
    hit = (x == best) | (x.isnan() & best.isnan())
    return torch.where(hit, index, n).amin(dim, keepdim)


def _extreme(x: torch.Tensor, sign: int, dim: Any, keepdim: bool) -> Any:
    pick = torch.amax if sign > 0 else torch.amin
    if x.dim() == 0:
        return (x + 0, torch.zeros((), dtype=torch.int64, device=x.device)) if isinstance(dim, int) else x + 0
    if not isinstance(dim, int):
        return pick(x, list(range(x.dim()))) + 0
    best = pick(x, [dim], True)
    at = _first(x, best, dim % x.dim(), keepdim)
    return (best if keepdim else best.squeeze(dim)) + 0, at


@form("max")
def largest(x: torch.Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    """Largest value, with the first index along a dimension; or the larger of two tensors."""
    if isinstance(dim, torch.Tensor):
        return maximum(x, dim)
    return _extreme(x, 1, dim, keepdim)


@form("min")
def smallest(x: torch.Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    """Smallest value, with the first index along a dimension; or the smaller of two tensors."""
    if isinstance(dim, torch.Tensor):
        return -maximum(-x, -dim)
    return _extreme(x, -1, dim, keepdim)


@form("argmax")
def argmax(x: torch.Tensor, dim: int | None = None, keepdim: bool = False) -> torch.Tensor:
    """First index of the largest value."""
    if dim is None:
        return argmax(x.reshape(-1), 0)
    return _extreme(x, 1, dim, keepdim)[1]  # type: ignore[no-any-return]


@form("argmin")
def argmin(x: torch.Tensor, dim: int | None = None, keepdim: bool = False) -> torch.Tensor:
    """First index of the smallest value."""
    if dim is None:
        return argmin(x.reshape(-1), 0)
    return _extreme(x, -1, dim, keepdim)[1]  # type: ignore[no-any-return]


@form("sort")
def sort(
    x: torch.Tensor, *where: Any, stable: bool | None = None, dim: int = -1, descending: bool = False
) -> Any:
    """Stable sort, whatever was asked for: ties have one order."""
    if where and isinstance(where[0], bool) and len(where) == 3:
        where = where[1:]
    dim, descending = (*where, *(dim, descending)[len(where) :])[:2]
    return torch.sort(x, dim=dim, descending=descending, stable=True)


@form("topk")
def topk(x: torch.Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    """The first k of a stable sort."""
    values, at = torch.sort(x, dim=dim, descending=largest, stable=True)
    return values.narrow(dim, 0, k), at.narrow(dim, 0, k)


@form("cumsum")
def cumsum(x: torch.Tensor, dim: int, *, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Running sum in float64 by doubling: after step s each value is the sum of the 2^s before it, in that tree's order."""
    if not x.is_floating_point():
        return torch.cumsum(x, dim, dtype=dtype)
    if x.dim() == 0:
        return cumsum(x[None], dim, dtype=dtype)[0]
    y, reach = x.double().movedim(dim, -1), 1
    while reach < y.shape[-1]:
        y = torch.cat([y[..., :reach], y[..., reach:] + y[..., :-reach]], -1)
        reach *= 2
    return y.movedim(-1, dim).contiguous().to(_kind(x, dtype))


@form("prod")
def product(
    x: torch.Tensor, dim: int | None = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """Product in float64, by halves: the first half of the values times the second, filled up with ones."""
    if not x.is_floating_point():
        return torch.prod(x, dtype=dtype) if dim is None else torch.prod(x, dim, keepdim, dtype=dtype)
    if x.dim() == 0 and dim is not None:
        return product(x[None], dim, dtype=dtype)
    y = x.double().reshape(-1) if dim is None else x.double().movedim(dim, -1)
    while y.shape[-1] > 1:
        half = 1 << (y.shape[-1] - 1).bit_length() - 1
        rest = torch.ones((*y.shape[:-1], 2 * half - y.shape[-1]), dtype=y.dtype, device=y.device)
        y = y[..., :half] * torch.cat([y[..., half:], rest], -1)
    y = y[..., 0] if y.shape[-1] else torch.ones(y.shape[:-1], dtype=y.dtype, device=y.device)
    return (y.unsqueeze(dim) if keepdim and dim is not None else y).to(_kind(x, dtype))


@form("cumprod")
def cumprod(x: torch.Tensor, dim: int, *, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Running product in float64, by doubling as `cumsum`."""
    if not x.is_floating_point():
        return torch.cumprod(x, dim, dtype=dtype)
    if x.dim() == 0:
        return cumprod(x[None], dim, dtype=dtype)[0]
    y, reach = x.double().movedim(dim, -1), 1
    while reach < y.shape[-1]:
        y = torch.cat([y[..., :reach], y[..., reach:] * y[..., :-reach]], -1)
        reach *= 2
    return y.movedim(-1, dim).contiguous().to(_kind(x, dtype))


@form("trace")
def trace(x: torch.Tensor) -> torch.Tensor:
    """Sum of the diagonal."""
    return total(torch.diagonal(x))


@form("nansum")
def nansum(
    x: torch.Tensor, dim: Dims = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """Sum with NaN as 0."""
    return total(torch.where(x.isnan(), torch.zeros_like(x), x), dim, keepdim, dtype=dtype)


@form("logsumexp")
def logsumexp(x: torch.Tensor, dim: Dims, keepdim: bool = False) -> torch.Tensor:
    """log of the sum of exp, in float64, rounded once; exp of infinity is infinity, and of -infinity 0."""
    axes = _dims(x, dim)
    top = _finite_top(x, axes)
    y = x.double() - top
    e = torch.where(y == torch.inf, torch.inf, _exp_or_0(y))
    out = f.log64(sum64(e, axes, keepdim=True)) + top
    out = out.to(_kind(x, None))
    return out if keepdim else out.reshape([s for d, s in enumerate(x.shape) if d not in axes])


def _finite_top(x: torch.Tensor, axes: list[int]) -> torch.Tensor:
    top = torch.amax(x, axes, True).double()
    return torch.where(top.isinf(), 0.0, top)


def _shifted(x: torch.Tensor, dim: int) -> torch.Tensor:
    """x - max, float64; -inf stays, so that its exp, which is held at exp(-700), counts as 0."""
    return x.double() - torch.amax(x, [dim], True).double()


def _exp_or_0(y: torch.Tensor) -> torch.Tensor:
    return torch.where(y < -700.0, 0.0, f.exp64(y))


def _check_softmax(x: torch.Tensor, dim: int) -> None:
    _refuse_integers(x, "softmax")
    _dim(x, dim)


@form("_softmax")
def softmax(x: torch.Tensor, dim: int, half_to_float: bool = False) -> torch.Tensor:
    """exp(x - max) / sum, in float64, rounded once."""
    _check_softmax(x, dim)
    if x.dim() == 0 or x.numel() == 0:
        return torch.ones_like(x)
    done = rows.softmax(x, dim, is_log=False)
    if done is not None:
        return done
    e = _exp_or_0(_shifted(x, dim))
    return (e / sum64(e, [dim], keepdim=True)).to(x.dtype)


@form("_safe_softmax")
def safe_softmax(x: torch.Tensor, dim: int, dtype: torch.dtype | None = None) -> torch.Tensor:
    """softmax, and zeros where everything is masked."""
    out = softmax(x, dim)
    return torch.where((x == -torch.inf).all(dim, keepdim=True), 0.0, out)


@form("_log_softmax")
def log_softmax(x: torch.Tensor, dim: int, half_to_float: bool = False) -> torch.Tensor:
    """(x - max) - log(sum(exp(x - max))), in float64, rounded once."""
    _check_softmax(x, dim)
    if x.dim() == 0 or x.numel() == 0:
        return torch.zeros_like(x)
    done = rows.softmax(x, dim, is_log=True)
    if done is not None:
        return done
    y = _shifted(x, dim)
    return (y - f.log64(sum64(_exp_or_0(y), [dim], keepdim=True))).to(x.dtype)


@form("_softmax_backward_data")
def softmax_backward(
    grad: torch.Tensor, out: torch.Tensor, dim: int, input_dtype: torch.dtype
) -> torch.Tensor:
    """(grad - sum(grad * out)) * out, in float64."""
    done = rows.softmax_back(grad, out, dim, is_log=False) if input_dtype == torch.float32 else None
    if done is not None:
        return done
    g, y = grad.double(), out.double()
    return ((g - sum64(g * y, [dim], keepdim=True)) * y).to(input_dtype)


@form("_log_softmax_backward_data")
def log_softmax_backward(
    grad: torch.Tensor, out: torch.Tensor, dim: int, input_dtype: torch.dtype
) -> torch.Tensor:
    """grad - exp(out) * sum(grad), in float64."""
    done = rows.softmax_back(grad, out, dim, is_log=True) if input_dtype == torch.float32 else None
    if done is not None:
        return done
    g = grad.double()
    return (g - _exp_or_0(out.double()) * sum64(g, [dim], keepdim=True)).to(input_dtype)


# ---- matrix products ----


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    if a.dtype == torch.float32 and b.dtype == torch.float32:
        return matmul(a, b)
    if not a.is_floating_point() and not b.is_floating_point():
        return torch.matmul(a, b)
    raise NotImplementedError(f"a matrix product of {a.dtype} and {b.dtype}; portable products are float32")


def _plus(x: torch.Tensor, product: torch.Tensor, beta: float, alpha: float) -> torch.Tensor:
    if alpha != 1:
        product = product * alpha
    if beta == 0:
        return product
    return product + (x if beta == 1 else x * beta)


@form("mm", "bmm")
def mm(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Product of matrices or of batches of matrices."""
    return _product(a, b)


@form("mv")
def mv(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Matrix times vector."""
    return _product(a, b.unsqueeze(1)).squeeze(1)


@form("dot", "vdot")
def dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Inner product of vectors."""
    return _product(a.unsqueeze(0), b.unsqueeze(1))[0, 0]


@form("addmm", "baddbmm")
def addmm(
    x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, *, beta: float = 1, alpha: float = 1
) -> torch.Tensor:
    """beta * x + alpha * (a @ b), each operation rounded."""
    return _plus(x, _product(a, b), beta, alpha)


@form("addmv")
def addmv(
    x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, *, beta: float = 1, alpha: float = 1
) -> torch.Tensor:
    """beta * x + alpha * (a @ b) for a vector b."""
    return _plus(x, mv(a, b), beta, alpha)
