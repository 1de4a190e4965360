"""Reading an iterable source by virtual node."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from holdtrue.errors import DataError
from holdtrue.plan import stream_key

from ._fetch import plain_torch
from ._fresh import Batch, batch_to_device
from ._source import IterableSource
from ._streams import restore_host_streams, save_host_streams, set_host_streams

_STATE_KEYS = ("epoch", "examples", "shard")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ShardRead:
    """What one virtual node read for one step."""

    virtual_node: int
    """Id of the virtual node."""
    available: int
    """Examples read; fewer than asked for means that its shard has ended."""
    batch: Batch
    """Fresh tensors on the device; None where nothing was available."""


@dataclass(slots=True)
class _OpenShard:
    shard: Any  # Any: the user's iterable
    examples: Iterator[Any]
    read: int


class IterableShards:
    """The shards of an iterable source that are open on this worker, one for each virtual node.

    A shard is opened when it is first read or its state is loaded, so a worker opens only its own. When an
    epoch ends is not decided here: the counts of all virtual nodes are needed for that.
    """

    def __init__(
        self,
        source: IterableSource,
        *,
        virtual_nodes: int,
        seed: int,
        device: torch.device = torch.device("cpu"),  # noqa: B008  # an immutable value
    ) -> None:
        self._source, self._virtual_nodes, self._seed, self._device = source, virtual_nodes, seed, device
        self._epoch = 0
        self._open: dict[int, _OpenShard] = {}

    def start_epoch(self, epoch: int) -> None:
        """Go to the start of `epoch` in every shard; `set_epoch` of the source is called where it has it."""
        self._epoch = epoch
        self._open.clear()
        if callable(set_epoch := getattr(self._source.source, "set_epoch", None)):
            set_epoch(epoch)

    def read(self, virtual_node: int, examples: int) -> ShardRead:
        """Up to `examples` more of a virtual node's shard, as one batch.

        Guarantee:
            What the source draws from the host's streams depends on the seed, the epoch, the position in
            the shard and the virtual node; the caller's streams are afterwards as they were.
        """
        with self._own_streams(f"reading {examples} examples of virtual node {virtual_node}"):
            opened = self._opened(virtual_node)
            self._set_streams("fetch", opened.read, virtual_node)
            with plain_torch():
                found = list(islice(opened.examples, examples))
                batch = self._source.collate_fn(found) if found else None
            opened.read += len(found)
            batch = batch_to_device(batch, self._device)
        return ShardRead(virtual_node=virtual_node, available=len(found), batch=batch)

    def state_of(self, virtual_node: int) -> dict[str, Any]:  # Any: the user's state_dict
        """Where a virtual node is in its shard: what `load_state` takes on this worker or another."""
        with self._own_streams(f"saving the position of virtual node {virtual_node}"):
            opened = self._opened(virtual_node)
            state = copy.deepcopy(opened.shard.state_dict())  # the shard may go on changing what it returned
            return {"epoch": self._epoch, "examples": opened.read, "shard": state}

    def load_state(self, virtual_node: int, state: dict[str, Any]) -> None:  # Any: from state_of
        """Continue a virtual node's shard where `state_of` found it.

        Raises:
            DataError: the state is not one that `state_of` gave, or of another epoch than the present one.
        """
        if sorted(state) != sorted(_STATE_KEYS):
            raise DataError(
                f"the state of virtual node {virtual_node}'s shard has the keys {sorted(state)}; it has "
                f"{list(_STATE_KEYS)}. Load what IterableShards.state_of gave."
            )
        if state["epoch"] != self._epoch:
            raise DataError(
                f"the state of virtual node {virtual_node}'s shard is of epoch {state['epoch']} and the run "
                f"is in epoch {self._epoch}; a shard continues in its own epoch. Call "
                f"start_epoch({state['epoch']}) first."
            )
        with self._own_streams(f"loading the position of virtual node {virtual_node}"):
            self._set_streams("shard", state["examples"], virtual_node)
            shard = self._shard(virtual_node)
            shard.load_state_dict(state["shard"])
            self._open[virtual_node] = _OpenShard(shard, iter(shard), state["examples"])

    @contextmanager
    def _own_streams(self, doing: str) -> Iterator[None]:
        """Keep the caller's streams, and say on an exception of the user's code what was being done."""
        saved = save_host_streams()
        try:
            yield
        except Exception as error:
            error.add_note(f"holdtrue was {doing} in epoch {self._epoch}")
            raise
        finally:
            restore_host_streams(saved)

    def _set_streams(self, name: str, read: int, virtual_node: int) -> None:
        set_host_streams(stream_key(self._seed, name, self._epoch, read, virtual_node))

    def _opened(self, virtual_node: int) -> _OpenShard:
        if virtual_node not in self._open:
            self._set_streams("shard", 0, virtual_node)
            shard = self._shard(virtual_node)
            self._open[virtual_node] = _OpenShard(shard, iter(shard), 0)
        return self._open[virtual_node]

    def is_open(self, virtual_node: int) -> bool:
        """Whether a virtual node's shard is being read on this worker."""
        return virtual_node in self._open

    def close(self, virtual_node: int) -> None:
        """Let a virtual node's shard go: another worker reads it from now on."""
        self._open.pop(virtual_node, None)

    def _shard(self, virtual_node: int) -> Any:  # Any: the user's iterable
        shard = self._source.source.shard(virtual_node, self._virtual_nodes)
        missing = [
            n for n in ("__iter__", "state_dict", "load_state_dict") if not callable(getattr(shard, n, None))
        ]
        if missing:
            raise DataError(
                f"shard({virtual_node}, {self._virtual_nodes}) of {type(self._source.source).__name__} gave "
                f"a {type(shard).__name__} without {' and '.join(missing)}; a shard is read and continued by "
                "itself. Return an iterable with state_dict() and load_state_dict(state)."
            )
        return shard
