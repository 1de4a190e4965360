"""Fetches become batches: the same bits in line, with workers, in any order and again."""

import multiprocessing
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset, get_worker_info

from holdtrue.data import Fetch, Loader, MapSource, Schedule, _fetch, is_fresh, open_source
from holdtrue.plan import Plan

PLAN = Plan(virtual_nodes=5, global_batch_size=12, seed=4)
EXAMPLES = 31


class Augmented(Dataset[Any]):
    """Real random augmentation, from every stream of the host."""

    def __init__(self, broken_at: int = -1) -> None:
        self.broken_at = broken_at

    def __len__(self) -> int:
        return EXAMPLES

    def __getitem__(self, index: int) -> Any:
        if index == self.broken_at:
            raise ValueError(f"example {index} is broken")
        x = torch.arange(30.0) * index + torch.randn(30)
        if random.random() < 0.5:
            x = x.flip(0)
        return {"x": x @ torch.randn(30, 30) + np.random.randn(), "index": index}


class ManyAtOnce(Augmented):
    def __getitems__(self, indices: list[int]) -> list[Any]:
        shift = torch.randn(1)
        return [{"x": torch.full((3,), float(i)) + shift, "index": i} for i in indices]


class Where(Dataset[Any]):
    """Says in which DataLoader worker an example was read, and how often the dataset was copied into one."""

    def __len__(self) -> int:
        return EXAMPLES

    def __getitem__(self, index: int) -> int:
        info = get_worker_info()
        return -1 if info is None else info.id


def mixed(examples: list[Any]) -> Any:
    """A collate_fn that draws too, and gives views."""
    x = torch.stack([e["x"] for e in examples]) * torch.rand(1) + random.random()
    return x[:, 1:], [e["index"] for e in examples]


def fetches_of(source: MapSource, epochs: int = 1) -> list[Fetch]:
    schedule = Schedule(plan=PLAN, examples=source.examples, drop_last=False)
    return [
        fetch
        for epoch in range(epochs)
        for step in range(schedule.steps)
        for fetch in schedule.fetches(
            source.order(seed=PLAN.seed, epoch=epoch), epoch=epoch, step_in_epoch=step, virtual_nodes=range(5)
        )
    ]


def opened(dataset: Any, **settings: Any) -> MapSource:
    found = open_source(dataset, **settings)
    assert isinstance(found, MapSource)
    return found


def tensors(batch: Any) -> list[torch.Tensor]:
    values = batch.values() if isinstance(batch, dict) else batch
    return [v if isinstance(v, torch.Tensor) else torch.tensor(v) for v in values]


def same_bits(a: Any, b: Any) -> bool:
    if a is None or b is None:
        return a is b
    return all(
        torch.equal(x, y) and x.stride() == y.stride() for x, y in zip(tensors(a), tensors(b), strict=True)
    )


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_batches_come_in_the_order_of_the_fetches_with_their_examples() -> None:
    source = opened(Augmented())
    fetches = fetches_of(source)
    loaded = list(Loader(source, seed=0).load(fetches))
    assert [fetch for fetch, _ in loaded] == fetches
    assert [b["index"].tolist() for _, b in loaded if b] == [list(f.indices) for f in fetches if f.indices]
    assert sorted(i for f in fetches for i in f.indices) == list(range(EXAMPLES))


def test_a_fetch_without_examples_has_no_batch() -> None:
    empty = Fetch(epoch=0, step_in_epoch=0, virtual_node=0, first=0, indices=())
    assert Loader(opened(Augmented()), seed=0).fetch_now(empty) is None


@pytest.mark.process
@pytest.mark.parametrize(
    ("dataset", "collate"), [(Augmented(), None), (Augmented(), mixed), (ManyAtOnce(), None)]
)
def test_workers_do_not_change_a_bit(dataset: Any, collate: Any) -> None:
    in_line = opened(dataset, collate_fn=collate)
    fetches = fetches_of(in_line, epochs=2)
    expected = [batch for _, batch in Loader(in_line, seed=7).load(fetches)]
    ahead = list(Loader(opened(dataset, collate_fn=collate, num_workers=2), seed=7).load(fetches))
    assert [fetch for fetch, _ in ahead] == fetches
    assert all(same_bits(a, b) for a, (_, b) in zip(expected, ahead, strict=True))
    assert len(expected) == 2 * 3 * 5


@pytest.mark.process
def test_workers_would_change_bits_if_streams_were_not_set_for_each_fetch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_fetch, "set_host_streams", lambda key: None)  # the negative control
    source = opened(Augmented(), num_workers=2)
    fetches = fetches_of(source)[:4]
    ahead = [batch for _, batch in Loader(source, seed=7).load(fetches)]
    in_line = [batch for _, batch in Loader(opened(Augmented()), seed=7).load(fetches)]
    assert not any(same_bits(a, b) for a, b in zip(ahead, in_line, strict=True))


def test_the_bits_of_a_fetch_do_not_depend_on_what_was_fetched_before() -> None:
    source = opened(Augmented(), collate_fn=mixed)
    fetches = fetches_of(source)
    forwards = dict(Loader(source, seed=7).load(fetches))
    backwards = dict(Loader(source, seed=7).load(reversed(fetches)))
    assert all(same_bits(forwards[f], backwards[f]) for f in fetches)
    again = Loader(source, seed=7)
    assert all(same_bits(forwards[f], again.fetch_now(f)) for f in fetches for _ in range(2))


