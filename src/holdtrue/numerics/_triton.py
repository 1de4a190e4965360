"""The matrix product of `_matmul.py` as Triton kernels: for CUDA, and for CPU tensors in Triton's interpreter.

    vector    a row of A or a column of B, as in `_matmul.py`; `[batch, vectors, K]`, of any strides
    facts     what one look at a vector finds, int32 `[batch, vectors, FACTS]`: bits of its largest finite magnitude; how many
              values are not zero, large, tiny (the rule of wide vectors); whether one is infinite or NaN
    order     vectors by place, int32 `[batch, vectors]`: usual ones first, wide ones behind, so that nearly all tiles are
              wholly of one kind; `wides` says how many are wide
    digits    int8 `[batch, 6, places, K]`, places and K padded to whole tiles; zeros behind K, anything behind the vectors
    member    one matrix of the batch; an operand of a batch of 1 serves all members

One launch multiplies with the digits that were asked for, and writes the usual elements; one with six writes those of wide
vectors; one writes what infinities and NaN make of an element. A tile with nothing to write ends at once, so nothing is read
back to the host between them: which launches have work is known on the device alone.

Exactness. Magnitudes are compared as integers, counts and orders are integers, atomic operations are on integers: any order of
programs gives the same. In float64 all factors are powers of two, and sums are exact but for the one of `high` and `low` and
those of pieces, which have one order; so a fused multiply-add would change nothing, and is forbidden all the same.
Only the kernels of this file multiply, so a tile of any shape has the same bits: sizes alone choose it, and nothing is tuned.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl

from ._matmul import MORE_SLICES, PIECE

FACTS = 5
MOST, SOME, LARGE, TINY, SPECIAL = (tl.constexpr(i) for i in range(FACTS))
WIDTH = tl.constexpr(FACTS)
PLANES = tl.constexpr(MORE_SLICES)
INFINITE = tl.constexpr(0x7F800000)
MAGIC = tl.constexpr(1.5 * 2.0**52)
"""Added to |y| < 2^51 in float64 it leaves y rounded to an integer, ties to even."""
PIECE_K = tl.constexpr(PIECE)

LOOK_VECTORS, LOOK_K, LOOKS = 32, 128, 4
"""A program that looks at vectors or cuts them: so many vectors and values, and blocks of values that one look goes through."""
ORDER_BLOCK = 1024
SPECIAL_TILE = 32
GROUP_TILES = tl.constexpr(8)
"""Rows of tiles that are computed together, so that columns are found in the cache."""
DIGIT_BYTES = 2**30
"""Digits of so many bytes at most exist at a time, if one member has no more."""

VARYING = (
    "M", "N", "K", "vectors", "blocks_v", "blocks_k", "members_a", "members_b", "out", "step_member",
    "step_x_member", "step_x_vector", "step_x_k", "step_y_member", "step_y_vector", "step_y_k",
)  # fmt: skip
"""Arguments whose values no code is made for. Triton would compile a kernel anew where one is 1 or a multiple of 16, which
takes seconds in the middle of a job and gains nothing; and the self-test would not have run that code."""
STEPS = ("step_vector", "step_k")
"""Those of which it is known where they are 1, and no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """How a product kernel is laid out; no field changes a bit of what it computes.

    Fields:
        rows, columns, k: sizes of a tile: powers of two, at least 16, 16 and 32 (what products of int8 ask for).
        warps: of one program.
        stages: of the pipeline of loads.
    """

    rows: int
    columns: int
    k: int
    warps: int
    stages: int


