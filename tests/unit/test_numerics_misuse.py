"""Operands that do not belong together are refused by every engine, before a kernel sees their addresses."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from holdtrue.errors import NumericsError
from holdtrue.numerics import matmul, portable_mode
from numerics_checks import each_engine


def refused(run: Callable[[], object], words: str) -> None:
    """Every engine refuses, in the mode and, for what is public, without it."""
    for _ in each_engine():
        with pytest.raises(NumericsError, match=words):
            run()


def in_mode(run: Callable[[], object]) -> Callable[[], object]:
    def within() -> object:
        with portable_mode():
            return run()

    return within


MISMATCHED: dict[str, Callable[[], object]] = {
    "@": lambda: torch.ones(8, 5) @ torch.ones(4, 2),
    "mm": lambda: torch.mm(torch.ones(8, 5), torch.ones(6, 2)),
    "bmm": lambda: torch.bmm(torch.ones(3, 8, 5), torch.ones(3, 4, 2)),
    "addmm": lambda: torch.addmm(torch.ones(2), torch.ones(8, 5), torch.ones(4, 2)),
    "mv": lambda: torch.mv(torch.ones(8, 5), torch.ones(4)),
    "dot": lambda: torch.dot(torch.ones(5), torch.ones(4)),
    "Linear": lambda: nn.Linear(4, 2)(torch.ones(3, 5)),
    "Linear without bias": lambda: nn.Linear(4, 2, bias=False)(torch.ones(2, 3, 5)),
}


@pytest.mark.parametrize("name", MISMATCHED)
def test_a_product_of_shapes_that_do_not_belong_together_is_refused(name: str) -> None:
    refused(in_mode(MISMATCHED[name]), r"must be the same number")


CONVOLUTIONS: dict[str, tuple[nn.Module, torch.Tensor]] = {
    "1 channel for 3": (nn.Conv2d(3, 4, 3), torch.ones(2, 1, 8, 8)),
    "5 channels for 3": (nn.Conv2d(3, 4, 3), torch.ones(2, 5, 8, 8)),
    "one dimension": (nn.Conv1d(3, 4, 3), torch.ones(2, 1, 8)),
    "groups": (nn.Conv2d(4, 4, 3, groups=2), torch.ones(2, 2, 8, 8)),
    "transposed": (nn.ConvTranspose2d(3, 4, 3), torch.ones(2, 1, 8, 8)),
    "transposed, groups": (nn.ConvTranspose2d(4, 4, 3, groups=2), torch.ones(2, 2, 8, 8)),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_of_other_channels_is_refused(name: str) -> None:
    layer, images = CONVOLUTIONS[name]
    refused(in_mode(lambda: layer(images)), r"weights are for \d channels, .* and the images have \d")


def test_a_convolution_whose_groups_do_not_divide_its_kernels_is_refused() -> None:
    x, weight = torch.ones(1, 4, 5, 5), torch.ones(3, 2, 3, 3)
    refused(in_mode(lambda: torch.nn.functional.conv2d(x, weight, groups=2)), "in groups of one size")


@pytest.mark.parametrize("where", [0, 1])
def test_a_product_of_float64_is_refused(where: int) -> None:
    a, b = torch.ones(3, 4), torch.ones(4, 2)
    a, b = (a.double(), b) if where == 0 else (a, b.double())
    refused(lambda: matmul(a, b), "portable products are float32")
    refused(in_mode(lambda: a.double() @ b.double()), "portable products are float32")


def test_a_product_of_unlike_batches_is_refused_and_a_batch_of_one_serves_all() -> None:
    refused(lambda: matmul(torch.ones(2, 3, 4), torch.ones(5, 4, 2)), "2 and 5 matrices do not pair")
    refused(lambda: matmul(torch.ones(2, 3, 4), torch.ones(4, 2)), "must be matrices or both batches")
    for _ in each_engine():
        for a, b in ((1, 3), (3, 1), (0, 1), (1, 0)):
            found = matmul(torch.ones(a, 2, 4), torch.ones(b, 4, 5))
            assert torch.equal(found, torch.full((a * b, 2, 5), 4.0))


@pytest.mark.parametrize("slices", [0, 2, 5, 6, 7, 100])
def test_a_product_with_another_number_of_slices_is_refused(slices: int) -> None:
    x = torch.rand(30, 30)
    refused(lambda: matmul(x, x, slices=slices), rf"slices is {slices}; .* Pass 3 or 4")
