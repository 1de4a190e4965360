"""What the Triton kernels are held to, run in Triton's interpreter by `test_numerics_triton.py` in a process of its own.

The interpreter is chosen when Triton is imported, for the whole process: `TRITON_INTERPRET=1 python tests/triton_cases.py` prints
one JSON object, names of cases and what went wrong with each (null: nothing).
"""

import json
import math
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import pytest
import torch

from holdtrue.errors import NumericsError
from holdtrue.numerics import _cuda, _triton, force_engine, matmul
from holdtrue.numerics._matmul import MORE_SLICES, PIECE, digits, exponents, is_wide, reference

sys.path.insert(0, str(Path(__file__).parent))
from numerics_checks import bits, each_engine
from numerics_samples import KINDS, sample

CASES: dict[str, Callable[[], None]] = {}


def case(function: Callable[[], None]) -> Callable[[], None]:
    """Registers a case under its name."""
    CASES[function.__name__] = function
    return function


def tiles(slices: int, *, is_small: bool = True, is_long: bool = False) -> tuple[_triton.Tile, _triton.Tile]:
    return _triton.choose_tiles(slices, is_long=is_long, is_small=is_small, has_room=True)


def product(a: torch.Tensor, b: torch.Tensor, slices: int = 4, *, is_small: bool = True) -> torch.Tensor:
    """By the kernels, into memory that shows what was not written."""
    out = torch.full((max(a.shape[0], b.shape[0]), a.shape[1], b.shape[2]), 7.0)
    _triton.products(a, b, out, slices, tiles(slices, is_small=is_small, is_long=a.shape[2] > PIECE))
    return out


def check(a: torch.Tensor, b: torch.Tensor, slices: int = 4, *, is_small: bool = True) -> None:
    """The kernels have the bits of the definition and of every engine of the CPU."""
    got = product(a, b, slices, is_small=is_small)
    for name in each_engine():
        expected = matmul(a, b, slices=slices)
        assert torch.equal(bits(got), bits(expected)), (
            f"{(bits(got) != bits(expected)).sum()} differ from {name}"
        )


@case
def awkward_values() -> None:
    for i, first in enumerate(KINDS):
        for j, second in enumerate(KINDS):
            M, K, N = ((5, 37, 9), (70, 65, 33), (1, 64, 1), (64, 1, 32))[(i + j) % 4]
            check(sample(first, M, K, i)[None], sample(second, K, N, 9 + j)[None], 3 + (i + 2 * j) % 2)


@case
def any_strides() -> None:
    a, b = sample("wide", 13, 37, 0), sample("plain", 37, 35, 1)
    room = torch.zeros(3 * a.numel() + 1)
    odd = room[1:].as_strided(a.shape, (3 * 37, 3)).copy_(a)
    whole = product(a[None], b[None])
    for x in (odd, a.t().contiguous().t()):
        for y in (b, b.t().contiguous().t()):
            assert torch.equal(bits(product(x[None], y[None])), bits(whole))
    one = torch.ones(5, 1).as_strided((1, 5, 1), (3, 1, 7)), torch.ones(1, 4).as_strided((1, 1, 4), (5, 9, 1))
    assert torch.equal(product(*one), torch.ones(1, 5, 4))
    check(a.expand(3, 13, 37), sample("plain", 111, 8, 2).reshape(3, 37, 8))


@case
def batches_of_unlike_members() -> None:
    kinds = ("plain", "wide", "special", "zeros", "one-hot")
    a = torch.stack([sample(kind, 5, 40, i) for i, kind in enumerate(kinds)])
    b = torch.stack([sample("plain", 40, 6, i) for i in range(5)])
    check(a, b)
    check(a, b[:1])
    check(b[:1].transpose(1, 2), a.transpose(1, 2))
    # Digits of a part of the batch at a time, one member by one, change nothing.
    whole = product(a, b)
    with mock.patch.object(_triton, "DIGIT_BYTES", 1):
        assert torch.equal(bits(product(a, b)), bits(whole))
        assert torch.equal(bits(product(a, b[:1])), bits(matmul(a, b[:1])))


@case
def many_tiles_with_wide_vectors_among_them() -> None:
    a, b = sample("plain", 300, 150, 0), sample("plain", 150, 170, 1)
    a[::7] = sample("wide", 43, 150, 2)
    b[:, 3::50] = sample("one-hot", 150, 4, 3)
    assert 0 < int(is_wide(a).sum()) < 300
    for slices in (3, 4):
        check(a[None], b[None], slices, is_small=slices == 3)
    check(b.t()[None], a.t()[None])


@case
def sums_of_more_than_one_piece() -> None:
    K = 2 * PIECE + 5
    a, b = torch.full((2, K), 1 - 2.0**-24), torch.full((K, 3), -(1 - 2.0**-24))
    a[1] = torch.randn(K, generator=torch.Generator().manual_seed(0))
    b[1, 1:] = 1e-3
    check(a[None], b[None])
    wide = sample("wide", 2, PIECE + 1, 1)
    check(wide[None], sample("plain", PIECE + 1, 2, 2)[None])


