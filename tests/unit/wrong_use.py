"""What the tests of wrong use share: a small model, its data, a right loop, and the shape of an error."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import holdtrue as ht
from holdtrue.errors import HoldtrueError
from holdtrue.run import Run, Step
from holdtrue.testing import run_in_process

FEATURES = 3
Examples = list[tuple[torch.Tensor, torch.Tensor]]


def examples(count: int = 24) -> Examples:
    """So many pairs of features and target, always the same."""
    generator = torch.Generator().manual_seed(7)
    return [(torch.randn(FEATURES, generator=generator), torch.tensor(float(i % 5))) for i in range(count)]


class Net(torch.nn.Module):
    """A linear layer with a place for a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.line = torch.nn.Linear(FEATURES, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.line(x).squeeze(-1)


def start(model: torch.nn.Module | None = None, **init: Any) -> tuple[Run, torch.nn.Module]:
    """A run of 4 virtual nodes and 8 examples with a prepared model and optimizer."""
    run = ht.init(**{"virtual_nodes": 4, "global_batch_size": 8} | init)
    model = Net() if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.prepare(model, optimizer)
    return run, model


def loss_of(model: torch.nn.Module, batch: Any) -> torch.Tensor:
    """Mean squared error of a batch."""
    x, y = batch
    return F.mse_loss(model(x).reshape(y.shape), y)


def take_step(step: Step, model: torch.nn.Module) -> None:
    """One step as it should be."""
    for batch in step:
        step.backward(loss_of(model, batch))
    step.update()


def train(model: torch.nn.Module | None = None, *, data: Any = None, **init: Any) -> str:
    """A right loop from beginning to end; the digest after it."""
    run, model = start(model, **init)
    for step in run.steps(examples() if data is None else data):
        take_step(step, model)
    return run.digest()


def workers(main: Callable[[], Any], count: int = 2, **how: Any) -> list[Any]:
    """What `main` returns on each of so many workers of this process."""
    return run_in_process(main, workers=count, timeout_s=20, **how)


@contextmanager
def refused(kind: type[HoldtrueError], *words: str, is_wrong_use: bool = True) -> Iterator[None]:
    """Expect an error of exactly this kind whose message has all these words, in this order.

    The words are those of the value, the rule and the way out.
    """
    with pytest.raises(HoldtrueError) as caught:
        yield
    error, rest = caught.value, str(caught.value)
    assert type(error) is kind, repr(error)
    assert isinstance(error, ValueError) == is_wrong_use
    for word in words:
        assert word in rest, f"{word!r} is not in what is left of: {error}"
        rest = rest.partition(word)[2]
    assert str(error).endswith(".")
    assert ";" in str(error), "value; rule. Way out."
