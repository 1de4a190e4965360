"""Functions, sums and random numbers: one answer, and a good one."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holdtrue.numerics import RandomStream, function, sum64
from holdtrue.numerics import _functions as functions
from holdtrue.numerics._functions import CORES
from holdtrue.numerics._philox import words
from numerics_checks import bits, same_for_all_engines

SPECIAL = torch.tensor(
    [0.0, -0.0, math.inf, -math.inf, math.nan, 1e-45, -1e-45, 88.7, 88.8, -103.9, -104.1, 1.0]
)


def true_gelu(x: torch.Tensor) -> torch.Tensor:
    return x * 0.5 * torch.special.erfc(-x / math.sqrt(2.0))


TRUE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    name: getattr(torch, name)
    for name in ("exp", "log", "tanh", "sigmoid", "erf", "rsqrt", "sin", "cos", "log1p", "expm1")
} | {"silu": torch.nn.functional.silu, "gelu": true_gelu}


def all_exponents(every: int) -> torch.Tensor:
    """Numbers of each exponent and sign, with mantissas spread evenly."""
    step = torch.arange(-(2**31), 2**31, every, dtype=torch.int64)
    return torch.cat([step.to(torch.int32).view(torch.float32), SPECIAL])


def ulps(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Distance in steps of float32."""
    i, j = (x.contiguous().view(torch.int32).long() for x in (a, b))
    i, j = torch.where(i < 0, -(2**31) - i, i), torch.where(j < 0, -(2**31) - j, j)
    return (i - j).abs()


@pytest.mark.parametrize("name", CORES)
def test_a_function_has_the_same_bits_on_every_engine(name: str) -> None:
    x = all_exponents(40_009)
    same_for_all_engines(lambda: function(name, x))


def check_accuracy(name: str, x: torch.Tensor) -> None:
    x = x[x.abs() < 2.0**27] if name in ("sin", "cos") else x
    x = x[x != -math.inf] if name in ("silu", "gelu") else x  # torch has NaN there, the limit is -0
    got, true = function(name, x), TRUE[name](x.double()).float()
    unlike = got != true  # NaN is unlike NaN
    got, true, count = got[unlike], true[unlike], len(x)
    assert torch.equal(got.isnan(), true.isnan())
    got, true = got[~true.isnan()], true[~true.isnan()]
    assert torch.isfinite(got).all()
    assert torch.isfinite(true).all()
    if len(got):
        assert ulps(got, true).max() <= 1
        assert len(got) <= 2e-5 * count + 10


@pytest.mark.parametrize("name", TRUE)
def test_a_function_is_within_an_ulp_of_the_correctly_rounded_value(name: str) -> None:
    check_accuracy(name, all_exponents(9_973))


@pytest.mark.slow
@pytest.mark.parametrize("name", TRUE)
def test_a_function_is_within_an_ulp_for_every_float32(name: str) -> None:
    for start in range(-(2**31), 2**31, 2**20):  # temporaries stay in the processor's caches
        x = torch.arange(start, start + 2**20, dtype=torch.int32).view(torch.float32)
        if len(x[x.abs() < 2.0**27]) or name not in ("sin", "cos"):
            check_accuracy(name, x)


def test_slopes_are_derivatives() -> None:
    x = torch.linspace(-6, 6, 999, dtype=torch.float64, requires_grad=True)
    for name, of in (("gelu", torch.nn.functional.gelu), ("silu", torch.nn.functional.silu)):
        (slope,) = torch.autograd.grad(of(x).sum(), x)
        assert torch.allclose(function(f"{name}_slope", x.detach()), slope, atol=1e-12, rtol=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from([1, 2, 3, 7, 63, 64, 65, 130]), min_size=1, max_size=3),
    st.integers(0, 7),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_a_sum_has_one_order_on_every_engine(shape: list[int], chosen: int, keepdim: bool, seed: int) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    dims = [d for d in range(len(shape)) if chosen >> d & 1] or None
    got = same_for_all_engines(lambda: sum64(x, dims, keepdim=keepdim))
    axes = tuple(dims) if dims else tuple(range(len(shape)))
    expected = x.double().sum(axes, keepdim=keepdim)
    assert got.shape == expected.shape
    assert torch.allclose(got, expected, atol=1e-10)


def test_rows_of_any_length_have_one_order_on_every_engine() -> None:
    """The end of a row that is no whole number of lanes, with what memory has behind it."""
    g = torch.Generator().manual_seed(0)
    special = torch.tensor([-0.0, torch.inf, -torch.inf, torch.nan, 1e-42, 3e38, -1e-30])
    for n in (*range(1, 230), 255, 256, 300, 323, 1023, 4095, 4161):  # kernels differ by the length too
        x = torch.randn(3, n, generator=g) * 10.0 ** torch.randint(-9, 9, (3, n), generator=g)
        x[1, torch.randint(0, n, (2,), generator=g)] = special[n % 7]
        x[2] = -0.0
        padded = torch.cat([x, torch.full((3, 64), torch.nan)], 1)
        found = same_for_all_engines(lambda x=x: sum64(x, [1]))
        assert torch.equal(bits(found), bits(torch.stack([sum64(row[:n]) for row in padded]))), n
        same_for_all_engines(lambda x=x: sum64(x.double() * 1.1, [1]))


