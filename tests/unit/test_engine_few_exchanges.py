"""Two workers swap small buckets whole, and sums of small buffers ride in the round's message: fewer exchanges, the same bits."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

import holdtrue as ht
from holdtrue.engine import _sums as sums
from holdtrue.reduce import InProcessJob, _ordered
from holdtrue.testing import run_in_process

X = torch.randn(60, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(60) % 3
MAPPINGS = ("0-2/3-6", "0-3/4-6", "0,2,4,6/1,3,5", "0-6/none", "0-2/3-4/5-6")


def train(size: int = 8) -> list[str]:
    """Digests after every step; the last one is short, and leaves some virtual nodes empty."""
    run = ht.init(virtual_nodes=7, global_batch_size=14, seed=1, buffers={"seen": "sum", "top": "max"})
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, size), nn.BatchNorm1d(size), nn.Dropout(0.2), nn.Linear(size, 3))
    model.register_buffer("seen", torch.zeros(2, dtype=torch.float64))
    model.register_buffer("top", torch.zeros(2))
    model, _ = run.prepare(model, torch.optim.AdamW(model.parameters(), lr=0.1))
    digests = []
    for step in run.steps(TensorDataset(X, Y), epochs=2, drop_last=False):
        for x, y in step:
            out = model(x) if len(x) > 1 else model(x.repeat(2, 1))[:1]
            model.seen += x[0, :2].double() / 3
            model.top.copy_(torch.maximum(model.top, x[0, :2]))
            step.backward(F.cross_entropy(out, y))
        step.update()
        digests.append(run.digest())
    return digests


def counted(mapping: str, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], int]:
    """Digests of the first worker, and how many exchanges and spreads it took part in."""
    count = 0
    endpoint = type(InProcessJob(1).group(0))
    with monkeypatch.context() as patch:
        for name in ("exchange", "spread"):
            original = getattr(endpoint, name)

            def started(group: object, *args: object, _original=original, **named: object) -> object:  # type: ignore[no-untyped-def]
                nonlocal count
                count += group.rank == 0  # type: ignore[attr-defined]
                return _original(group, *args, **named)

            patch.setattr(endpoint, name, started)
        found = run_in_process(train, mapping=mapping)
    assert all(digests == found[0] for digests in found)
    return found[0], count


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_small_buckets_and_sums_have_the_same_bits_however_they_travel(
    mapping: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (expected,) = run_in_process(train, mapping="0-6")
    few_digests, few = counted(mapping, monkeypatch)
    monkeypatch.setattr(_ordered, "DIRECT_BYTES", 0)
    some_digests, some = counted(mapping, monkeypatch)
    monkeypatch.setattr(sums, "RIDING_BYTES", 0)
    many_digests, many = counted(mapping, monkeypatch)
    assert few_digests == some_digests == many_digests == expected
    assert few < some or mapping.count("/") > 1, "slices and their sums are two exchanges"
    assert some < many, "sums of their own travel too"


def test_a_pair_that_adds_in_another_order_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: each worker's own sums first, then the other's."""

    def by_rank(tree: object, values: dict[object, object], add: object) -> object:
        items = list(values.values())
        total = items[-1]
        for item in reversed(items[:-1]):
            total = add(total, item)  # type: ignore[operator]
        return total

    (expected,) = run_in_process(train, mapping="0-6")
    monkeypatch.setattr(sums, "evaluate_tree", by_rank)
    assert run_in_process(train, mapping="0,2,4,6/1,3,5")[0] != expected
