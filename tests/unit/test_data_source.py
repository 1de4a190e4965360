"""What may be passed as data, and what is refused with which sentence."""

import dataclasses
import random
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)

from holdtrue.data import IterableSource, MapSource, epoch_order, open_source
from holdtrue.errors import DataError

TEN = TensorDataset(torch.arange(10.0))


def collate(examples: list[Any]) -> list[Any]:
    return examples


def opened(source: Any, **settings: Any) -> MapSource:
    found = open_source(source, **settings)
    assert isinstance(found, MapSource)
    return found


class Stream(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(3))


class ShardedStream(Stream):
    def shard(self, v: int, V: int) -> "ShardedStream":
        return self

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class NoLength(Dataset[int]):
    def __getitem__(self, index: int) -> int:
        return index


class TwoSizes(BatchSampler):
    def __init__(self) -> None: ...

    def __iter__(self) -> Iterator[list[int]]:
        return iter([[0], [1, 2]])

    def __len__(self) -> int:
        return 2


class Noisy(Sampler[int]):
    """Draws from every stream, and from the epoch that it was told."""

    epoch = -1

    def __init__(self, generator: torch.Generator | None = None) -> None:
        self.generator = generator

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        for _ in range(3):
            yield random.randrange(10)
            yield int(np.random.randint(10))
            yield int(torch.randint(10, ()))
            yield int(torch.randint(10, (), generator=self.generator))
        yield self.epoch


class Endless(Sampler[int]):
    def __init__(self) -> None: ...

    def __iter__(self) -> Iterator[int]:
        while True:
            yield 0


class Words(Sampler[Any]):
    def __init__(self) -> None: ...

    def __iter__(self) -> Iterator[Any]:
        return iter(["a"])


@pytest.mark.parametrize("source", [TEN, list(range(10)), torch.arange(10), np.arange(10), range(10)])
def test_whatever_has_positions_and_a_length_is_a_dataset(source: Any) -> None:
    found = opened(source)
    assert (found.dataset is source, found.examples, found.shuffle) == (True, 10, True)
    assert found.collate_fn is default_collate
    assert (found.workers.count, found.notes) == (0, ())


def test_a_dataloaders_settings_are_taken_over() -> None:
    loader = DataLoader(
        TEN,
        batch_size=4,
        shuffle=True,
        collate_fn=collate,
        num_workers=2,
        prefetch_factor=3,
        persistent_workers=True,
        pin_memory=True,
        worker_init_fn=print,
        multiprocessing_context="spawn",
        timeout=7,
    )
    found = opened(loader)
    workers = found.workers
    assert (found.dataset is TEN, found.collate_fn, found.shuffle) == (True, collate, True)
    assert (workers.count, workers.prefetch_factor, workers.persistent, workers.pin_memory) == (
        2,
        3,
        True,
        True,
    )
    assert (workers.init_fn, workers.timeout_s) == (print, 7)
    assert workers.multiprocessing_context.get_start_method() == "spawn"


def test_a_message_says_that_a_dataloaders_batch_size_is_replaced() -> None:
    (note,) = opened(DataLoader(TEN, batch_size=4)).notes
    assert note.startswith("the DataLoader's batch size of 4 is replaced by the plan's global batch size")


def test_explicit_arguments_win_over_a_dataloaders() -> None:
    loader = DataLoader(TEN, shuffle=True, num_workers=2, prefetch_factor=3, persistent_workers=True)
    found = opened(loader, collate_fn=collate, num_workers=0, shuffle=False)
    assert (found.collate_fn, found.shuffle, found.workers.count) == (collate, False, 0)
    assert (found.workers.prefetch_factor, found.workers.persistent) == (None, False)