@pytest.mark.parametrize("n", [4095, 4096, 4097, 70_001, 4096 * 65])
def test_long_sums_have_one_order_on_every_engine(n: int) -> None:
    x = torch.randn(n, generator=torch.Generator().manual_seed(n)) * 1e8
    same_for_all_engines(lambda: sum64(x))
    same_for_all_engines(lambda: sum64(torch.stack([x, x * 3.3], 1), [0]))
    same_for_all_engines(lambda: sum64(x.double() * 1.1))


def test_the_order_of_a_sum_is_that_of_the_definition() -> None:
    x = torch.randn(200, dtype=torch.float64) * 1e8
    lanes = [0.0] * 64
    for i, value in enumerate(x.tolist()):
        lanes[i % 64] += value
    while len(lanes) > 1:
        half = len(lanes) // 2
        lanes = [a + b for a, b in zip(lanes[:half], lanes[half:], strict=True)]
    assert float(sum64(x)) == lanes[0]


def test_a_sum_of_negative_zeros_is_plus_zero_and_of_nothing_zero() -> None:
    same_for_all_engines(lambda: sum64(torch.full((5,), -0.0)))
    assert not sum64(torch.full((5,), -0.0)).signbit()
    assert sum64(torch.zeros(3, 0), [1]).tolist() == [0.0] * 3


CPU = torch.device("cpu")
# Known answers of the authors' Random123 distribution (kat_vectors, philox4x32 with 10 rounds).
KNOWN = (
    (0, 0, 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (2**64 - 1, 2**64 - 1, 2**64 - 1, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        0x299F31D0_A4093822,
        0x03707344_13198A2E,
        0x85A308D3_243F6A88,
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
)


@pytest.mark.parametrize(("key", "call", "block", "expected"), KNOWN)
def test_random_words_are_those_of_the_published_vectors(
    key: int, call: int, block: int, expected: tuple[int, ...]
) -> None:
    at = block - 2**64 if block >= 2**63 else block  # the counter's low half, as a signed number
    got = same_for_all_engines(
        lambda: words(key, call, 4, CPU, first=at * 4 if abs(at) < 2**60 else 0).double()
    )
    if abs(at) < 2**60:
        assert [int(v) for v in got.tolist()] == list(expected)


def test_random_words_do_not_depend_on_how_a_call_is_split() -> None:
    whole = words(9, 3, 1001, CPU)
    assert torch.equal(torch.cat([words(9, 3, 400, CPU), words(9, 3, 601, CPU, first=400)]), whole)
    same_for_all_engines(lambda: words(9, 3, 1001, CPU).double())


def test_streams_differ_by_key_and_call() -> None:
    a, b = RandomStream(1), RandomStream(2)
    first, second = a.words(8, CPU), a.words(8, CPU)
    assert not torch.equal(first, second)
    assert not torch.equal(first, b.words(8, CPU))
    assert torch.equal(first, RandomStream(1).words(8, CPU))


def test_random_numbers_have_the_moments_they_should() -> None:
    stream = RandomStream(7)
    n = torch.Size([200_000])
    u, z = stream.uniform(n, CPU, torch.float32), stream.normal(n, CPU, torch.float32)
    assert u.min() >= 0
    assert u.max() < 1
    assert abs(float(u.mean()) - 0.5) < 0.005
    assert abs(float(z.mean())) < 0.01
    assert abs(float(z.std()) - 1) < 0.01
    assert abs(float((z**4).mean()) - 3) < 0.1
    kept = stream.bernoulli(0.3, n, CPU)
    assert abs(float(kept.float().mean()) - 0.3) < 0.005
    whole = stream.integers(-2, 5, n, CPU)
    assert whole.unique().tolist() == [-2, -1, 0, 1, 2, 3, 4]
    assert torch.equal(stream.permutation(1000, CPU).sort().values, torch.arange(1000))


def test_normal_numbers_have_the_same_bits_on_every_engine() -> None:
    got = same_for_all_engines(lambda: RandomStream(3).normal(torch.Size([1001]), CPU, torch.float32))
    assert bits(got).unique().numel() > 990


def test_square_roots_of_float64_are_correctly_rounded_in_every_layout() -> None:
    x = torch.rand(1 << 14, dtype=torch.float64, generator=torch.Generator().manual_seed(4)) * 10
    exact = torch.tensor([math.sqrt(v) for v in x.tolist()], dtype=torch.float64)
    assert torch.equal(functions.sqrt64(x), exact)
    assert torch.equal(functions.sqrt64(x.view(128, 128).t()), exact.view(128, 128).t())
    assert torch.equal(functions.sqrt64(x[5]), exact[5])
    odd = functions.sqrt64(torch.tensor([-1.0, 0.0, -0.0, math.inf, math.nan], dtype=torch.float64))
    assert odd.isnan().tolist() == [True, False, False, False, True]
    assert [math.copysign(1.0, v) for v in odd[1:3].tolist()] == [1.0, -1.0]
    assert torch.equal(functions.rsqrt64(x), 1.0 / exact)


def test_torchs_own_square_root_would_not_do() -> None:
    x = torch.rand(1 << 14, dtype=torch.float64, generator=torch.Generator().manual_seed(4)) * 10
    exact = torch.tensor([math.sqrt(v) for v in x.tolist()], dtype=torch.float64)
    if torch.equal(torch.sqrt(x), exact):
        pytest.skip("torch's own square root of float64 is correctly rounded on this processor")
    assert not torch.equal(torch.sqrt(x), functions.sqrt64(x))
