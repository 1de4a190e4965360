"""The integer matrix product: one answer for every engine, within its bound."""

import ctypes
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holdtrue.errors import NumericsError
from holdtrue.numerics import ENGINES, _native, _selftest, engines, force_engine, matmul
from holdtrue.numerics._matmul import PIECE, digits, exponents, is_wide
from numerics_checks import bits, each_engine, same_for_all_engines
from numerics_samples import KINDS, sample


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.sampled_from(KINDS),
    st.integers(1, 40),
    st.integers(1, 140),
    st.integers(1, 40),
    st.sampled_from([3, 4]),
    st.integers(0, 2**31),
)
def test_every_engine_has_the_same_bits(
    kind_a: str, kind_b: str, M: int, K: int, N: int, slices: int, seed: int
) -> None:
    a, b = sample(kind_a, M, K, seed), sample(kind_b, K, N, seed + 1)
    same_for_all_engines(lambda: matmul(a, b, slices=slices))


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(KINDS[:4]), st.sampled_from(KINDS[:4]), st.integers(1, 300), st.integers(0, 2**31))
def test_the_error_is_within_the_bound_of_the_definition(kind_a: str, kind_b: str, K: int, seed: int) -> None:
    a, b = sample(kind_a, 9, K, seed), sample(kind_b, K, 7, seed + 1)
    exact = a.double() @ b.double()
    largest = a.abs().amax(1).double()[:, None] * b.abs().amax(0).double()[None, :]
    rounding = exact.abs() * 2.0**-24 + 2.0**-150
    for slices, unit in ((4, 2.0**-28), (3, 2.0**-21)):
        # two expansions of half a unit each (a unit is 2 * 2^-(7S) of the largest), and slices - 1 dropped diagonals
        bound = (slices + 3) * K * unit * largest * 1.01 + rounding
        assert ((matmul(a, b, slices=slices).double() - exact).abs() <= bound).all()


def test_the_error_is_below_that_of_float32_on_ordinary_matrices() -> None:
    a, b = sample("plain", 64, 512, 0), sample("plain", 512, 64, 1)
    exact = a.double() @ b.double()
    assert (matmul(a, b).double() - exact).abs().max() < (a @ b - exact).abs().max()


def test_a_peaked_softmax_times_values_keeps_what_float32_keeps() -> None:
    """Column j of the values is small where the weights are large: four digits alone lose it."""
    weights = torch.softmax(torch.linspace(0, -14, 64), 0).repeat(3, 1)
    values = torch.logspace(-6, 0, 64)[:, None] * torch.tensor([[1.0, -0.7]])
    exact = weights.double() @ values.double()
    error = ((matmul(weights, values).double() - exact) / exact).abs().max()
    from holdtrue.numerics._matmul import _sliced

    four_digits = ((_sliced(weights, values, 4).double() - exact) / exact).abs().max()
    assert error < 2e-7
    assert four_digits > 10 * error


def test_small_sums_and_single_terms_are_as_good_as_one_rounding() -> None:
    a, b = sample("wide", 8, 1, 3).clamp(-1e15, 1e15), sample("wide", 1, 8, 4).clamp(-1e15, 1e15)
    assert torch.equal(matmul(a, b), (a.double() @ b.double()).float())


def test_digits_are_at_most_64_and_add_up() -> None:
    x = torch.cat(
        [sample("wide", 20, 50, 0), sample("denormal", 20, 50, 1), torch.tensor([[1 - 2.0**-24] * 50])]
    )
    e = exponents(x)
    q = list(digits(x, e, 4))
    assert max(float(d.abs().max()) for d in q) == 64.0
    total = sum(d * 2.0 ** -(6 + 7 * s) for s, d in enumerate(q)) * torch.pow(2.0, e.double())[:, None]
    assert ((x.double() - total).abs() <= torch.pow(2.0, e.double())[:, None] * 2.0**-28).all()


def test_a_row_does_not_depend_on_the_rest_of_the_batch_or_on_zeros_behind_it() -> None:
    a, b = torch.cat([sample("wide", 5, 64, 0), sample("plain", 9, 64, 1)]), sample("plain", 64, 11, 2)
    whole = matmul(a, b)
    assert torch.equal(torch.cat([matmul(a[i : i + 1], b) for i in range(14)]), whole)
    padded = matmul(torch.nn.functional.pad(a, (0, 13)), torch.nn.functional.pad(b, (0, 0, 0, 13)))
    assert torch.equal(padded, whole)


