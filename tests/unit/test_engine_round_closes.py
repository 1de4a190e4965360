"""A round closes with gathers, after everything else of it is complete: so survivors of a death are one gather apart."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

import holdtrue as ht
from holdtrue.reduce import Group, InProcessJob, Pending
from holdtrue.testing import run_in_process

X = torch.randn(42, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(42) % 3


class Watched(Pending):
    """A collective that says when its wait has ended."""

    def __init__(self, inner: Pending, said: list[str], kind: str) -> None:
        self._inner, self._said, self._kind = inner, said, kind

    def wait(self) -> None:
        self._inner.wait()
        self._said.append(f"{self._kind} complete")

    def is_complete(self) -> bool:
        return self._inner.is_complete()


def train() -> None:
    run = ht.init(virtual_nodes=7, global_batch_size=14, seed=1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    model, _ = run.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    for step in run.steps(TensorDataset(X, Y)):
        for x, y in step:
            step.backward(F.cross_entropy(model(x), y))
            step.sum(examples=len(x))
        step.update()


@pytest.mark.parametrize("mapping", ["0-2/3-6", "0/3-4/1-2,5-6"])
def test_gathers_come_after_every_exchange_of_a_round_is_complete(
    mapping: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: dict[int, list[str]] = {}
    endpoint = type(InProcessJob(1).group(0))

    def watch(name: str) -> None:
        original = getattr(endpoint, name)

        def started(group: Group, *args: object, what: str) -> object:
            mine = said.setdefault(group.rank, [])
            mine.append(f"{name}: {what}")
            result = original(group, *args, what=what)
            return Watched(result, mine, name) if isinstance(result, Pending) else result

        monkeypatch.setattr(endpoint, name, started)

    for name in ("exchange", "spread", "gather_bytes", "gather_fixed"):
        watch(name)
    run_in_process(train, mapping=mapping)
    assert len(said) == len(mapping.split("/"))
    for lines in said.values():
        rounds = rounds_of(lines)
        assert len(rounds) == 3, "one for each step"
        for exchanges, gathers in rounds:
            started = sum(line.startswith(("exchange: ", "spread: ")) for line in exchanges)
            assert started == sum(line.endswith(" complete") for line in exchanges) > 0
            assert len(gathers) >= 2, "the losses and the totals"


def rounds_of(lines: list[str]) -> list[tuple[list[str], list[str]]]:
    """Exchanges and gathers of each round, which is where an exchange follows a gather."""
    rounds: list[tuple[list[str], list[str]]] = []
    for line in lines:
        is_gather = line.startswith("gather")
        if is_gather and rounds:
            rounds[-1][1].append(line)
        elif not is_gather:
            if not rounds or rounds[-1][1]:
                rounds.append(([], []))
            rounds[-1][0].append(line)
    return rounds
