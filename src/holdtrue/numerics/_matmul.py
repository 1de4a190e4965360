"""The matrix product, defined by integers: one answer, whoever multiplies them.

    M rows of A, N columns of B, K values in each; a row of A or a column of B is a "vector".
    vector -> exponent e (largest magnitude in [2^(e-1), 2^e)) and S digits per value, each an integer |q| <= 64:
        y_0 = x * 2^(6-e);  q_s = round(y_s), ties to even;  y_{s+1} = (y_s - q_s) * 128
    diagonal D_d = sum over s + t = d of (digits s of A) @ (digits t of B), an exact integer, for d < S
    high = ((D_0 * 128 + D_1) * 128 + D_2) * 128 + D_3;   low = D_4 * 128 + D_5 with six slices
    C = float32((high * 2^14 + low) * 2^(e_row + e_column - bits))

Accuracy. A digit expansion differs from its value by at most 2^-(7S) of the vector's largest, and the dropped diagonals
add (S-1) K 2^(-7S) or so: with S = 4 the error of one element is below K * 4 * 2^-28 * rowmax * colmax plus one
rounding to float32. Ordinary float32 is bounded by K * 2^-24 * sum |a b| (Higham, "Accuracy and Stability of
Numerical Algorithms", section 3.1).

Exactness of `high`. |D_d| <= (d+1) K 2^12, so |high| <= K 2^12 (2^21 + 2 * 2^14 + 3 * 2^7 + 4) < 2^53 for
K <= 4 * 65536; longer sums are cut into pieces of 65,536 and each part is added in float64, in order.

Rows of wide range. Small values matter that four digits would cut off where a vector has few large ones (at most one
in eight of its non-zeros is an eighth of the largest or more), many small ones (more than one in sixteen is below
2^-8 of the largest), or less than eight non-zeros: a peaked softmax, a graded matrix. Elements in such a row or
column use six slices. The rule looks at the vector alone, and zeros do not count, so neither the rest of the batch
nor padding changes a bit.

Special values. Infinities and NaN go by the rules of IEEE addition, which need no order. A sum that is zero is +0.
"""

import ctypes
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

import torch

from holdtrue.errors import NumericsError

from ._current import check_slices
from ._current import slices as current_slices
from ._native import native

PIECE = 65_536
"""Longest K of one integer sum: 6 * 64 * 64 * 65536 < 2^31."""

MORE_SLICES = 6
SMALL_VECTOR = 8


def matmul(a: torch.Tensor, b: torch.Tensor, *, slices: int | None = None) -> torch.Tensor:
    """Product of float32 matrices, or of batches of them.

    Args:
        a: `[M, K]` or `[batch, M, K]`, of any strides.
        b: `[K, N]` or `[batch, K, N]`; with `a` of three dimensions and a batch of 1 it serves all.
        slices: 3 or 4 for ordinary vectors; the mode's by default.

    Returns:
        `[M, N]` or `[batch, M, N]`, float32, contiguous, on the same device.

    Raises:
        NumericsError: an operand is not float32, the shapes do not belong together, or `slices` is neither 3 nor 4.

    Guarantee:
        The bits depend on the values alone: not on engine, device, threads, strides or the rest of the batch.
    """
    wanted = current_slices() if slices is None else slices
    check_slices(wanted)
    flat = a.dim() == 2 and b.dim() == 2
    if not flat:
        _check_operands(a, b)
    elif a.dtype != torch.float32 or b.dtype != torch.float32 or a.shape[1] != b.shape[0]:
        _check_operands(a.unsqueeze(0), b.unsqueeze(0))
    M, K = a.shape[-2:]
    batch = 1 if flat else a.shape[0] if b.shape[0] == 1 else b.shape[0]
    out = torch.empty((M, b.shape[-1]) if flat else (batch, M, b.shape[-1]), device=a.device)
    if out.numel() == 0:
        return out
    if K == 0:
        return out.zero_()
    found = native(a, b)
    if found is None and a.is_cuda and a.device == b.device:
        from ._cuda import multiply  # it imports this file

        if multiply(a, b, out, wanted):
            return out
    if found is None:
        left: Iterable[int] = range(batch)
        compute = reference
    else:
        left = _finite_products(found, a, b, out, (batch, M, b.shape[-1], K), wanted)
        compute = _with_specials
    for at in left:
        if flat:
            return compute(a, b, wanted)
        out[at] = compute(a[at % a.shape[0]], b[at % b.shape[0]], wanted)
    return out


def _check_operands(a: torch.Tensor, b: torch.Tensor) -> None:
    """Refuse what the kernels, which see addresses and strides alone, would read wrongly."""
    if a.dtype != torch.float32 or b.dtype != torch.float32:
        raise NumericsError(
            f"a matrix product of {a.dtype} and {b.dtype}; portable products are float32. Convert both with .float()."
        )
    shapes = f"{list(a.shape)} and {list(b.shape)}"
    if a.dim() != 3 or b.dim() != 3:
        raise NumericsError(
            f"a matrix product of shapes {shapes}; both must be matrices or both batches of them. Add the missing "
            f"dimension with unsqueeze(0)."
        )
    if a.shape[2] != b.shape[1]:
        raise NumericsError(
            f"a matrix product of shapes {shapes} (batch, rows, columns): the first has {a.shape[2]} columns and the second "
            f"{b.shape[1]} rows, and these must be the same number. Compare the layer's input features with what it is given."
        )
    if a.shape[0] != b.shape[0] and 1 not in (a.shape[0], b.shape[0]):
        raise NumericsError(
            f"a matrix product of shapes {shapes} (batch, rows, columns): {a.shape[0]} and {b.shape[0]} matrices do not pair; "
            f"batches must be of one size, or one of them 1. Expand one of them."
        )


