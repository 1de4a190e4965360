"""What a run computes, against plain PyTorch: the loop of one process, and the gradient in float64."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import holdtrue as ht
from holdtrue.data import epoch_order
from holdtrue.testing import run_in_process, set_pass_streams
from zoo import (
    IGNORED,
    OPTIMIZERS,
    SEED,
    Case,
    dataset,
    images,
    optimizers_of,
    per_word,
    pin_torch,
    sentences,
)
from zoo_models import LENGTH, WORDS, Recurrent, Transformer, conv_net

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]
BATCH = 7
EPOCHS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A model with its data and loss."""

    model: Callable[[], nn.Module]
    data: Callable[[Case], torch.utils.data.TensorDataset]
    loss: Loss


TASKS = {
    "conv": Task(model=conv_net, data=images, loss=lambda m, x, y: F.cross_entropy(m(x), y)),
    "lstm": Task(model=Recurrent, data=sentences, loss=lambda m, x, y: per_word(m(x), y)),
    "transformer": Task(model=Transformer, data=sentences, loss=lambda m, x, y: per_word(m(x), y)),
}
CASE = Case(model="", virtual_nodes=1)


def parts(task: Task, optimizer: str) -> tuple[nn.Module, list[Any], list[Any]]:
    """The model, its optimizers and its schedulers, with the same first values each time."""
    torch.manual_seed(0)
    model = task.model()
    found = optimizers_of(optimizer, list(model.parameters()))
    optimizers = [o for o in found if isinstance(o, torch.optim.Optimizer)]
    return model, optimizers, [o for o in found if not isinstance(o, torch.optim.Optimizer)]


def state(model: nn.Module, optimizers: list[Any]) -> dict[str, Tensor]:
    """Every tensor of the training state, copied."""
    found = {f"model/{n}": t for n, t in model.state_dict().items()}
    for i, optimizer in enumerate(optimizers):
        for p, values in optimizer.state_dict()["state"].items():
            found |= {
                f"optimizer/{i}/{p}/{k}": torch.as_tensor(v) for k, v in values.items() if v is not None
            }
    return {name: t.detach().clone() for name, t in found.items()}


def plain_loop(task: Task, optimizer: str) -> Iterator[tuple[float, dict[str, Tensor]]]:
    """Loss and state after every step of a loop that knows nothing of holdtrue but its streams and order."""
    pin_torch()
    model, optimizers, schedulers = parts(task, optimizer)
    data, step = task.data(CASE), 0
    for epoch in range(EPOCHS):
        order = epoch_order(len(data), seed=SEED, epoch=epoch, shuffle=True)
        for start in range(0, len(data), CASE.batch):
            examples = [data[i] for i in order[start : start + CASE.batch]]
            x, y = (torch.stack(column) for column in list(zip(*examples, strict=True))[:2])
            set_pass_streams(SEED, step, 0, 0)
            loss = task.loss(model, x, y)
            loss.backward()
            nn.utils.clip_grad_norm_(
                [p for o in optimizers for g in o.param_groups for p in g["params"]], 1.0
            )
            for obj in (*optimizers, *schedulers):
                obj.step()
            for o in optimizers:
                o.zero_grad()
            step += 1
            yield loss.item(), state(model, optimizers)


def run_loop(task: Task, optimizer: str) -> list[tuple[float, dict[str, Tensor]]]:
    """The same as a run with V = 1."""
    run = ht.init(virtual_nodes=1, global_batch_size=CASE.batch, seed=SEED)
    model, optimizers, schedulers = parts(task, optimizer)
    run.prepare(model, *optimizers, *schedulers)
    found = []
    for step in run.steps(task.data(CASE), epochs=EPOCHS, drop_last=False):
        for x, y, _ in step:
            step.backward(task.loss(model, x, y))
        step.update(max_grad_norm=1.0)
        found.append((step.loss, state(model, optimizers)))
    return found


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", TASKS)
def test_with_one_virtual_node_a_run_is_the_plain_loop_in_every_bit(name: str, optimizer: str) -> None:
    (run,) = run_in_process(functools.partial(run_loop, TASKS[name], optimizer))
    plain = list(plain_loop(TASKS[name], optimizer))
    assert len(run) == len(plain) == 6
    for step, ((loss, here), (plain_loss, there)) in enumerate(zip(run, plain, strict=True)):
        assert loss == plain_loss, f"step {step}"
        assert here.keys() == there.keys()
        assert [n for n in here if not torch.equal(here[n], there[n])] == [], f"step {step}"