@case
def digits_and_facts_are_those_of_the_definition() -> None:
    x = torch.cat([sample(kind, 9, 77, i) for i, kind in enumerate(KINDS) if kind != "special"])
    ties = torch.tensor([64.0, 0.5, 1.5, 2.5, -0.5, -1.5, 63.5, 1 + 2.0**-8, 2 + 3 * 2.0**-8, 5.0, 6.0, 7.0])
    tiny = torch.arange(12) * 2.0**-149  # an eighth of the largest is rounded; zeros do not reach it
    tiniest = (
        torch.tensor([0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 1]) * 2.0**-149
    )  # an eighth rounds to zero, which zeros do reach
    x = torch.cat([x, torch.nn.functional.pad(torch.stack([ties, tiny, tiniest]), (0, 65))])
    totals = torch.zeros(2, dtype=torch.int32)
    known = _triton.look_at(x[None], totals)
    expected = is_wide(x)
    order = torch.sort(expected.int(), stable=True).indices
    assert torch.equal(known.order[0].long(), order)
    assert known.wides.tolist() == [int(expected.sum())]
    assert totals.tolist() == [int(expected.sum()), 0]
    got = _triton.cut(known, totals, 128, 128, 4)[0, :, : len(x), :77]
    for s, q in enumerate(digits(x[order], exponents(x)[order], MORE_SLICES)):
        assert torch.equal(got[s].double(), q), f"digit {s}"


@case
def the_self_test_passes() -> None:
    _cuda.check_products(None, 4, is_long=False, is_small=True)


@case
def digits_in_another_order_are_refused() -> None:
    """The negative control of the whole: the tempting wrong kernel differs, and the self-test sees it."""
    right = _triton.cut

    def swapped(*arguments: object) -> torch.Tensor:
        return right(*arguments)[:, [1, 0, 2, 3, 4, 5]].contiguous()  # type: ignore[arg-type]  # as it is called

    a, b = sample("plain", 9, 40, 0), sample("plain", 40, 7, 1)
    with mock.patch.object(_triton, "cut", swapped):
        assert not torch.equal(product(a[None], b[None])[0], matmul(a, b))
        refused(lambda: _cuda._check_values(torch.device("cpu"), 4, 40, tiles(4)))


@case
def sums_that_are_off_by_one_or_saturate_are_refused() -> None:
    right = _triton.multiply

    def nearly(*arguments: torch.Tensor) -> None:
        right(*arguments)  # type: ignore[arg-type]  # as it is called
        arguments[4].mul_(1 - 2.0**-23)

    def not_written(*arguments: torch.Tensor) -> None:
        return None

    tile = tiles(4)[0]
    for wrong in (nearly, not_written):
        with mock.patch.object(_triton, "multiply", wrong):
            refused(lambda: _cuda._check_bounds(torch.device("cpu"), 4, 128, tile, 64, 64))
    _cuda._check_bounds(torch.device("cpu"), 4, 128, tile, 64, 64)


def refused(compute: Callable[[], None]) -> None:
    with pytest.raises(
        NumericsError, match=r"is not exact on cpu: .*Name another engine in HOLDTRUE_NUMERICS_ENGINE"
    ):
        compute()


@case
def a_tie_rounded_away_from_zero_differs() -> None:
    """A control of the samples: they have values whose digits are ties."""
    x = torch.tensor([[64.0, 0.5, 2.5, 1.0, 1.0, 1.0, 1.0, 1.0, 40.0, 40.0]])
    y = x.double() * 0.5
    assert not torch.equal(torch.sign(y) * torch.floor(y.abs() + 0.5), torch.round(y))
    check(x[None], x.t()[None])


@case
def a_product_on_cuda_goes_to_the_kernels_as_matmul_calls_them() -> None:
    """The host's side with a device that is a CPU: both shapes of operands, and the tile by the device's size."""
    a, b = sample("plain", 5, 40, 0), sample("wide", 40, 6, 1)
    facts = mock.Mock(multi_processor_count=132, shared_memory_per_block_optin=232448)
    with (
        mock.patch.object(torch.cuda, "get_device_properties", return_value=facts),
        mock.patch.object(torch.cuda, "device", return_value=nullcontext()),
        mock.patch.object(_cuda, "_engine_for", return_value="triton"),
        mock.patch.object(_cuda, "check_products", return_value=None),
    ):
        out = torch.empty(5, 6)
        assert _cuda.multiply(a, b, out, 4)
        assert torch.equal(out, matmul(a, b))
        out = torch.empty(2, 5, 6)
        assert _cuda.multiply(a[None], torch.stack([b, 2 * b]), out, 3)
        assert torch.equal(out, torch.stack([reference(a, b, 3), reference(a, 2 * b, 3)]))


@case
def infinities_and_nan_have_one_answer_and_torchs_bits() -> None:
    a, b = sample("special", 40, 6, 5), sample("special", 6, 37, 6)
    check(a[None], b[None])
    found = product(a[None], b[None])[0]
    nan = found[found.isnan()].view(torch.int32)
    assert len(nan)
    assert nan.unique().tolist() == torch.tensor([math.nan]).view(torch.int32).tolist()


def main() -> None:
    """Run the cases that are named, or all."""
    warnings.simplefilter("error")
    # NumPy says so where the definition says infinity or NaN, and where a result is beyond float32.
    warnings.filterwarnings("ignore", message=".*encountered in", category=RuntimeWarning)
    assert os.environ.get("TRITON_INTERPRET") == "1", "this runs in Triton's interpreter alone"
    torch.set_num_threads(1)
    found: dict[str, str | None] = {}
    for name in sys.argv[1:] or CASES:
        started = time.perf_counter()
        force_engine(None)
        try:
            CASES[name]()
            found[name] = None
        except Exception:  # noqa: BLE001  # a process's edge: the parent's test fails with it
            found[name] = traceback.format_exc()
        print(f"{name}: {time.perf_counter() - started:.1f} s", file=sys.stderr)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