def test_another_seed_epoch_or_virtual_node_draws_other_augmentation() -> None:
    source = opened(Augmented())
    base = {"epoch": 0, "step_in_epoch": 0, "virtual_node": 0, "first": 0, "indices": (1, 2)}
    fetches = [Fetch(**base), Fetch(**base | {"epoch": 1}), Fetch(**base | {"first": 9})]  # type: ignore[arg-type]
    fetches.append(Fetch(**base | {"virtual_node": 3}))  # type: ignore[arg-type]
    found = [Loader(source, seed=0).fetch_now(f)["x"] for f in fetches]
    found.append(Loader(source, seed=1).fetch_now(fetches[0])["x"])
    assert len({x.numpy().tobytes() for x in found}) == 5


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.process)])
def test_the_users_streams_are_undisturbed(workers: int) -> None:
    def draw() -> list[Any]:
        return [torch.randn(3).tolist(), random.gauss(0, 1), np.random.randn(3).tolist()]

    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    expected = [draw() for _ in range(3)]
    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    source = opened(Augmented(), num_workers=workers)
    found = [draw()]
    loaded = Loader(source, seed=0).load(fetches_of(source)[:4])
    next(loaded)
    found.append(draw())
    list(loaded)
    assert [*found, draw()] == expected


def test_streams_are_left_to_the_caller_who_asks_for_it() -> None:
    source = opened(Augmented())
    fetch = fetches_of(source)[0]
    before = torch.get_rng_state()
    kept = Loader(source, seed=0).fetch_now(fetch)
    assert torch.equal(before, torch.get_rng_state())
    left = Loader(source, seed=0, keep_streams=False).fetch_now(fetch)
    assert not torch.equal(before, torch.get_rng_state())
    assert same_bits(kept, left)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.process)])
def test_every_tensor_of_a_batch_is_fresh(workers: int) -> None:
    source = opened(Augmented(), collate_fn=mixed, num_workers=workers)
    for _, batch in Loader(source, seed=0).load(fetches_of(source)[:5]):
        assert is_fresh(batch[0])


def test_the_callers_autocast_and_threads_do_not_reach_the_dataset() -> None:
    source = opened(Augmented())
    fetch = fetches_of(source)[0]
    expected = Loader(source, seed=0).fetch_now(fetch)
    torch.set_num_threads(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = Loader(source, seed=0).fetch_now(fetch)
        assert torch.is_autocast_enabled("cpu")
    assert torch.get_num_threads() == 2
    assert same_bits(expected, found)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.process)])
def test_an_exception_of_the_dataset_names_virtual_node_step_and_indices(workers: int) -> None:
    source = opened(Augmented(broken_at=17), num_workers=workers)
    fetches = fetches_of(source)
    (guilty,) = [f for f in fetches if 17 in f.indices]
    with pytest.raises(ValueError, match="example 17 is broken") as caught:
        list(Loader(source, seed=0).load(fetches))
    (note,) = caught.value.__notes__
    assert note == (
        f"holdtrue was reading for virtual node {guilty.virtual_node} in step {guilty.step_in_epoch} of "
        f"epoch 0: dataset indices {', '.join(map(str, guilty.indices))}"
    )


@pytest.mark.process
def test_workers_are_gone_when_an_exception_of_the_dataset_arrives() -> None:
    source = opened(Augmented(broken_at=17), num_workers=2)
    with pytest.raises(ValueError, match="example 17 is broken") as caught:
        list(Loader(source, seed=0).load(fetches_of(source)))
    assert caught.value.__traceback__ is not None  # holds the frames, and with them what their names refer to
    assert multiprocessing.active_children() == []


@pytest.mark.process
@pytest.mark.parametrize("persistent", [False, True])
def test_reading_can_start_anew_in_the_middle(persistent: bool) -> None:
    user = DataLoader(Augmented(), num_workers=2, persistent_workers=persistent)
    source = opened(user)
    fetches = fetches_of(source)
    loader = Loader(source, seed=3)
    expected = dict(Loader(opened(user, num_workers=0), seed=3).load(fetches))
    first = loader.load(fetches)
    for _ in range(3):
        next(first)
    first.close()  # type: ignore[attr-defined]  # a generator
    rest = list(loader.load(fetches[3:]))
    assert [f for f, _ in rest] == fetches[3:]
    assert all(same_bits(expected[f], b) for f, b in rest)
    loader.close()


@pytest.mark.process
def test_workers_read_what_they_are_said_to_read() -> None:
    source = opened(Where(), num_workers=2)
    readers = [set(b.tolist()) for _, b in Loader(source, seed=0).load(fetches_of(source)[:6])]
    assert readers == [{0}, {1}] * 3


def test_tensors_of_a_tensor_dataset_are_collated_as_torch_does() -> None:
    x, y = torch.randn(8, 3), torch.arange(8)
    fetch = Fetch(epoch=0, step_in_epoch=0, virtual_node=0, first=0, indices=(5, 0, 2))
    batch = Loader(opened(TensorDataset(x, y)), seed=0).fetch_now(fetch)
    assert torch.equal(batch[0], x[[5, 0, 2]])
    assert torch.equal(batch[1], y[[5, 0, 2]])