def test_strides_and_alignment_do_not_matter() -> None:
    a, b = sample("plain", 13, 37, 0), sample("plain", 37, 35, 1)
    whole = matmul(a, b)
    room = torch.zeros(3 * a.numel() + 1)
    odd = room[1:].as_strided(a.shape, (3 * 37, 3)).copy_(a)
    for other in (odd, a.t().contiguous().t()):
        for second in (b, b.t().contiguous().t()):
            same_for_all_engines(lambda other=other, second=second: matmul(other, second))
            assert torch.equal(matmul(other, second), whole)
    one = torch.ones(5, 1).as_strided((5, 1), (1, 7)), torch.ones(1, 4).as_strided((1, 4), (9, 1))
    assert torch.equal(matmul(*one), torch.ones(5, 4))


@pytest.mark.parametrize("shape", [(0, 3, 4), (3, 0, 4), (3, 4, 0), (1, 1, 1)])
def test_empty_and_single_dimensions(shape: tuple[int, int, int]) -> None:
    M, K, N = shape
    assert torch.equal(matmul(torch.ones(M, K), torch.ones(K, N)), torch.full((M, N), float(K)))


def test_batches_are_products_of_their_members() -> None:
    a, b = torch.randn(3, 5, 8), torch.randn(3, 8, 6)
    assert torch.equal(matmul(a, b), torch.stack([matmul(x, y) for x, y in zip(a, b, strict=True)]))
    assert torch.equal(matmul(a[:1], b), torch.stack([matmul(a[0], y) for y in b]))


def test_a_batch_of_unlike_members_has_one_answer_on_every_engine() -> None:
    kinds = ("plain", "wide", "special", "zeros", "one-hot")
    a = torch.stack([sample(kind, 5, 40, i) for i, kind in enumerate(kinds)])
    b = torch.stack([sample("plain", 40, 6, i) for i in range(5)])
    whole = same_for_all_engines(lambda: matmul(a, b))
    assert torch.equal(bits(whole), bits(torch.stack([matmul(x, y) for x, y in zip(a, b, strict=True)])))
    same_for_all_engines(lambda: matmul(a.transpose(0, 1).contiguous().transpose(0, 1), b[:1]))


def test_long_sums_are_cut_into_pieces_and_cannot_overflow() -> None:
    """The largest digits with one sign over more than one piece: int32 would wrap without the cut."""
    K = 2 * PIECE + 5
    a, b = torch.full((2, K), 1 - 2.0**-24), torch.full((K, 3), -(1 - 2.0**-24))
    same_for_all_engines(lambda: matmul(a, b))
    assert torch.equal(matmul(a, b), (a.double() @ b.double()).float())
    assert 6 * 64 * 64 * PIECE < 2**31


def test_special_values_go_by_the_rules_of_ieee_addition() -> None:
    a, b = sample("special", 12, 6, 5), sample("special", 6, 12, 6)
    terms = a.double()[:, :, None] * b.double()[None]
    expected = terms.sum(1)
    got = matmul(a, b)
    known = ~torch.isfinite(expected)
    assert known.any()
    assert (~known).any()
    assert torch.equal(bits(got[known]), bits(expected[known].float()))
    assert torch.isfinite(got[~known]).all()


def test_a_sum_of_negative_zeros_is_plus_zero() -> None:
    assert not matmul(torch.full((2, 3), -0.0), torch.ones(3, 2)).signbit().any()


def test_the_rule_for_more_digits_looks_at_one_vector_and_not_at_zeros() -> None:
    x = torch.tensor([[1.0] * 9, [1.0, *[1e-3] * 8], [0.0] * 9, [1.0, 1e-3, *[0.0] * 7], [*[1.0] * 8, 1e-3]])
    assert is_wide(x).tolist() == [False, True, False, True, True]


def test_an_engine_that_is_not_exact_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Saturating:
        """Like vpmaddubsw beyond its range, or torch._int_mm without VNNI."""

        @staticmethod
        def ht_diagonal(
            a: object, b: object, k4: object, rows: int, columns: int, out: object, engine: int
        ) -> None:
            return None

    monkeypatch.setattr(_selftest, "native", lambda *_: (Saturating(), 1))
    with pytest.raises(
        NumericsError, match=r"is not exact here: 4 products of 64 and 64 gave .*HOLDTRUE_NUMERICS_ENGINE"
    ):
        _selftest._check_products("avx2", 1, 64, 64)