@lru_cache(maxsize=64)
def choose_tile(slices: int, *, is_long: bool, is_small: bool, has_room: bool) -> Tile:
    """The tile of a product.

    Args:
        slices: digits a value, 3, 4 or 6; one int32 sum of the tile for each must stay in registers.
        is_long: float64 sums of pieces must stay there too.
        is_small: larger tiles would leave most of the device idle.
        has_room: a program may have 160 KiB of shared memory; else 96 KiB.
    """
    is_narrow = is_small or is_long or slices > 4
    # Warps lie side by side along the rows, 16 rows each: elsewise Triton lays the second product of a diagonal out
    # otherwise than the first, and moves and doubles the work between them (seen in its code for sm_90).
    return Tile(
        rows=64 if is_small else 128,
        columns=32 if is_narrow else 64,
        k=32 if slices > 4 or not (is_narrow or has_room) else 64,
        warps=4 if is_small else 8,
        stages=3,
    )


@triton.jit
def _finite(bits):
    """Bits of the magnitudes of values, with 0 for infinities and NaN."""
    size = bits & 0x7FFFFFFF
    return tl.where(size >= INFINITE, 0, size)


@triton.jit
def _exponent(most):
    """e of vectors whose largest magnitude has these bits; float64 has float32's denormal numbers as ordinary ones."""
    double = most.to(tl.float32, bitcast=True).to(tl.float64).to(tl.int64, bitcast=True)
    return tl.where(most > 0, (double >> 52) - 1022, 0)


@triton.jit
def _power_of_two(e):
    """2^e in float64, for int64 |e| <= 1022."""
    return ((e + 1023) << 52).to(tl.float64, bitcast=True)


