"""Shortcuts in backward - adding in place, buckets that leave early - keep the bits or say that they cannot."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import TensorDataset

import holdtrue as ht
from holdtrue.engine import _gradients
from holdtrue.errors import NumericsError
from holdtrue.testing import run_in_process

X = torch.randn(56, 6, generator=torch.Generator().manual_seed(0))


class Twice(nn.Module):
    """A layer used twice; under reentrant checkpointing its gradient comes in two parts."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)
        self.in_parts = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.in_parts:
            return self.inner(torch.tanh(self.inner(x)))
        x = x.requires_grad_()
        return checkpoint(
            self.inner, torch.tanh(checkpoint(self.inner, x, use_reentrant=True)), use_reentrant=True
        )


def clamp(p: torch.Tensor) -> None:
    assert p.grad is not None
    p.grad.clamp_(-0.01, 0.01)


def train(
    parts_from: int, after_backward: str = "", hook: list[float] | None = None, clamp_from: int | None = None
) -> list[str]:
    run = ht.init(virtual_nodes=7, global_batch_size=14, seed=1)
    torch.manual_seed(0)
    model = Twice()
    if hook is not None:
        model.inner.weight.register_post_accumulate_grad_hook(lambda p: hook.append(float(p.grad.norm())))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model, optimizer = run.prepare(model, optimizer)
    digests = []
    for step in run.steps(TensorDataset(X), epochs=2):
        if clamp_from is not None and step.index == clamp_from:
            for p in model.parameters():
                p.register_post_accumulate_grad_hook(clamp)
        model.in_parts = step.index >= parts_from
        for (x,) in step:
            if after_backward == "zero_grad first":
                optimizer.zero_grad()
            step.backward(model(x).square().mean())
            if after_backward == "zero_grad after":
                optimizer.zero_grad()
        step.update()
        digests.append(run.digest("weights"))
    return digests


@pytest.mark.filterwarnings("ignore:.*use_reentrant.*")
@pytest.mark.parametrize("mapping", ["0-2/3-6", "0,2,4,6/1,3,5"])
def test_gradients_that_come_in_parts_from_the_first_step_keep_the_bits(mapping: str) -> None:
    alone = run_in_process(lambda: train(0))[0]
    assert all(d == alone for d in run_in_process(lambda: train(0), mapping=mapping))


@pytest.mark.filterwarnings("ignore:.*use_reentrant.*")
@pytest.mark.parametrize("workers", [1, 2])
def test_gradients_that_begin_to_come_in_parts_are_refused_by_name(workers: int) -> None:
    with pytest.raises(NumericsError, match=r"inner\.(weight|bias).*HOLDTRUE_OVERLAP=0"):
        run_in_process(lambda: train(3), workers=workers)


@pytest.mark.filterwarnings("ignore:.*use_reentrant.*")
def test_without_shortcuts_they_are_welcome_and_the_bits_are_the_same_everywhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOLDTRUE_OVERLAP", "0")
    alone = run_in_process(lambda: train(3))[0]
    assert all(d == alone for d in run_in_process(lambda: train(3), workers=3))


def test_shortcuts_do_not_change_the_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    with_shortcuts = run_in_process(lambda: train(99), workers=2)
    monkeypatch.setenv("HOLDTRUE_OVERLAP", "0")
    assert run_in_process(lambda: train(99), workers=2) == with_shortcuts


@pytest.mark.parametrize("habit", ["zero_grad first", "zero_grad after"])
def test_zero_grad_inside_the_loop_over_passes_does_no_harm(habit: str) -> None:
    assert run_in_process(lambda: train(99, habit), workers=2) == run_in_process(lambda: train(99), workers=2)


def test_a_users_hook_sees_the_gradient_of_each_pass_alone() -> None:
    seen: list[float] = []
    control: list[float] = []
    run_in_process(lambda: train(99, hook=seen))
    run_in_process(lambda: train(99, hook=control), mapping="0,2,4,6/1,3,5")
    assert len(seen) == 7 * 8
    assert sorted(seen) == sorted(control)


@pytest.mark.parametrize("clamp_from", [0, 3])
def test_a_hook_that_changes_the_gradient_of_its_pass_does_so_on_every_mapping_alike(clamp_from: int) -> None:
    alone = run_in_process(lambda: train(99, clamp_from=clamp_from))[0]
    assert alone != run_in_process(lambda: train(99))[0]
    for mapping in ("0-2/3-6", "0,2,4,6/1,3,5", "0/1/2/3/4/5/6"):
        assert all(
            d == alone for d in run_in_process(lambda: train(99, clamp_from=clamp_from), mapping=mapping)
        )


@pytest.mark.filterwarnings("ignore:.*use_reentrant.*")
@pytest.mark.parametrize(("watched", "is_refused"), [(2, True), (16, False)])
def test_gradients_that_come_in_parts_after_the_watched_passes_of_the_first_round_are_refused(
    watched: int, is_refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_gradients, "WATCHED_PASSES", watched)

    def train_unlike() -> None:
        run = ht.init(virtual_nodes=7, global_batch_size=14, seed=1)
        torch.manual_seed(0)
        model = Twice()
        run.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
        for step in run.steps(TensorDataset(X)):
            for index, (x,) in enumerate(step):
                model.in_parts = index >= 3
                step.backward(model(x).square().mean())
            step.update()

    if is_refused:
        with pytest.raises(NumericsError, match=r"inner\.(weight|bias).*HOLDTRUE_OVERLAP=0"):
            run_in_process(train_unlike)
    else:
        run_in_process(train_unlike)


class Joined(nn.Module):
    """A weight made of two parameters, whose gradients are views of one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.ones(2, 6)), nn.Parameter(torch.zeros(1, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x @ torch.cat([self.a, self.b]).T)


def test_gradients_that_are_views_of_one_tensor_keep_the_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    def train_joined() -> list[str]:
        run = ht.init(virtual_nodes=7, global_batch_size=14, seed=1)
        model = Joined()
        run.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
        digests = []
        for step in run.steps(TensorDataset(X)):
            for (x,) in step:
                step.backward(model(x).square().mean())
            step.update()
            digests.append(run.digest("weights"))
        return digests

    (alone,) = run_in_process(train_joined)
    assert run_in_process(train_joined, workers=2) == [alone, alone]
    monkeypatch.setenv("HOLDTRUE_OVERLAP", "0")
    assert run_in_process(train_joined) == [alone]


def test_a_model_that_is_converted_between_steps_has_the_same_bits_on_every_mapping() -> None:
    def train_converted(how: str) -> list[str]:
        run = ht.init(virtual_nodes=7, global_batch_size=14, seed=1)
        torch.manual_seed(0)
        model = nn.Linear(6, 3)
        run.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
        digests = []
        for step in run.steps(TensorDataset(X)):
            if step.index == 2:
                model.to(dtype={"bfloat16": torch.bfloat16, "float64": torch.float64}[how])
            for (x,) in step:
                step.backward(model(x.to(model.weight.dtype)).float().square().mean())
            assert model.weight.grad is not None
            assert model.weight.grad.dtype == model.weight.dtype
            step.update()
            digests.append(run.digest("weights"))
        return digests

    for how in ("bfloat16", "float64"):
        (alone,) = run_in_process(lambda how=how: train_converted(how))
        for mapping in ("0-2/3-6", "0,2,4,6/1,3,5"):
            assert run_in_process(lambda how=how: train_converted(how), mapping=mapping) == [alone, alone]
