"""A self-test before the first use: an engine that is not exact is refused, not believed."""

from functools import lru_cache

import torch

from holdtrue.errors import NumericsError

from . import _rows as rows
from ._matmul import MORE_SLICES, PIECE
from ._native import EngineName, count, engine, native, pointer

ROWS, COLUMNS = 12, 32
PLANES = 9
WHOLE = {
    (3, 2): 1024,
    (4, 1): 1024,
    (4, 2): 1024,
    (6, 1): 512,
    (6, 2): 512,
}
"""Longest K of a tile by digits and by how many sums of digits help; see `_vnni.h`."""
TILES = ((12, 32), (8, 32), (4, 32), (12, 16), (8, 16), (4, 16))
"""Rows and columns of tiles for which engines have code of their own."""

SHORT = {(3, 0): (6, 4, 2), (4, 0): (4, 2), (4, 1): (4,), (6, 0): (4, 2)}
"""Rows of tiles of few values, by digits and by whether sums of digits help; see `_short.h`."""
FEW = 96
"""Values of such a tile: K is less there."""
QUADS = {3: 1024, 4: 1024, 6: 512}
"""Longest K of a tile with AVX2 by digits; see `_avx2.h`."""


def check_engine() -> None:
    """Test the engine in use at its worst-case values, once in a process.

    Raises:
        NumericsError: it is not exact.
    """
    _check(engine())