@triton.jit(do_not_specialize=VARYING, do_not_specialize_on_alignment=STEPS)
def _look(x, facts, vectors, K, step_member, step_vector, step_k, blocks_v, blocks_k,
          COUNT: tl.constexpr, BV: tl.constexpr, BK: tl.constexpr, RUN: tl.constexpr):  # fmt: skip
    """One look at blocks of vectors: for the largest magnitude, or with COUNT for how values spread below it."""
    pid = tl.program_id(0)
    member = (pid // (blocks_k * blocks_v)).to(tl.int64)
    v = (pid // blocks_k) % blocks_v * BV + tl.arange(0, BV)
    is_vector = v < vectors
    x += member * step_member + v.to(tl.int64)[:, None] * step_vector
    facts += (member * vectors + v) * WIDTH
    first = tl.zeros((BV,), tl.int32)
    second = tl.zeros((BV,), tl.int32)
    third = tl.zeros((BV,), tl.int32)
    eighth = tl.zeros((BV,), tl.int32)
    low = tl.zeros((BV,), tl.int32)
    if COUNT:
        most = tl.load(facts + MOST, mask=is_vector, other=0).to(tl.float32, bitcast=True)
        # float32 products: thresholds of denormal numbers are rounded, as in the definition
        eighth = (most * 0.125).to(tl.int32, bitcast=True)
        low = (most * 0.00390625).to(tl.int32, bitcast=True)
    for i in range(RUN):
        k = (pid % blocks_k * RUN + i) * BK + tl.arange(0, BK)
        inside = is_vector[:, None] & (k[None, :] < K)
        bits = tl.load(x + k.to(tl.int64)[None, :] * step_k, mask=inside, other=0)
        size = _finite(bits)
        if COUNT:
            first += tl.sum((size > 0).to(tl.int32), 1)
            second += tl.sum((inside & (size >= eighth[:, None])).to(tl.int32), 1)
            third += tl.sum(((size > 0) & (size < low[:, None])).to(tl.int32), 1)
        else:
            first = tl.maximum(first, tl.max(size, 1))
            second = tl.maximum(second, tl.max(((bits & 0x7FFFFFFF) >= INFINITE).to(tl.int32), 1))
    if COUNT:
        tl.atomic_add(facts + SOME, first, mask=is_vector)
        tl.atomic_add(facts + LARGE, second, mask=is_vector)
        tl.atomic_add(facts + TINY, third, mask=is_vector)
    else:
        tl.atomic_max(facts + MOST, first, mask=is_vector)
        tl.atomic_max(facts + SPECIAL, second, mask=is_vector & (second > 0))


@triton.jit
def _wide(facts, is_vector):
    """1 for vectors that ask for six digits, else 0; see `is_wide` of `_matmul.py`."""
    some = tl.load(facts + SOME, mask=is_vector, other=0).to(tl.int64)
    large = tl.load(facts + LARGE, mask=is_vector, other=0).to(tl.int64)
    tiny = tl.load(facts + TINY, mask=is_vector, other=0).to(tl.int64)
    return ((some > 0) & ((8 * large <= some) | (16 * tiny > some) | (some < 8))).to(tl.int32)


@triton.jit(do_not_specialize=VARYING, do_not_specialize_on_alignment=STEPS)
def _sort(facts, order, wides, totals, vectors, BLOCK: tl.constexpr):
    """Orders the vectors of one member, usual ones first; counts wide ones and, over all members, wide and special ones."""
    member = tl.program_id(0).to(tl.int64)
    facts += member * vectors * WIDTH
    order += member * vectors
    count = tl.zeros((BLOCK,), tl.int32)
    special = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, vectors, BLOCK):
        v = start + tl.arange(0, BLOCK)
        at = facts + v.to(tl.int64) * WIDTH
        count += _wide(at, v < vectors)
        special += tl.load(at + SPECIAL, mask=v < vectors, other=0)
    total = tl.sum(count, 0)
    before = tl.sum(tl.zeros((BLOCK,), tl.int32), 0)
    for start in range(0, vectors, BLOCK):
        v = start + tl.arange(0, BLOCK)
        wide = _wide(facts + v.to(tl.int64) * WIDTH, v < vectors)
        earlier = before + tl.cumsum(wide, 0) - wide
        place = tl.where(wide > 0, vectors - total + earlier, v - earlier)
        tl.store(order + place, v, mask=v < vectors)
        before += tl.sum(wide, 0)
    tl.store(wides + member, total)
    tl.atomic_add(totals, total)
    tl.atomic_add(totals + 1, tl.sum(special, 0))


@triton.jit(do_not_specialize=VARYING, do_not_specialize_on_alignment=STEPS)
def _cut(x, facts, order, totals, out, vectors, places, K, K_padded, step_member, step_vector, step_k, blocks_v, blocks_k,
         SLICES: tl.constexpr, BV: tl.constexpr, BK: tl.constexpr):  # fmt: skip
    """Digits of a block of places; the last ones only if some vector of the call is wide, else nobody reads them."""
    pid = tl.program_id(0)
    member = (pid // (blocks_k * blocks_v)).to(tl.int64)
    place = (pid // blocks_k) % blocks_v * BV + tl.arange(0, BV)
    k = pid % blocks_k * BK + tl.arange(0, BK)
    is_vector = place < vectors
    v = tl.load(order + member * vectors + place, mask=is_vector, other=0).to(tl.int64)
    at = x + member * step_member + v[:, None] * step_vector + k.to(tl.int64)[None, :] * step_k
    bits = tl.load(at, mask=is_vector[:, None] & (k[None, :] < K), other=0)
    bits = tl.where((bits & 0x7FFFFFFF) >= INFINITE, 0, bits)
    most = tl.load(facts + (member * vectors + v) * WIDTH + MOST, mask=is_vector, other=0)
    y = bits.to(tl.float32, bitcast=True).to(tl.float64) * _power_of_two(6 - _exponent(most))[:, None]
    plane = places.to(tl.int64) * K_padded
    out += member * PLANES * plane + place.to(tl.int64)[:, None] * K_padded + k[None, :]
    is_place = (place < places)[:, None] & (k < K_padded)[None, :]
    for s in tl.static_range(SLICES):
        q = (y + MAGIC) - MAGIC
        tl.store(out + s * plane, q.to(tl.int32).to(tl.int8), mask=is_place)
        y = (y - q) * 128.0
    if tl.load(totals) > 0:
        for s in tl.static_range(SLICES, PLANES):
            q = (y + MAGIC) - MAGIC
            tl.store(out + s * plane, q.to(tl.int32).to(tl.int8), mask=is_place)
            y = (y - q) * 128.0


@triton.jit
def _piece(a, b, plane_a, plane_b, first, last,
           SLICES: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):  # fmt: skip
    """(high, low) of a tile over digits `first` to `last` of K, at most PIECE of them; the names are those of `_matmul.py`."""
    D0 = tl.zeros((BM, BN), tl.int32)
    D1 = tl.zeros((BM, BN), tl.int32)
    D2 = tl.zeros((BM, BN), tl.int32)
    if SLICES > 3:
        D3 = tl.zeros((BM, BN), tl.int32)
    if SLICES > 4:
        D4 = tl.zeros((BM, BN), tl.int32)
        D5 = tl.zeros((BM, BN), tl.int32)
    a += first
    b += first
    for _ in range(first, last, BK):
        a0 = tl.load(a)
        a1 = tl.load(a + plane_a)
        a2 = tl.load(a + 2 * plane_a)
        b0 = tl.load(b)
        b1 = tl.load(b + plane_b)
        b2 = tl.load(b + 2 * plane_b)
        D0 = tl.dot(a0, b0, D0, out_dtype=tl.int32)
        D1 = tl.dot(a0, b1, D1, out_dtype=tl.int32)
        D1 = tl.dot(a1, b0, D1, out_dtype=tl.int32)
        D2 = tl.dot(a0, b2, D2, out_dtype=tl.int32)
        D2 = tl.dot(a1, b1, D2, out_dtype=tl.int32)
        D2 = tl.dot(a2, b0, D2, out_dtype=tl.int32)
        if SLICES > 3:
            a3 = tl.load(a + 3 * plane_a)
            b3 = tl.load(b + 3 * plane_b)
            D3 = tl.dot(a0, b3, D3, out_dtype=tl.int32)
            D3 = tl.dot(a1, b2, D3, out_dtype=tl.int32)
            D3 = tl.dot(a2, b1, D3, out_dtype=tl.int32)
            D3 = tl.dot(a3, b0, D3, out_dtype=tl.int32)
        if SLICES > 4:
            a4 = tl.load(a + 4 * plane_a)
            b4 = tl.load(b + 4 * plane_b)
            D4 = tl.dot(a0, b4, D4, out_dtype=tl.int32)
            D4 = tl.dot(a1, b3, D4, out_dtype=tl.int32)
            D4 = tl.dot(a2, b2, D4, out_dtype=tl.int32)
            D4 = tl.dot(a3, b1, D4, out_dtype=tl.int32)
            D4 = tl.dot(a4, b0, D4, out_dtype=tl.int32)
            a5 = tl.load(a + 5 * plane_a)
            b5 = tl.load(b + 5 * plane_b)
            D5 = tl.dot(a0, b5, D5, out_dtype=tl.int32)
            D5 = tl.dot(a1, b4, D5, out_dtype=tl.int32)
            D5 = tl.dot(a2, b3, D5, out_dtype=tl.int32)
            D5 = tl.dot(a3, b2, D5, out_dtype=tl.int32)
            D5 = tl.dot(a4, b1, D5, out_dtype=tl.int32)
            D5 = tl.dot(a5, b0, D5, out_dtype=tl.int32)
        a += BK
        b += BK
    high = (D0.to(tl.float64) * 128.0 + D1.to(tl.float64)) * 128.0 + D2.to(tl.float64)
    if SLICES > 3:
        high = high * 128.0 + D3.to(tl.float64)
    if SLICES > 4:
        low = D4.to(tl.float64) * 128.0 + D5.to(tl.float64)
    else:
        low = high  # not used
    return high, low


@triton.jit
def _tile_of(pid, tiles_m, tiles_n):
    """Which tile a program of a member computes: by columns within groups of rows."""
    in_group = GROUP_TILES * tiles_n
    first = pid // in_group * GROUP_TILES
    size = tl.minimum(tiles_m - first, GROUP_TILES)
    return first + pid % in_group % size, pid % in_group // size


@triton.jit(do_not_specialize=VARYING, do_not_specialize_on_alignment=STEPS)
def _multiply(a, b, facts_a, facts_b, order_a, order_b, wides_a, wides_b, out, M, N, rows, columns, K_padded, members_a,
              members_b, SLICES: tl.constexpr, WIDE: tl.constexpr, LONG: tl.constexpr,
              BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):  # fmt: skip
    """One tile of one member: its elements of wide vectors with WIDE, else the others."""
    tiles_m = tl.cdiv(M, BM)
    tiles_n = tl.cdiv(N, BN)
    tiles = tiles_m * tiles_n
    member = (tl.program_id(0) // tiles).to(tl.int64)
    tile_m, tile_n = _tile_of(tl.program_id(0) % tiles, tiles_m, tiles_n)
    start_m = tile_m * BM
    start_n = tile_n * BN
    member_a = member % members_a
    member_b = member % members_b
    usual_m = M - tl.load(wides_a + member_a)
    usual_n = N - tl.load(wides_b + member_b)
    if WIDE:
        if (tl.minimum(start_m + BM, M) <= usual_m) & (tl.minimum(start_n + BN, N) <= usual_n):
            return
    else:
        if (start_m >= usual_m) | (start_n >= usual_n):
            return
    m = start_m + tl.arange(0, BM)
    n = start_n + tl.arange(0, BN)
    k = tl.arange(0, BK)
    plane_a = rows.to(tl.int64) * K_padded
    plane_b = columns.to(tl.int64) * K_padded
    a += member_a * PLANES * plane_a + m.to(tl.int64)[:, None] * K_padded + k[None, :]
    b += member_b * PLANES * plane_b + n.to(tl.int64)[None, :] * K_padded + k[:, None]
    if LONG:
        high = tl.zeros((BM, BN), tl.float64)
        low = tl.zeros((BM, BN), tl.float64)
        for first in range(0, K_padded, PIECE_K):
            more_high, more_low = _piece(
                a, b, plane_a, plane_b, first, tl.minimum(first + PIECE_K, K_padded), SLICES, BM, BN, BK
            )
            high += more_high
            low += more_low
    else:
        high, low = _piece(a, b, plane_a, plane_b, 0, K_padded, SLICES, BM, BN, BK)
    whole = high
    if SLICES > 4:
        whole = high * 16384.0 + low
    row = tl.load(order_a + member_a * M + m, mask=m < M, other=0).to(tl.int64)
    column = tl.load(order_b + member_b * N + n, mask=n < N, other=0).to(tl.int64)
    e_row = _exponent(tl.load(facts_a + (member_a * M + row) * WIDTH + MOST))
    e_column = _exponent(tl.load(facts_b + (member_b * N + column) * WIDTH + MOST))
    whole = whole * _power_of_two(e_row - (12 + 7 * (SLICES - 1)))[:, None] * _power_of_two(e_column)[None, :]
    usual = (m < usual_m)[:, None] & (n < usual_n)[None, :]
    mine = (m < M)[:, None] & (n < N)[None, :]
    if WIDE:
        mine = mine & (usual == 0)
    else:
        mine = mine & usual
    tl.store(out + member * M * N + row[:, None] * N + column[None, :], whole.to(tl.float32), mask=mine)


@triton.jit(do_not_specialize=VARYING, do_not_specialize_on_alignment=STEPS)
def _mark(x, y, facts_x, facts_y, totals, out, M, N, K, step_x_member, step_x_vector, step_x_k, step_y_member, step_y_vector,
          step_y_k, members_a, members_b, B: tl.constexpr):  # fmt: skip
    """What infinite terms and NaN make of elements: the sum of those terms alone, for which any order has one answer."""
    if tl.load(totals + 1) == 0:
        return
    tiles_m = tl.cdiv(M, B)
    tiles_n = tl.cdiv(N, B)
    tiles = tiles_m * tiles_n
    member = (tl.program_id(0) // tiles).to(tl.int64)
    m = tl.program_id(0) % tiles // tiles_n * B + tl.arange(0, B)
    n = tl.program_id(0) % tiles_n * B + tl.arange(0, B)
    member_a = member % members_a
    member_b = member % members_b
    in_row = tl.load(facts_x + (member_a * M + m) * WIDTH + SPECIAL, mask=m < M, other=0)
    in_column = tl.load(facts_y + (member_b * N + n) * WIDTH + SPECIAL, mask=n < N, other=0)
    if tl.max(in_row, 0) + tl.max(in_column, 0) == 0:
        return
    x += member_a * step_x_member + m.to(tl.int64) * step_x_vector
    y += member_b * step_y_member + n.to(tl.int64) * step_y_vector
    total = tl.zeros((B, B), tl.float32)
    for _ in range(K):
        a = tl.load(x, mask=m < M, other=0)[:, None]
        b = tl.load(y, mask=n < N, other=0)[None, :]
        special = ((a & 0x7FFFFFFF) >= INFINITE) | ((b & 0x7FFFFFFF) >= INFINITE)
        term = a.to(tl.float32, bitcast=True) * b.to(tl.float32, bitcast=True)
        total += tl.where(special, term, 0.0)
        x += step_x_k
        y += step_y_k
    at = out + member * M * N + m.to(tl.int64)[:, None] * N + n[None, :]
    # A device's own NaN has other bits than torch's.
    total = tl.where(total != total, float("nan"), total)
    tl.store(at, total, mask=(m < M)[:, None] & (n < N)[None, :] & (total != 0.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Vectors:
    """One operand: its vectors, `[batch, vectors, K]`, and what is known of them; see the head of this file."""

    bits: torch.Tensor
    facts: torch.Tensor
    order: torch.Tensor
    wides: torch.Tensor


OPTIONS: dict[str, Any] = {"enable_fp_fusion": False}  # Any: what a launch takes


def _blocks(size: int, block: int) -> int:
    return -(-size // block)


def look_at(x: torch.Tensor, totals: torch.Tensor) -> Vectors:
    """Facts and order of float32 vectors `x`, `[batch, vectors, K]`; adds to `totals` how many are wide, and how many special."""
    batch, vectors, K = x.shape
    bits = x.view(torch.int32)
    facts = torch.zeros((batch, vectors, FACTS), dtype=torch.int32, device=x.device)
    order = torch.empty((batch, vectors), dtype=torch.int32, device=x.device)
    wides = torch.empty((batch,), dtype=torch.int32, device=x.device)
    blocks_v, blocks_k = _blocks(vectors, LOOK_VECTORS), _blocks(K, LOOK_K * LOOKS)
    for count in (False, True):
        _look[(batch * blocks_v * blocks_k,)](
            bits, facts, vectors, K, *bits.stride(), blocks_v, blocks_k,
            COUNT=count, BV=LOOK_VECTORS, BK=LOOK_K, RUN=LOOKS, **OPTIONS,
        )  # fmt: skip
    _sort[(batch,)](facts, order, wides, totals, vectors, BLOCK=ORDER_BLOCK, **OPTIONS)
    return Vectors(bits=bits, facts=facts, order=order, wides=wides)


def cut(x: Vectors, totals: torch.Tensor, places: int, K_padded: int, slices: int) -> torch.Tensor:
    """Digits of vectors in their order, int8 `[batch, 6, places, K_padded]`."""
    batch, vectors, K = x.bits.shape
    out = torch.empty((batch, MORE_SLICES, places, K_padded), dtype=torch.int8, device=x.bits.device)
    blocks_v, blocks_k = _blocks(vectors, LOOK_VECTORS), _blocks(K_padded, LOOK_K)
    _cut[(batch * blocks_v * blocks_k,)](
        x.bits, x.facts, x.order, totals, out, vectors, places, K, K_padded, *x.bits.stride(), blocks_v, blocks_k,
        SLICES=slices, BV=LOOK_VECTORS, BK=LOOK_K, **OPTIONS,
    )  # fmt: skip
    return out


def multiply(
    a: Vectors,
    b: Vectors,
    digits_a: torch.Tensor,
    digits_b: torch.Tensor,
    out: torch.Tensor,
    slices: int,
    tile: Tile,
) -> None:
    """The elements of `out`, `[batch, M, N]`, of wide vectors (six `slices`) or of the others (3 or 4), from digits."""
    batch, M, N = out.shape
    _multiply[(batch * _blocks(M, tile.rows) * _blocks(N, tile.columns),)](
        digits_a, digits_b, a.facts, b.facts, a.order, b.order, a.wides, b.wides, out, M, N, digits_a.shape[2],
        digits_b.shape[2], digits_a.shape[3], digits_a.shape[0], digits_b.shape[0],
        SLICES=slices, WIDE=slices == MORE_SLICES, LONG=digits_a.shape[3] > PIECE,
        BM=tile.rows, BN=tile.columns, BK=tile.k, num_warps=tile.warps, num_stages=tile.stages, **OPTIONS,
    )  # fmt: skip


def choose_tiles(slices: int, *, is_long: bool, is_small: bool, has_room: bool) -> tuple[Tile, Tile]:
    """The tiles of a product: for usual elements, and for those of wide vectors; arguments as of `choose_tile`."""
    usual, wide = (
        choose_tile(s, is_long=is_long, is_small=is_small, has_room=has_room) for s in (slices, MORE_SLICES)
    )
    return usual, wide


def products(
    a: torch.Tensor, b: torch.Tensor, out: torch.Tensor, slices: int, tiles: tuple[Tile, Tile]
) -> None:
    """Products of float32 batches `a`, `[batch or 1, M, K]`, and `b`, `[batch or 1, K, N]`, of any strides, into `out`.

    Args:
        a, b: on the device of `out`; none of their sizes is 0.
        out: float32 `[batch, M, N]`, contiguous.
        slices: 3 or 4.
        tiles: as `choose_tiles` has them.

    Guarantee:
        The bits of `_matmul.py`, infinities and NaN included, whatever the tiles. Nothing is read back to the host.
    """
    batch, M, N = out.shape
    usual, wide = tiles
    K_padded = _blocks(a.shape[2], usual.k) * usual.k
    rows = _blocks(M, usual.rows) * usual.rows
    columns = _blocks(N, usual.columns) * usual.columns
    one = MORE_SLICES * K_padded * (rows * (a.shape[0] > 1) + columns * (b.shape[0] > 1))
    at_a_time = max(1, min(batch, DIGIT_BYTES // one if one else batch))
    for at in range(0, batch, at_a_time):
        x = a[at : at + at_a_time] if a.shape[0] > 1 else a
        y = (b[at : at + at_a_time] if b.shape[0] > 1 else b).transpose(1, 2)
        to = out[at : at + at_a_time]
        totals = torch.zeros((2,), dtype=torch.int32, device=out.device)
        A, B = look_at(x, totals), look_at(y, totals)
        digits_a, digits_b = cut(A, totals, rows, K_padded, slices), cut(B, totals, columns, K_padded, slices)
        multiply(A, B, digits_a, digits_b, to, slices, usual)
        multiply(A, B, digits_a, digits_b, to, MORE_SLICES, wide)
        _mark[(to.shape[0] * _blocks(M, SPECIAL_TILE) * _blocks(N, SPECIAL_TILE),)](
            A.bits, B.bits, A.facts, B.facts, totals, to, M, N, x.shape[2], *A.bits.stride(), *B.bits.stride(), x.shape[0],
            y.shape[0], B=SPECIAL_TILE, **OPTIONS,
        )  # fmt: skip
