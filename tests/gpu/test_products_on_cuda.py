"""On a GPU: matrix products by Triton have the bits of the CPU's engines, and every layout passes its self-test. Not yet run."""

import pytest
import torch

from holdtrue.numerics import CUDA_ENGINES, _cuda, cuda_engine, force_engine, matmul, portable_mode
from holdtrue.numerics._matmul import PIECE
from numerics_checks import bits
from numerics_samples import KINDS, sample

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SHAPES = ((5, 37, 9), (70, 65, 33), (1, 64, 1), (300, 150, 170), (3, PIECE + 5, 2), (1500, 200, 1300))


@pytest.fixture(autouse=True)
def the_fastest_engine_again() -> object:
    yield
    force_engine(None)


@pytest.mark.parametrize("is_small", [False, True])
@pytest.mark.parametrize("is_long", [False, True])
@pytest.mark.parametrize("slices", [3, 4])
def test_every_layout_is_exact_here(slices: int, is_long: bool, is_small: bool) -> None:
    force_engine("triton")
    assert cuda_engine(torch.device("cuda")) == "triton"
    _cuda.check_products(torch.cuda.current_device(), slices, is_long=is_long, is_small=is_small)


@pytest.mark.parametrize("engine", CUDA_ENGINES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_on_cuda_have_the_bits_of_the_cpu(shape: tuple[int, int, int], engine: str) -> None:
    M, K, N = shape
    for i, first in enumerate(KINDS):
        a, b = sample(first, M, K, i), sample(KINDS[(3 * i + 1) % len(KINDS)], K, N, 9 + i)
        for slices in (3, 4):
            expected = matmul(a, b, slices=slices)
            force_engine(engine)  # type: ignore[arg-type]  # one of those of CUDA
            got = matmul(a.cuda(), b.cuda(), slices=slices).cpu()
            force_engine(None)
            assert torch.equal(bits(got), bits(expected)), (first, slices)


def test_batches_and_strides_on_cuda_have_the_bits_of_the_cpu() -> None:
    a, b = sample("wide", 60, 40, 0).reshape(4, 15, 40), sample("plain", 160, 17, 1).reshape(4, 40, 17)
    for x, y in ((a, b), (a, b[:1]), (b.transpose(1, 2), a.transpose(1, 2)), (a[:1], b)):
        assert torch.equal(bits(matmul(x.cuda(), y.cuda()).cpu()), bits(matmul(x, y)))


def test_ordinary_products_on_cuda_differ_from_the_cpu_and_portable_ones_do_not() -> None:
    a, b = torch.randn(257, 1000), torch.randn(1000, 129)
    assert not torch.equal((a.cuda() @ b.cuda()).cpu(), a @ b)
    with portable_mode():
        assert torch.equal((a.cuda() @ b.cuda()).cpu(), a @ b)
