"""Iterable sources, read by virtual node."""

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from holdtrue.data import IterableShards, IterableSource, open_source
from holdtrue.errors import DataError


class Numbers:
    """0 to n-1, of which shard v has every V-th, with noise from the host's streams."""

    def __init__(self, n: int, v: int = 0, V: int = 1) -> None:
        self.n, self.v, self.V, self.next, self.epoch = n, v, V, v, 0

    def shard(self, v: int, V: int) -> "Numbers":
        shard = Numbers(self.n, v, V)
        shard.epoch = self.epoch
        return shard

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[Any]:
        while self.next < self.n:
            self.next += self.V
            yield self.next - self.V, self.epoch, torch.rand(()) + random.random()

    def state_dict(self) -> dict[str, Any]:
        return {"next": self.next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.next = state["next"]


class NoState(Numbers):
    def shard(self, v: int, V: int) -> Any:
        return [1, 2, 3]


class Broken(Numbers):
    def __iter__(self) -> Iterator[Any]:
        raise RuntimeError("the disk is full")


def shards_of(source: Any, virtual_nodes: int = 3) -> IterableShards:
    found = open_source(source)
    assert isinstance(found, IterableSource)
    return IterableShards(found, virtual_nodes=virtual_nodes, seed=0)


def test_each_virtual_node_reads_its_own_shard_and_says_when_it_ends() -> None:
    shards = shards_of(Numbers(8))
    reads = [shards.read(v, 2) for _ in range(2) for v in range(3)]
    assert [r.available for r in reads] == [2, 2, 2, 1, 1, 0]
    assert [r.batch[0].tolist() for r in reads if r.batch] == [[0, 3], [1, 4], [2, 5], [6], [7]]
    assert reads[-1].batch is None
    assert shards.read(0, 1).available == 0


def test_a_shard_goes_on_in_another_worker_with_the_same_bits() -> None:
    first, undisturbed = shards_of(Numbers(30)), shards_of(Numbers(30))
    for shards in (first, undisturbed):
        shards.start_epoch(2)
        shards.read(1, 4)
    state = first.state_of(1)
    first.read(1, 1)  # must not move the state that was taken
    second = shards_of(Numbers(30))
    second.start_epoch(2)
    second.load_state(1, state)
    for n in (3, 2):
        a, b = second.read(1, n).batch, undisturbed.read(1, n).batch
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert a[1].tolist() == [2, 2]


def test_the_noise_of_a_shard_does_not_depend_on_who_reads_what_before() -> None:
    alone, together = shards_of(Numbers(30)), shards_of(Numbers(30))
    together.read(0, 5), together.read(2, 3)
    assert torch.equal(alone.read(1, 4).batch[2], together.read(1, 4).batch[2])
    assert not torch.equal(alone.read(0, 4).batch[2], alone.read(2, 4).batch[2])


def test_a_new_epoch_starts_every_shard_again() -> None:
    shards = shards_of(Numbers(9))
    before = shards.read(0, 3).batch
    shards.start_epoch(1)
    after = shards.read(0, 3).batch
    assert after[0].tolist() == before[0].tolist() == [0, 3, 6]
    assert after[1].tolist() == [1, 1, 1]
    assert not torch.equal(before[2], after[2])


def test_reading_a_shard_leaves_the_users_streams_as_they_were() -> None:
    before = torch.get_rng_state(), random.getstate()
    shards_of(Numbers(9)).read(0, 3)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()


def test_a_state_of_another_epoch_or_another_kind_is_refused() -> None:
    shards = shards_of(Numbers(9))
    state = shards.state_of(0)
    shards.start_epoch(1)
    with pytest.raises(DataError, match="is of epoch 0 and the run is in epoch 1; a shard"):
        shards.load_state(0, state)
    with pytest.raises(DataError, match=r"has the keys \['next'\]; it has \['epoch', 'examples', 'shard'\]"):
        shards.load_state(0, {"next": 3})


def test_a_shard_that_can_not_be_continued_is_refused() -> None:
    with pytest.raises(DataError, match="of NoState gave a list without state_dict and load_state_dict"):
        shards_of(NoState(3)).read(1, 2)


def test_an_exception_of_the_source_names_the_virtual_node() -> None:
    source = Numbers(9)
    source.shard = lambda v, V: Broken(9, v, V)  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="the disk is full") as caught:
        shards_of(source).read(2, 4)
    assert caught.value.__notes__ == ["holdtrue was reading 4 examples of virtual node 2 in epoch 0"]