@pytest.mark.parametrize(
    ("loader", "shuffle"),
    [
        (DataLoader(TEN), False),
        (DataLoader(TEN, shuffle=True), True),
        (DataLoader(TEN, sampler=RandomSampler(TEN)), True),
        (DataLoader(TEN, batch_sampler=BatchSampler(RandomSampler(TEN), 3, drop_last=False)), True),
    ],
)
def test_a_dataloaders_plain_sampler_becomes_shuffle(loader: DataLoader[Any], shuffle: bool) -> None:
    found = opened(loader)
    assert found.sampler is None
    expected = epoch_order(10, seed=3, epoch=2, shuffle=shuffle)
    assert found.order(seed=3, epoch=2).tolist() == expected.tolist()
    assert found.unshuffled().order(seed=3, epoch=2).tolist() == list(range(10))


def test_a_dataloader_over_a_sharded_iterable_is_an_iterable_source() -> None:
    found = open_source(DataLoader(ShardedStream(), collate_fn=collate))
    assert isinstance(found, IterableSource)
    assert found.collate_fn is collate
    assert "read in line" in found.notes[0]


def test_workers_asked_for_with_an_iterable_are_not_forgotten_in_silence() -> None:
    assert open_source(ShardedStream(), num_workers=2).notes == (
        "an iterable source is read in line: num_workers is not used",
    )


samplers: dict[str, Any] = {
    "a subset": lambda: SubsetRandomSampler([1, 3, 5, 7]),
    "weights": lambda: WeightedRandomSampler([1.0] * 10, 25),
    "a random sampler with replacement": lambda: RandomSampler(TEN, replacement=True, num_samples=30),
    "a part of a permutation": lambda: RandomSampler(TEN, num_samples=4),
    "every stream": Noisy,
    "a generator of its own": lambda: Noisy(torch.Generator()),
    "a subset with a generator": lambda: SubsetRandomSampler(range(10), generator=torch.Generator()),
}


@pytest.mark.parametrize("name", samplers)
def test_a_sampler_gives_every_worker_the_same_order(name: str) -> None:
    first, second = (opened(DataLoader(TEN, sampler=samplers[name]())) for _ in range(2))
    random.random(), np.random.rand(), torch.rand(1)  # workers need not be at the same place of their streams
    orders = [first.order(seed=0, epoch=e).tolist() for e in range(4)]
    random.random(), np.random.rand(), torch.rand(1)
    assert [second.order(seed=0, epoch=e).tolist() for e in (3, 1, 2, 0)] == [orders[e] for e in (3, 1, 2, 0)]
    assert len({tuple(order) for order in orders}) > 1
    assert opened(DataLoader(TEN, sampler=samplers[name]())).order(seed=1, epoch=0).tolist() != orders[0]


def test_a_sampler_is_told_the_epoch_and_decides_its_length() -> None:
    order = opened(DataLoader(TEN, sampler=Noisy())).order(seed=0, epoch=6)
    assert order[-1] == 6
    assert len(order) == 13


def test_drawing_an_order_leaves_the_users_streams_and_the_samplers_generator_as_they_were() -> None:
    sampler = Noisy(torch.Generator().manual_seed(5))
    assert sampler.generator is not None
    before = (
        torch.get_rng_state(),
        random.getstate(),
        np.random.get_state()[1],
        sampler.generator.get_state(),
    )
    opened(DataLoader(TEN, sampler=sampler)).order(seed=0, epoch=0)
    after = (
        torch.get_rng_state(),
        random.getstate(),
        np.random.get_state()[1],
        sampler.generator.get_state(),
    )
    assert torch.equal(before[0], after[0])
    assert before[1] == after[1]
    assert np.array_equal(before[2], after[2])
    assert torch.equal(before[3], after[3])


