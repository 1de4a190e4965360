"""However a loop over passes is left, the user's random streams are the user's again."""

import contextlib
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import holdtrue as ht
from holdtrue.errors import UsageError
from holdtrue.testing import run_in_process


def fail(model: nn.Module, step: ht.Step) -> None:
    for _ in step:
        raise KeyError


def leave(model: nn.Module, step: ht.Step) -> None:
    for (x,) in step:
        step.backward(model(x).mean())
        break


def forget(model: nn.Module, step: ht.Step) -> None:
    for _ in step:
        pass


def states() -> list[Any]:
    numpy = np.random.get_state(legacy=False)
    return [torch.get_rng_state().tolist(), random.getstate(), numpy["state"]["key"].tolist()]


@pytest.mark.parametrize("numerics", ["exact", "portable"])
@pytest.mark.parametrize("way", [fail, leave, forget])
def test_streams_are_the_users_after_a_loop_that_was_left(
    way: Callable[[nn.Module, ht.Step], None], numerics: str
) -> None:
    def main() -> bool:
        run = ht.init(virtual_nodes=2, global_batch_size=4, seed=1, numerics=numerics)
        model = nn.Linear(3, 1)
        run.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
        for step in run.steps(TensorDataset(torch.zeros(8, 3))):
            before = states()
            with contextlib.suppress(KeyError, UsageError):
                way(model, step)
            return states() == before
        raise AssertionError("there was no step")

    assert run_in_process(main) == [True]


def test_a_loop_that_is_closed_late_leaves_a_newer_round_alone() -> None:
    def main() -> bool:
        run = ht.init(virtual_nodes=2, global_batch_size=4, seed=1)
        model = nn.Linear(3, 1)
        run.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
        for step in run.steps(TensorDataset(torch.zeros(8, 3))):
            passes = iter(step)
            next(passes)
            engine = run._core.engine
            engine.begin_round(step=1, round_=0, counts=(2, 2))
            torch.manual_seed(3)
            before = states()
            passes.close()  # type: ignore[attr-defined]  # a generator
            is_same = states() == before
            engine.streams.restore()
            return is_same
        raise AssertionError("there was no step")

    assert run_in_process(main) == [True]