@lru_cache(maxsize=8)
def _check(name: EngineName) -> None:
    for k4 in (1, 3, PIECE // 4):
        for a_digit, b_digit in ((64, 64), (-64, 64), (64, -64), (-64, -64), (63, 64)):
            _check_products(name, k4, a_digit, b_digit)
    for (slices, sums), K in WHOLE.items():
        _check_tiles(name, slices, sums, K)
    for slices, sums in SHORT:
        _check_short(name, slices, sums)
    for slices, K in QUADS.items():
        _check_quads(name, slices, K)
    _check_arithmetic(name)


def _check_short(name: EngineName, slices: int, sums: int) -> None:
    """Tiles of few values, rounded: the largest digits in all places, and in one place of each side."""
    most = 63 if sums else 64
    all_places = tuple((s, t) for s in range(slices) for t in range(slices))
    for a_digit, b_digit in ((most, most), (-most, most), (most, -most), (-most, -most)):
        _check_places(name, slices, sums, a_digit, b_digit, all_places)
    for place in all_places:
        _check_places(name, slices, sums, 64, -64, (place,))


def _check_places(
    name: EngineName, slices: int, sums: int, a_digit: int, b_digit: int, places: tuple[tuple[int, int], ...]
) -> None:
    """Tiles of few values whose digits are 0 elsewhere than in `places` (of A and of B)."""
    found = native()
    if found is None or name != "vnni":  # other engines have no such tiles
        return
    a = torch.zeros((PLANES, FEW // 4, 16, 4), dtype=torch.int8)
    b = torch.full((PLANES, FEW // 4, COLUMNS, 4), 64, dtype=torch.uint8)
    total = torch.zeros((MORE_SLICES, 16), dtype=torch.int32)
    for s, t in places:
        a[s], b[t], total[s] = a_digit, b_digit + 64, a_digit * FEW
    for at, (s, t) in enumerate(((0, 1), (0, 2), (1, 2)) if sums else (), start=slices):
        a[at], b[at] = a[s] + a[t], b[s] + b[t]
    exact = sum(a_digit * b_digit * FEW * 128 ** (slices - 1 - s - t) for s, t in places if s + t < slices)
    expected = torch.full((ROWS, COLUMNS), float(exact), dtype=torch.float64).float()
    for height in SHORT[slices, sums]:
        for width in (32, 16):
            out = torch.zeros((ROWS, COLUMNS))
            found[0].ht_short(
                pointer(a), pointer(b), count(FEW // 4), slices, sums, height, width, pointer(total), pointer(out),
                found[1],
            )  # fmt: skip
            if not torch.equal(out[:height, :width], expected[:height, :width]):
                raise NumericsError(
                    f"the numerics engine {name!r} is not exact here: a short tile of {height} x {width} with {slices} digits "
                    f"over {FEW} values gave {out[:height, :width].unique().tolist()}, not {exact}. Name another engine in "
                    f"HOLDTRUE_NUMERICS_ENGINE, such as 'reference', or pass numerics='exact'."
                )


def _check_quads(name: EngineName, slices: int, K: int) -> None:
    """Tiles with AVX2, rounded: the largest digits in all places, and one place of each side alone."""
    found = native()
    if found is None or name != "avx2":
        return
    places = [(a, b, range(slices), range(slices)) for a in (64, -64) for b in (64, -64)]
    places += [(-64, 64, range(s, s + 1), range(t, t + 1)) for s in range(slices) for t in range(slices)]
    for a_digit, b_digit, rows_of, columns_of in places:
        digits_a = [a_digit if s in rows_of else 0 for s in range(slices)]
        digits_b = [b_digit if t in columns_of else 0 for t in range(slices)]
        with_before = [128 * before + digit for before, digit in zip([0, *digits_b], digits_b, strict=False)]
        a = torch.tensor(digits_a, dtype=torch.int16).view(-1, 1, 1, 1).expand(-1, K // 2, 8, 2).contiguous()
        b = (
            torch.tensor(with_before, dtype=torch.int16)
            .view(1, -1, 1, 1, 1)
            .expand(2, -1, K // 2, 8, 2)
            .contiguous()
        )
        exact = sum(
            digits_a[s] * digits_b[t] * K * 128 ** (slices - 1 - s - t)
            for s in range(slices)
            for t in range(slices - s)
        )
        expected = torch.tensor(float(exact), dtype=torch.float64).float()
        for height, width in ((4, 16), (3, 5)):
            out = torch.zeros((4, 16))
            found[0].ht_quad(
                pointer(a), pointer(b), count(K // 2), slices, height, width, pointer(out), found[1]
            )
            if not bool((out[:height, :width] == expected).all()):
                raise NumericsError(
                    f"the numerics engine {name!r} is not exact here: a tile of {height} x {width} with {slices} digits over "
                    f"{K} values gave {out[:height, :width].unique().tolist()}, not {exact}. Name another engine in "
                    f"HOLDTRUE_NUMERICS_ENGINE, such as 'reference', or pass numerics='exact'."
                )


def _check_tiles(name: EngineName, slices: int, sums: int, K: int) -> None:
    """Whole tiles of the largest digits of which sums of two fit a byte."""
    found = native()
    if found is None:
        return
    for a_digit, b_digit in ((63, 63), (63, -63)):
        a = torch.full((PLANES, ROWS, K), a_digit, dtype=torch.int8)
        b = torch.full((PLANES, K // 4, COLUMNS, 4), b_digit + 64, dtype=torch.uint8)
        a[slices:], b[slices:] = 2 * a_digit, 2 * b_digit + 128
        total = torch.full((ROWS, MORE_SLICES), a_digit * K, dtype=torch.int32)
        one = a_digit * b_digit * K
        expected = [128 * one + 2 * one, (128 * 3 + 4) * one if slices > 3 else 3 * one, (128 * 5 + 6) * one]
        for height, width in TILES:
            out = torch.zeros((3, ROWS, COLUMNS), dtype=torch.int32)
            is_made = found[0].ht_tile(
                pointer(a), pointer(b), count(K // 4), slices, sums, height, width, pointer(total), pointer(out), found[1]
            )  # fmt: skip
            got = [out[i, :height, :width].unique().tolist() for i in range(3 if slices > 4 else 2)]
            if is_made and got != [[value] for value in expected[: len(got)]]:
                raise NumericsError(
                    f"the numerics engine {name!r} is not exact here: a tile of {height} x {width} with {slices} digits over "
                    f"{K} values gave {got}, not {expected[: len(got)]}. Name another engine in HOLDTRUE_NUMERICS_ENGINE, such "
                    f"as 'reference', or pass numerics='exact'."
                )


def _check_products(name: EngineName, k4: int, a_digit: int, b_digit: int) -> None:
    """Products of the largest digits over the longest piece."""
    found = native()
    expected = a_digit * b_digit * 4 * k4
    if found is None:
        a = torch.full((1, 4 * k4), float(a_digit), dtype=torch.float64)
        b = torch.full((4 * k4, 1), float(b_digit), dtype=torch.float64)
        got = {int((a @ b).item())}
    else:
        a = torch.full((k4, ROWS, 4), a_digit, dtype=torch.int8)
        b = torch.full((k4, COLUMNS, 4), b_digit + 64, dtype=torch.uint8)
        offset = 64 * a_digit * 4 * k4  # what the + 64 of b adds; int32 wraps and wraps back
        got = set()
        for height, width in TILES:
            out = torch.zeros((ROWS, COLUMNS), dtype=torch.int32)
            found[0].ht_diagonal(pointer(a), pointer(b), count(k4), height, width, pointer(out), found[1])
            sums = out[:height, :width].unique().tolist()
            got |= {(int(v) - offset + 2**31) % 2**32 - 2**31 for v in sums}
    if got != {expected}:
        raise NumericsError(
            f"the numerics engine {name!r} is not exact here: {4 * k4} products of {a_digit} and {b_digit} gave {sorted(got)}, "
            f"not {expected}. Name another engine in HOLDTRUE_NUMERICS_ENGINE, such as 'reference', or pass numerics='exact'."
        )


def _check_arithmetic(name: EngineName) -> None:
    """Denormal numbers are not flushed to zero, and no product is fused with an addition."""
    tiny = torch.tensor([2.0**-149, 2.0**-140])
    if not torch.equal(tiny * 2.0**10, torch.tensor([2.0**-139, 2.0**-130])):
        raise NumericsError(
            f"this process flushes denormal numbers to zero (engine {name!r}); portable numerics needs them. "
            f"Call torch.set_flush_denormal(False)."
        )
    if not all(torch.equal(y, torch.full_like(y, 2.0**-50)) for y in _unfused()):
        raise NumericsError(
            f"the numerics engine {name!r} fuses multiplications with additions here, so its bits are not those of other "
            f"machines. Build the kernels with -ffp-contract=off, or set HOLDTRUE_NUMERICS_ENGINE=reference."
        )


def _unfused() -> tuple[torch.Tensor, ...]:
    """1 * (1 + 2^-52) * 3 - 3 by the engine, for values of vectors and beyond: 2^-50 if the product is rounded first.

    The product lies half-way between two float64 numbers; a fused multiply-add would give 3 * 2^-52.
    """
    found = []
    for per_c, shape in ((True, (1, 67, 1)), (True, (1, 1, 67)), (False, (1, 1, 67))):
        size = shape[1] if per_c else shape[2]
        x, weight = torch.ones(67), torch.full((size,), 3.0)
        mean = torch.zeros(shape[1], dtype=torch.float64)
        scale = torch.full_like(mean, 1.0 + 2.0**-52)
        y = rows.normalise(x, shape, mean, scale, weight, -weight, per_c=per_c)
        found.append((x.double() * scale[0] * weight[0].double() - 3.0).float() if y is None else y)
    return tuple(found)