distributed = DistributedSampler(TEN, num_replicas=2, rank=0)
refusals: dict[str, tuple[Any, str]] = {
    "distributed": (
        DataLoader(TEN, sampler=distributed),
        (
            "the DataLoader's sampler is a DistributedSampler for 2 replicas, which already divides the "
            "data; holdtrue divides every global batch over the virtual nodes. Pass the dataset, or a "
            "DataLoader without that sampler."
        ),
    ),
    "distributed inside a batch sampler": (
        DataLoader(TEN, batch_sampler=BatchSampler(distributed, 2, drop_last=False)),
        (
            "the DataLoader's sampler is a DistributedSampler for 2 replicas, which already divides the "
            "data; holdtrue divides every global batch over the virtual nodes. Pass the dataset, or a "
            "DataLoader without that sampler."
        ),
    ),
    "batch sampler": (
        DataLoader(TEN, batch_sampler=TwoSizes()),
        (
            "the DataLoader's batch_sampler TwoSizes makes batches of its own sizes; the plan decides how "
            "many examples a batch has. Pass a DataLoader with sampler=, or the dataset."
        ),
    ),
    "no batch size": (
        DataLoader(TEN, batch_size=None),
        (
            "the DataLoader has batch_size=None: its dataset makes batches of its own; the plan divides "
            "single examples over virtual nodes. Pass a DataLoader with a batch_size, or a dataset of "
            "single examples."
        ),
    ),
    "iterable": (
        Stream(),
        (
            "the iterable Stream has no shard and no state_dict and no load_state_dict; an iterable source "
            "is read by virtual node and continues in mid-epoch, so it needs shard(v, V), state_dict() and "
            "load_state_dict(state). Add them, or pass a dataset with __getitem__ and __len__ (list(source) "
            "is one if it fits in memory)."
        ),
    ),
    "iterable in a dataloader": (DataLoader(Stream()), "the iterable Stream has no shard and no state_dict"),
    "generator": ((i for i in range(3)), "the iterable generator has no shard and no state_dict"),
    "no length": (
        NoLength(),
        (
            "the data source is of type NoLength, which is no dataset; a source has __getitem__ and __len__ "
            "over positions 0 to len - 1, or is a DataLoader, or an iterable with shard, state_dict and "
            "load_state_dict. Pass one of these, such as a list of examples."
        ),
    ),
    "number": (3, "the data source is of type int, which is no dataset"),
    "mapping": ({"train": [1]}, "the data source is of type dict, which is no dataset"),
    "text": ("data.csv", "the data source is of type str, which is no dataset"),
    "empty": (
        [],
        (
            "the dataset list is empty; a run needs at least one example. "
            "Check the path or the filter that it reads from."
        ),
    ),
}


@pytest.mark.parametrize("name", refusals)
def test_a_source_that_can_not_be_divided_is_refused_with_the_way_out(name: str) -> None:
    source, sentence = refusals[name]
    with pytest.raises(DataError, match=f"^{re.escape(sentence)}"):
        open_source(source)


def test_a_negative_number_of_workers_is_refused() -> None:
    with pytest.raises(DataError, match="num_workers is -1; it is 0 or more"):
        open_source(TEN, num_workers=-1)


def test_shuffle_beside_a_sampler_is_refused() -> None:
    loader = DataLoader(TEN, sampler=SubsetRandomSampler([1, 2]))
    with pytest.raises(DataError, match=r"shuffle=True together with .* sampler SubsetRandomSampler"):
        open_source(loader, shuffle=True)


@pytest.mark.parametrize(
    ("sampler", "sentence"),
    [
        (Endless(), "the sampler Endless gave more than 1000 indices, 100 times the dataset"),
        (SubsetRandomSampler([]), "the sampler SubsetRandomSampler gave no index"),
        (Words(), "the sampler Words gave 'a'; a sampler gives dataset indices, which are whole numbers"),
    ],
)
def test_a_sampler_without_an_order_is_refused(sampler: Any, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        opened(DataLoader(TEN, sampler=sampler)).order(seed=0, epoch=0)


def test_a_source_that_goes_round_reads_its_own_examples_again_and_again() -> None:
    source = open_source(TensorDataset(torch.arange(5)), shuffle=True)
    assert isinstance(source, MapSource)
    longer = dataclasses.replace(source, examples=15, cycle=5)
    order = longer.order(seed=0, epoch=0)
    assert sorted(order.tolist()) == sorted(3 * list(range(5)))
    assert longer.dataset is source.dataset, "so that it is read as in a job"