@pytest.fixture
def kernels() -> tuple[ctypes.CDLL, int]:
    """The library and its fastest engine."""
    found = _native.native()
    if found is None:
        pytest.skip("the kernels are not built")
    return found


@pytest.mark.parametrize("tile", _selftest.TILES)
def test_an_engine_that_is_inexact_on_one_tile_alone_is_refused(
    tile: tuple[int, int], kernels: tuple[ctypes.CDLL, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Engines have code of their own for each."""
    library, number = kernels

    class Wrong:
        def ht_diagonal(self, *arguments: Any) -> None:  # Any: what ctypes is given
            library.ht_diagonal(*arguments)
            if arguments[3:5] == tile:
                ctypes.cast(arguments[5], ctypes.POINTER(ctypes.c_int32))[tile[1] - 1] += 1

    monkeypatch.setattr(_selftest, "native", lambda *_: (Wrong(), number))
    with pytest.raises(NumericsError, match="is not exact here"):
        _selftest._check_products("generic", 1, 64, 64)


@pytest.mark.parametrize("digits", _selftest.WHOLE)
def test_an_engine_whose_tiles_are_wrong_with_some_digits_alone_is_refused(
    digits: tuple[int, int], kernels: tuple[ctypes.CDLL, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    library, number = kernels

    class Wrong:
        def ht_tile(self, *arguments: Any) -> int:  # Any: what ctypes is given
            library.ht_tile(*arguments)
            if arguments[3:5] == digits:
                ctypes.cast(arguments[8], ctypes.POINTER(ctypes.c_int32))[12 * 32] += 1
            return 1

    monkeypatch.setattr(_selftest, "native", lambda *_: (Wrong(), number))
    with pytest.raises(NumericsError, match=r"is not exact here: a tile of 12 x 32"):
        _selftest._check_tiles("vnni", *digits, _selftest.WHOLE[digits])


@pytest.mark.parametrize("digits", _selftest.SHORT)
def test_an_engine_whose_short_tiles_are_wrong_with_some_digits_alone_is_refused(
    digits: tuple[int, int], kernels: tuple[ctypes.CDLL, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    library, number = kernels

    class Wrong:
        def ht_short(self, *arguments: Any) -> int:  # Any: what ctypes is given
            made: int = library.ht_short(*arguments)
            if arguments[3:7] == (*digits, 4, 16):
                ctypes.cast(arguments[8], ctypes.POINTER(ctypes.c_float))[3 * 32 + 15] *= -1
            return made

    if "vnni" not in engines():
        pytest.skip("the processor has no engine with short tiles")
    monkeypatch.setattr(_selftest, "native", lambda *_: (Wrong(), number))
    with pytest.raises(
        NumericsError, match=rf"is not exact here: a short tile of 4 x 16 with {digits[0]} digits"
    ):
        _selftest._check_short("vnni", *digits)


@pytest.mark.parametrize("slices", _selftest.QUADS)
def test_an_engine_whose_tiles_of_int16_are_wrong_with_some_digits_alone_is_refused(
    slices: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "avx2" not in engines():
        pytest.skip("the processor has no AVX2, or the kernels are not built")
    force_engine("avx2")
    found = _native.native()
    force_engine(None)
    assert found is not None
    library, number = found

    class Wrong:
        def ht_quad(self, *arguments: Any) -> int:  # Any: what ctypes is given
            made: int = library.ht_quad(*arguments)
            if arguments[3:6] == (slices, 3, 5):
                ctypes.cast(arguments[6], ctypes.POINTER(ctypes.c_float))[2 * 16 + 4] *= -1
            return made

    monkeypatch.setattr(_selftest, "native", lambda *_: (Wrong(), number))
    with pytest.raises(NumericsError, match=rf"is not exact here: a tile of 3 x 5 with {slices} digits"):
        _selftest._check_quads("avx2", slices, _selftest.QUADS[slices])


@pytest.mark.parametrize("K", [1, 3, 16, 33, 64, 95])
def test_products_of_few_values_have_one_answer_however_they_lie(K: int) -> None:
    """Several blocks of rows and panels of columns; wide vectors among them; operands that serve a whole batch."""
    a, b = (
        torch.stack([sample("plain", 270, K, i) for i in range(2)]),
        torch.stack([sample("plain", K, 70, i + 5) for i in range(2)]),
    )
    a[0] = (a[0] * 4).round() / 4  # zeros, and vectors of equal values
    a[1, 5], b[1, :, 66] = 1 - 2.0**-24, -(1 - 2.0**-24)
    whole = same_for_all_engines(lambda: matmul(a, b))
    other_a, other_b = (
        a.transpose(1, 2).contiguous().transpose(1, 2),
        b.transpose(1, 2).contiguous().transpose(1, 2),
    )
    room = torch.zeros(2, 270, 3 * K + 1)
    apart = room[..., 1::3][..., :K].copy_(a)
    for first, second in ((other_a, b), (a, other_b), (apart, other_b)):
        assert torch.equal(bits(matmul(first, second)), bits(whole))
    if K > 8:
        a[1, 7] = sample("one-hot", 1, K, 0)
        b[0] = sample("wide", K, 70, 1)
    for slices in (3, 4):
        whole = same_for_all_engines(lambda slices=slices: matmul(a, b, slices=slices))
        single = torch.stack([matmul(x, y, slices=slices) for x, y in zip(a, b, strict=True)])
        assert torch.equal(bits(whole), bits(single))
    for first, second in ((a[:1], b), (a, b[:1])):
        whole = same_for_all_engines(lambda first=first, second=second: matmul(first, second))
        members = [matmul(first[i % len(first)], second[i % len(second)]) for i in range(2)]
        assert torch.equal(bits(whole), bits(torch.stack(members)))


def grid(rows: int, columns: int, seed: int) -> torch.Tensor:
    """Some values have the digits 64, -10, 64: the sum of the first and the third does not fit a byte."""
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(rows, columns, generator=g) - 0.5
    x[torch.rand(rows, columns, generator=g) < 0.02] = (64 * 2**14 - 10 * 2**7 + 64) * 2.0**-20
    return torch.where(torch.rand(rows, columns, generator=g) < 0.5, -x, x)


@pytest.mark.parametrize("slices", [3, 4])
@pytest.mark.parametrize("K", [20, 95, 96, 200, 1024, 1025, 2500])
def test_sums_of_digits_that_do_not_fit_a_byte_change_nothing(K: int, slices: int) -> None:
    a, b = grid(30, K, 1), grid(K, 50, 2)
    q = list(digits(a, exponents(a), 4))
    assert ((q[0] + q[2]).abs() >= 128).any(), "no value tests what is tested here"
    for second in (b, sample("plain", K, 50, 3), sample("wide", K, 50, 4)):
        same_for_all_engines(lambda second=second: matmul(a, second, slices=slices))
        same_for_all_engines(lambda second=second: matmul(second.t(), a.t(), slices=slices))


def test_a_matrix_larger_than_the_caches_has_one_answer() -> None:
    """Several blocks of rows, columns and K."""
    a, b = torch.rand(1100, 1100) - 0.5, torch.rand(1100, 1300) - 0.5
    a[7], b[:, 5] = sample("wide", 1, 1100, 0)[0], sample("wide", 1, 1100, 1)[0]
    rows, columns = [0, 7, 47, 48, 383, 384, 1023, 1024, 1099], [0, 5, 31, 32, 1023, 1279, 1280, 1299]
    picked = same_for_all_engines(lambda: matmul(a[rows], b[:, columns]))
    three = torch.stack([a[:60], a[60:120], a[120:180]])
    for name in each_engine():
        if name in ("generic", "reference"):  # they know no blocks
            continue
        whole = matmul(a, b)
        assert torch.equal(bits(whole[rows][:, columns]), bits(picked)), name
        assert torch.equal(bits(matmul(three, b[None])), bits(whole[:180].reshape(3, 60, 1300))), name


def test_every_engine_here_passes_its_self_test() -> None:
    for name in each_engine():
        _selftest._check.cache_clear()
        _selftest.check_engine()
        assert _native.engine() == name


def test_an_engine_that_is_not_here_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDTRUE_NUMERICS_ENGINE", "abacus")
    with pytest.raises(NumericsError, match=r"'abacus' is not here; .* has reference.*Name one of them"):
        _native.engine()


def test_the_kernels_are_built_in_this_checkout() -> None:
    """`make venv` builds them; without, all would pass and be slow."""
    assert engines()[:2] == ENGINES[:2]
    force_engine(None)
