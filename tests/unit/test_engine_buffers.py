"""Buffers are found anew where the script exchanged them: what is kept between rounds changes no bit."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

import holdtrue as ht
from holdtrue.engine._buffers import BufferBook
from holdtrue.testing import run_in_process

X = torch.randn(56, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(56) % 3


class Counting(nn.Module):
    """A batch norm, and a buffer that every pass binds anew."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 8)
        self.norm = nn.BatchNorm1d(8)
        self.out = nn.Linear(8, 3)
        self.register_buffer("bound_anew", torch.zeros(()))
        self.later: nn.Module = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.bound_anew = self.bound_anew + 1
        return self.out(self.later(self.norm(self.inner(x))))


def exchange(model: Counting, how: str) -> None:
    if how == "data":
        model.norm.running_mean.data = torch.arange(8.0)  # type: ignore[union-attr]  # it tracks statistics
    elif how == "tensor":
        model.norm.running_var = torch.full((8,), 2.0)
    elif how == "shape":
        model.bound_anew.set_(torch.zeros(3))
    elif how == "module":
        model.later = nn.BatchNorm1d(8)
    elif how == "inner":
        model.norm = nn.BatchNorm1d(8, momentum=0.5)


def train(how: str) -> list[str]:
    run = ht.init(virtual_nodes=7, global_batch_size=14, seed=1)
    torch.manual_seed(0)
    model = Counting()
    model, _ = run.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    digests = []
    for step in run.steps(TensorDataset(X, Y)):
        if step.index == 2:
            exchange(model, how)
        for x, y in step:
            step.backward(F.cross_entropy(model(x), y))
        step.update()
        digests.append(run.digest())
    return digests


@pytest.mark.parametrize("how", ["data", "tensor", "shape", "module", "inner"])
def test_buffers_exchanged_between_steps_are_found_anew(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    main = functools.partial(train, how)
    (kept,) = run_in_process(main)
    uneven = run_in_process(main, mapping="0,3/1-2,4-6")
    monkeypatch.setattr(BufferBook, "_is_known", lambda book: False)
    (walked,) = run_in_process(main)
    assert kept == walked
    assert uneven == [kept, kept]
    assert kept != run_in_process(functools.partial(train, "nothing"))[0]


@pytest.mark.parametrize("how", ["data", "tensor", "inner"])
def test_the_control_that_never_looks_again_differs(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    main = functools.partial(train, how)
    (found,) = run_in_process(main)
    monkeypatch.setattr(BufferBook, "_is_known", lambda book: bool(book._watch.modules))
    (blind,) = run_in_process(main)
    assert blind != found
