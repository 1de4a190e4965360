"""Norms and softmax have kernels of their own: the bits of the torch operations, special values and long rows included."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from holdtrue.numerics import portable_mode
from numerics_checks import bits, each_engine

G = torch.Generator().manual_seed(8)
IMAGES = torch.randn(5, 6, 7, 9, generator=G) * 3
LONG = torch.randn(2, 3, 4500, generator=G)  # longer than a block of a sum
ROWS = torch.randn(11, 130, generator=G)
ROWS[3], ROWS[4, 5], ROWS[5, 1] = -torch.inf, torch.nan, torch.inf

CASES: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "batch norm": (lambda: nn.BatchNorm2d(6), IMAGES),
    "batch norm without weights": (lambda: nn.BatchNorm2d(6, affine=False), IMAGES),
    "batch norm, evaluation": (lambda: nn.BatchNorm2d(6).eval(), IMAGES),
    "batch norm, other strides": (lambda: nn.BatchNorm2d(6), IMAGES.permute(0, 1, 3, 2)),
    "batch norm of rows": (lambda: nn.BatchNorm1d(130), ROWS[6:]),
    "batch norm, long": (lambda: nn.BatchNorm1d(3), LONG),
    "layer norm": (lambda: nn.LayerNorm([7, 9]), IMAGES),
    "layer norm without bias": (lambda: nn.LayerNorm(9, bias=False), IMAGES),
    "layer norm without weights": (lambda: nn.LayerNorm(9, elementwise_affine=False), IMAGES),
    "layer norm, long": (lambda: nn.LayerNorm(4500), LONG),
    "softmax": (lambda: nn.Softmax(-1), ROWS),
    "softmax, long": (lambda: nn.Softmax(-1), LONG),
    "log softmax": (lambda: nn.LogSoftmax(-1), ROWS),
    "log softmax of columns": (lambda: nn.LogSoftmax(0), ROWS),
}


def run(build: Callable[[], nn.Module], x: Tensor) -> list[Tensor]:
    """Value, gradients and buffers."""
    module = build()
    for p in module.parameters():
        p.data.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    x = x.clone().requires_grad_()
    with portable_mode(key=0):
        y = module(x)
        y.backward(torch.sin(torch.arange(y.numel()) * 1.7).reshape(y.shape))
    assert x.grad is not None
    grads = [p.grad for p in module.parameters() if p.grad is not None]
    return [y.detach(), x.grad, *grads, *(b.float() for b in module.buffers())]


@pytest.mark.parametrize("name", CASES)
def test_a_kernel_has_the_bits_of_the_torch_operations(name: str) -> None:
    build, x = CASES[name]
    found = [run(build, x) for _ in each_engine()]
    for other in found[1:]:
        assert len(other) == len(found[0])
        assert all(torch.equal(bits(a), bits(b)) for a, b in zip(found[0], other, strict=True))
