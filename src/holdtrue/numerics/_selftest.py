"""A self-test before the first use: an engine that is not exact is refused, not believed."""

from functools import lru_cache

import torch

from holdtrue.errors import NumericsError

from ._matmul import PIECE
from ._native import EngineName, count, engine, native, pointer

ROWS, COLUMNS = 12, 32


def check_engine() -> None:
    """Test the engine in use at its worst-case values, once in a process.

    Raises:
        NumericsError: it is not exact.
    """
    _check(engine())


@lru_cache(maxsize=8)
def _check(name: EngineName) -> None:
    for k4 in (1, 3, PIECE // 4):
        for a_digit, b_digit in ((64, 64), (-64, 64), (64, -64), (-64, -64)):
            _check_products(name, k4, a_digit, b_digit)
    _check_arithmetic(name)


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
        out = torch.zeros((ROWS, COLUMNS), dtype=torch.int32)
        found[0].ht_diagonal(pointer(a), pointer(b), count(k4), ROWS, COLUMNS, pointer(out), found[1])
        offset = 64 * a_digit * 4 * k4  # what the + 64 of b adds; int32 wraps and wraps back
        got = {(int(v) - offset + 2**31) % 2**32 - 2**31 for v in out.unique().tolist()}
    if got != {expected}:
        raise NumericsError(
            f"the numerics engine {name!r} is not exact here: {4 * k4} products of {a_digit} and {b_digit} gave {sorted(got)}, "
            f"not {expected}. Name another engine in HOLDTRUE_NUMERICS_ENGINE, such as 'reference', or pass numerics='exact'."
        )


def _check_arithmetic(name: EngineName) -> None:
    """Denormal numbers must not be flushed to zero, and float64 square roots must be rounded correctly."""
    tiny = torch.tensor([2.0**-149, 2.0**-140])
    if not torch.equal(tiny * 2.0**10, torch.tensor([2.0**-139, 2.0**-130])):
        raise NumericsError(
            f"this process flushes denormal numbers to zero (engine {name!r}); portable numerics needs them. "
            f"Call torch.set_flush_denormal(False)."
        )