def test_one_autocast_context_around_a_run_does_not_keep_stale_weights() -> None:
    task = TASKS["transformer"]

    def around() -> list[tuple[float, dict[str, Tensor]]]:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return run_loop(task, "adamw")

    (run,) = run_in_process(around)
    plain, loop = [], plain_loop(task, "adamw")
    for _ in run:  # a context for each step: the cache of cast weights ends with it
        with torch.autocast("cpu", dtype=torch.bfloat16):
            plain.append(next(loop))
    for step, ((loss, here), (plain_loss, there)) in enumerate(zip(run, plain, strict=True)):
        assert loss == plain_loss, f"step {step}"
        assert [n for n in here if not torch.equal(here[n], there[n])] == [], f"step {step}"


# ---- the weighted mean: 31 sentences of unequal length over 7 virtual nodes ----

WEIGHTED = Case(model="", virtual_nodes=7)


def unequal_sentences() -> torch.utils.data.TensorDataset:
    """Sentences of 0 to 6 words that count, in dataset order."""
    words, targets, ids = sentences(WEIGHTED).tensors
    kept = (ids * 5) % (LENGTH + 1)
    targets = targets.masked_fill(torch.arange(LENGTH) >= kept[:, None], IGNORED)
    return dataset(WEIGHTED, words, targets)


def word_model() -> nn.Sequential:
    """A model without randomness, so that one pass over the whole batch computes the same thing."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(WORDS, 8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, WORDS))


def reduced_gradients(by_words: bool) -> tuple[float, list[Tensor]]:
    """Loss and gradient of the first step of a run, as the update would see them."""
    run = ht.init(virtual_nodes=7, global_batch_size=31, seed=SEED)
    model = word_model()
    run.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    data = torch.utils.data.DataLoader(unequal_sentences(), shuffle=False)
    found: tuple[float, list[Tensor]] | None = None
    for step in run.steps(data):
        for x, y, _ in step:
            loss = per_word(model(x), y)
            step.backward(loss, weight=(y != IGNORED).sum()) if by_words else step.backward(loss)
        if found is None:
            found = step.loss, [p.grad.detach().clone() for p in model.parameters() if p.grad is not None]
        step.update()
    assert found is not None
    return found


def full_batch_gradient() -> tuple[float, list[Tensor]]:
    """The gradient of the mean over all words of the global batch, in one pass in float64."""
    model = word_model().double()
    words, targets, _ = unequal_sentences().tensors
    loss = per_word(model(words[:31]), targets[:31])
    return loss.item(), list(torch.autograd.grad(loss, list(model.parameters())))


def distance(found: list[Tensor], exact: list[Tensor]) -> float:
    """Largest difference of a gradient, in units of the largest element."""
    assert len(found) == len(exact)
    largest = max(float(t.abs().max()) for t in exact)
    return max(float((a.double() - b).abs().max()) for a, b in zip(found, exact, strict=True)) / largest


@pytest.mark.parametrize("mapping", ["0-6", "0-2/3-6", "0,3,6/1,4/2,5"])
def test_the_gradient_is_that_of_the_mean_over_all_words_of_the_global_batch(mapping: str) -> None:
    loss, exact = full_batch_gradient()
    # float32 rounds at 6e-8; sums of some 100 terms leave the largest elements good to about 1e-6
    for found_loss, gradient in run_in_process(functools.partial(reduced_gradients, True), mapping=mapping):
        assert found_loss == pytest.approx(loss, rel=1e-6)
        assert distance(gradient, exact) < 2e-6


def test_the_mean_of_the_means_would_be_another_gradient() -> None:
    loss, exact = full_batch_gradient()
    ((found_loss, gradient),) = run_in_process(functools.partial(reduced_gradients, False))
    assert abs(found_loss - loss) > 1e-3
    assert distance(gradient, exact) > 1e-2
