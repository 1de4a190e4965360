"""bfloat16 and float16 as storage: widened in every operator, rounded once, and so with one answer."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdtrue.numerics import check_portable, portable_mode, steady_optimizer
from numerics_checks import each_engine
from numerics_models import TASKS, loss_of, optimizer_of

G = torch.Generator().manual_seed(3)
NARROW = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])


def rounded_by_integers(x: Tensor) -> Tensor:
    """float32 to bfloat16, to nearest, ties to even, written as integer arithmetic."""
    b = x.view(torch.int32).long() & 0xFFFFFFFF
    return torch.where(x.isnan(), 0x7FC0, (b + 0x7FFF + ((b >> 16) & 1)) >> 16) & 0xFFFF


def test_torch_rounds_to_bfloat16_as_the_integers_say() -> None:
    """The moves rest on this: it holds for denormal numbers too, where an instruction of AVX-512 would flush."""
    x = torch.arange(-(2**31), 2**31, 9973, dtype=torch.int64).to(torch.int32).view(torch.float32)
    x = torch.cat([x, torch.tensor([1e-45, -1e-40, 3e-39])])
    found = x.to(torch.bfloat16).view(torch.int16).long() & 0xFFFF
    assert torch.equal(torch.where(x.isnan(), 0x7FC0, found), rounded_by_integers(x))


@NARROW
def test_an_operator_is_that_of_float32_rounded_once(dtype: torch.dtype) -> None:
    x = torch.randn(9, 12, generator=G).to(dtype)
    y = torch.randn(12, generator=G).to(dtype)
    for of in (
        torch.exp,
        lambda v: v.softmax(1),
        lambda v: v * y.to(v.dtype),
        lambda v: torch.add(v, y.to(v.dtype), alpha=0.3),
        lambda v: v @ v.t(),
        lambda v: F.layer_norm(v, [12]),
        lambda v: v.sum(1),
        lambda v: v.abs().sqrt_(),
        lambda v: F.mse_loss(v, y.to(v.dtype).expand(9, 12)),
    ):
        with portable_mode():
            found, wide = of(x), of(x.float())
        assert found.dtype == dtype
        assert torch.equal(found.nan_to_num(), wide.to(dtype).nan_to_num())


@NARROW
def test_random_numbers_fill_narrow_tensors(dtype: torch.dtype) -> None:
    with portable_mode(key=1):
        x = torch.empty(1000, dtype=dtype)
        assert 0.4 < x.bernoulli_(0.5).float().mean() < 0.6
        assert 0.4 < x.uniform_().float().mean() < 0.6
        assert x.normal_().float().std() > 0.9


def train(name: str, *, with_autocast: bool) -> list[Tensor]:
    """Three updates in bfloat16: of the weights themselves, or by autocast."""
    build, sample, kind = TASKS[name]
    model: nn.Module = build() if with_autocast else build().bfloat16()
    x = sample()
    x = x if with_autocast or not x.is_floating_point() else x.bfloat16()
    y = torch.randint(0, 5, (len(x),))
    optimizer = optimizer_of(kind, model)
    losses = []
    for _ in range(3):
        with torch.autocast("cpu", torch.bfloat16, enabled=with_autocast):
            loss = loss_of(name if with_autocast else "cnn", model(x), y)
        loss.backward()
        losses.append(loss.detach())
        with steady_optimizer(optimizer):
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        optimizer.zero_grad()
    return [*losses, *(p.detach().clone() for p in model.parameters())]


@pytest.mark.parametrize(("name", "with_autocast"), [("cnn", False), ("transformer", False), ("lstm", True)])
def test_a_bfloat16_training_has_one_set_of_bits_and_learns(name: str, with_autocast: bool) -> None:
    found = []
    for engine in each_engine():
        if engine in ("reference", "vnni", "avx2"):
            with portable_mode(key=5):
                found.append(train(name, with_autocast=with_autocast))
    assert found[0][2] < found[0][0]
    assert {p.dtype for p in found[0][3:]} == {torch.float32 if with_autocast else torch.bfloat16}
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_the_checker_takes_narrow_inputs() -> None:
    x = torch.randn(40, generator=G).bfloat16()
    assert check_portable(lambda v: (v * v).exp().sum(), x) > 2


@pytest.mark.parametrize("name", ["_softmax", "_log_softmax"])
def test_a_float32_result_that_cuda_asks_of_float16_is_not_rounded_again(name: str) -> None:
    """`x.softmax(1, dtype=torch.float32)` of float16 is one operator there, and a conversion before it on a CPU."""
    x = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)).half()
    operator = getattr(torch.ops.aten, name)
    with portable_mode():
        found, wide = operator(x, 1, True), operator(x.float(), 1, False)
        assert operator(x, 1, False).dtype == torch.float16
    assert torch.equal(found, wide)
