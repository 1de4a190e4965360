"""Level `portable` in whole runs: the bits of one worker on every mapping, and of every engine of the room."""

import functools

import pytest
import torch
from torch import nn

import holdtrue as ht
from holdtrue.errors import NumericsError
from holdtrue.testing import run_in_process
from numerics_checks import each_engine
from zoo import Case, Trace, train
from zoo_checks import check_same
from zoo_mappings import covering_mappings

CASES = (
    ("conv", "sgd"),
    ("lstm", "adamw"),
    ("checkpointed", "adamw"),
    ("checkpointed_reentrant", "sgd"),
    ("partly_used", "sgd"),
    ("gan", "adamw"),
)


def run(case: Case, mapping: str | None = None) -> list[Trace]:
    """The case on one mapping, as threads that take turns."""
    return run_in_process(functools.partial(train, case), mapping=mapping)


@pytest.mark.parametrize(("model", "optimizer"), CASES)
def test_a_portable_run_has_the_bits_of_one_worker_after_every_step(model: str, optimizer: str) -> None:
    case = Case(model=model, optimizer=optimizer, virtual_nodes=5, numerics="portable")
    (base,) = run(case)
    for mapping in covering_mappings(5, 1, count=2):
        check_same(case, run(case, mapping), base, mapping)


@pytest.mark.parametrize("model", ["conv", "transformer"])
def test_a_portable_run_has_the_same_bits_on_every_engine_and_an_exact_one_has_others(model: str) -> None:
    case = Case(model=model, optimizer="adamw", virtual_nodes=3, epochs=1, numerics="portable")
    found = [run(case)[0].steps for _ in each_engine()]
    assert all(steps == found[0] for steps in found)
    (exact,) = run(Case(model=model, optimizer="adamw", virtual_nodes=3, epochs=1))
    assert [a.digest for a in exact.steps] != [b.digest for b in found[0]]
    assert float.fromhex(exact.steps[0].loss) == pytest.approx(float.fromhex(found[0][0].loss), rel=0.3)


class Odd(nn.Module):
    """A layer whose bits differ between devices."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.fft.rfft(x).abs()


def refused_in(place: str) -> None:
    run = ht.init(virtual_nodes=2, global_batch_size=4, numerics="portable")
    model = nn.Sequential(nn.Linear(4, 4), Odd())
    run.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    data = torch.utils.data.TensorDataset(torch.ones(8, 4))
    if place == "evaluate":
        run.evaluate(lambda x: {"y": model(x).mean()}, data)
    for step in run.steps(data):
        for (x,) in step:
            step.backward(model(x).sum())
        step.update()


@pytest.mark.parametrize("place", ["steps", "evaluate"])
def test_an_uncovered_operator_is_refused_in_the_first_pass_by_operator_and_module(place: str) -> None:
    with pytest.raises(NumericsError, match=r"_fft_r2c.*module '.*1' \(Odd\)"):
        run_in_process(functools.partial(refused_in, place), mapping="0-1")


def rates_of_a_run(numerics: str) -> list[float]:
    run = ht.init(virtual_nodes=2, global_batch_size=4, numerics=numerics)  # type: ignore[arg-type]  # a level
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=7)
    run.prepare(model, optimizer, scheduler)
    data = torch.utils.data.TensorDataset(torch.ones(16, 4))
    found = []
    for step in run.steps(data):
        for (x,) in step:
            step.backward(model(x).sum())
        step.update()
        found.append(optimizer.param_groups[0]["lr"])
    return found


def test_schedulers_of_a_portable_run_do_not_ask_libm(monkeypatch: pytest.MonkeyPatch) -> None:
    import math

    (before,) = run_in_process(functools.partial(rates_of_a_run, "portable"), mapping="0-1")
    plain = math.cos
    monkeypatch.setattr(math, "cos", lambda x: plain(x) * (1 + 2**-50))
    (after,) = run_in_process(functools.partial(rates_of_a_run, "portable"), mapping="0-1")
    assert before == after
    assert all(type(rate) is float for rate in after)
    (exact,) = run_in_process(functools.partial(rates_of_a_run, "exact"), mapping="0-1")
    assert exact != after