@lru_cache(maxsize=256)
def _flags(size: int) -> type[ctypes.Array[ctypes.c_int32]]:
    """The type of so many integers, kept: ctypes makes it anew each time, and only the garbage collector takes it away."""
    return ctypes.c_int32 * size


def _finite_products(
    found: tuple[ctypes.CDLL, int],
    a: torch.Tensor,
    b: torch.Tensor,
    out: torch.Tensor,
    sizes: tuple[int, int, int, int],
    slices: int,
) -> Sequence[int]:
    """Compute those of a batch whose values are all finite, with the kernels `found`; returns which are left to do.

    `sizes` are batch, M, N and K.
    """
    done = _flags(sizes[0])()
    *before_a, row_a, step_a = a.stride()
    *before_b, step_b, column_b = b.stride()
    next_a = before_a[0] if before_a and a.shape[0] > 1 else 0
    next_b = before_b[0] if before_b and b.shape[0] > 1 else 0
    status = found[0].ht_products(
        a.data_ptr(), step_a, row_a, next_a, b.data_ptr(), step_b, column_b, next_b, out.data_ptr(), *sizes, slices, done,
        found[1],
    )  # fmt: skip
    if status < 0:
        raise MemoryError("no memory for the digits of a matrix product")
    return () if status == 0 else [at for at, is_done in enumerate(done) if not is_done]


def reference(a: torch.Tensor, b: torch.Tensor, slices: int) -> torch.Tensor:
    """The definition in torch operations, on any device: integer products as exact float64 ones."""
    if not bool(torch.isfinite(a).all()) or not bool(torch.isfinite(b).all()):
        return _with_specials(a, b, slices)
    wide_M, wide_N = is_wide(a), is_wide(b.t())
    out = _sliced(a, b, slices)
    if bool(wide_M.any()) or bool(wide_N.any()):
        out = torch.where(wide_M[:, None] | wide_N[None, :], _sliced(a, b, MORE_SLICES), out)
    return out


def is_wide(x: torch.Tensor) -> torch.Tensor:
    """Which rows of `x` (vectors, K) ask for more digits; see the head of this file."""
    size = x.abs()
    most = size.amax(1, keepdim=True)
    large = (size >= most * 0.125).sum(1)
    tiny = ((size > 0) & (size < most * 2.0**-8)).sum(1)
    some = (size > 0).sum(1)
    return (some > 0) & ((8 * large <= some) | (16 * tiny > some) | (some < SMALL_VECTOR))


def exponents(x: torch.Tensor) -> torch.Tensor:
    """e of each row of `x`, int64, with the largest magnitude in [2^(e-1), 2^e); 0 for zeros."""
    most = x.abs().amax(1).double()
    return torch.where(most > 0, ((most.view(torch.int64) >> 52) & 0x7FF) - 1022, 0)


def power_of_two(e: torch.Tensor) -> torch.Tensor:
    """2^e in float64, for integers |e| <= 1022."""
    return ((e + 1023) << 52).view(torch.float64)


def digits(x: torch.Tensor, exponent: torch.Tensor, slices: int) -> Iterator[torch.Tensor]:
    """The digits of rows `x`, most significant first, as float64 integers."""
    y = x.double() * power_of_two(6 - exponent)[:, None]
    for _ in range(slices):
        q = torch.round(y)
        yield q
        y = (y - q) * 128.0


def _sliced(a: torch.Tensor, b: torch.Tensor, slices: int) -> torch.Tensor:
    ea, eb = exponents(a), exponents(b.t())
    high = torch.zeros((a.shape[0], b.shape[1]), dtype=torch.float64, device=a.device)
    low = torch.zeros_like(high)
    for k in range(0, a.shape[1], PIECE):
        A = list(digits(a[:, k : k + PIECE], ea, slices))
        B = list(digits(b[k : k + PIECE].t(), eb, slices))
        parts = [torch.zeros_like(high), torch.zeros_like(high)]
        for d in range(slices):
            # Every partial sum is an integer below 2^53: exact, whatever the order and with or without fused adds.
            diagonal = torch.cat(A[: d + 1], 1) @ torch.cat(B[d::-1], 1).t()
            parts[d > 3] = parts[d > 3] * 128.0 + diagonal
        high, low = high + parts[0], low + parts[1]
    whole = high * 16384.0 + low if slices > 4 else high
    bits = 12 + 7 * (slices - 1)
    return (whole * power_of_two(ea - bits)[:, None] * power_of_two(eb)[None, :]).float()


def _with_specials(a: torch.Tensor, b: torch.Tensor, slices: int) -> torch.Tensor:
    """A product with infinities or NaN: the finite part, and the signs of the infinite terms counted."""
    finite_a, finite_b = torch.isfinite(a), torch.isfinite(b)
    out = matmul(torch.where(finite_a, a, 0.0), torch.where(finite_b, b, 0.0), slices=slices)

    def counted(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x.double() @ y.double()) > 0

    up_a, down_a, up_b, down_b = a == torch.inf, a == -torch.inf, b == torch.inf, b == -torch.inf
    plus = counted(up_a, b > 0) | counted(down_a, b < 0) | counted(a > 0, up_b) | counted(a < 0, down_b)
    minus = counted(up_a, b < 0) | counted(down_a, b > 0) | counted(a > 0, down_b) | counted(a < 0, up_b)
    none = counted(torch.isinf(a), b == 0) | counted(a == 0, torch.isinf(b))
    none = none | a.isnan().any(1)[:, None] | b.isnan().any(0)[None, :] | (plus & minus)
    out = torch.where(plus, torch.inf, torch.where(minus, -torch.inf, out))
    return torch.where(none, torch.nan, out)
