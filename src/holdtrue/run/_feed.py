"""What a step reads: the batch of each virtual node of this worker, from a map-style or an iterable source."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from typing import Any, final

import torch

from holdtrue.data import Fetch, IterableShards, IterableSource, Loader, MapSource, Schedule, ShardRead
from holdtrue.engine import bytes_to_state, state_to_bytes
from holdtrue.errors import DataError, UsageError
from holdtrue.plan import Plan
from holdtrue.reduce import Group

from ._elastic import gather_anew


class Feed(ABC):
    """Steps of one `run.steps` call, in order; positioned by (epoch, step in epoch)."""

    counts: tuple[int, ...]
    """Examples of each virtual node in the present step."""

    @abstractmethod
    def steps_in_epoch(self) -> int | None:
        """Steps of an epoch, or None if that is not known beforehand."""

    @abstractmethod
    def start_epoch(self, epoch: int, first_step: int) -> None:
        """Go to a step of an epoch of the run."""

    @abstractmethod
    def advance(self) -> bool:
        """Go to the next step of the epoch; False when the epoch is over."""

    @abstractmethod
    def batch(self, virtual_node: int) -> Any:  # Any: what collate_fn makes
        """The virtual node's batch in this step; called once for each of this worker's, ascending."""

    @abstractmethod
    def again(self, virtual_node: int) -> Any:  # Any: what collate_fn makes
        """The batch once more, with the same bits; or that of a virtual node that was taken over in the step."""

    @abstractmethod
    def describe(self, virtual_node: int) -> str:
        """Which examples the virtual node has in this step, for messages."""

    @property
    def is_epoch_over(self) -> bool:
        """Whether the epoch has ended where a position does not say so."""
        return False

    @abstractmethod
    def change_nodes(self, nodes: Sequence[int]) -> None:
        """Read for other virtual nodes: in the present step through `again`, and in those that follow."""

    def states(self) -> dict[int, Any]:  # Any: the user's state_dict
        """State of every virtual node's shard after the present step; empty where a position says all."""
        return {}

    def close(self) -> None:  # noqa: B027 - most feeds hold nothing
        """Let go of what reads ahead."""


@final
class MapFeed(Feed):
    """A map-style source: everything follows from the position."""

    def __init__(
        self,
        source: MapSource,
        *,
        plan: Plan,
        drop_last: bool,
        device: torch.device,
        nodes: Sequence[int],
        timeout_s: float,
    ) -> None:
        self._source, self._plan, self._nodes = source, plan, nodes
        # A sampler decides how many examples an epoch has; otherwise it is the whole dataset.
        examples = source.examples if source.sampler is None else len(source.order(seed=plan.seed, epoch=0))
        self._schedule = Schedule(plan=plan, examples=examples, drop_last=drop_last)
        self._loader = Loader(
            source,
            seed=plan.seed,
            device=device,
            timeout_s=timeout_s if source.workers.count else 0.0,
            keep_streams=False,  # the step keeps them
        )
        self._ahead: Generator[tuple[Fetch, Any], None, None] | None = None
        self._epoch = self._next = 0
        self._is_read = True
        """Whether the present step's batches were taken from `_ahead`."""
        self._fetches: dict[int, Fetch] = {}
        self._latest: tuple[int, tuple[Fetch, ...]] = -1, ()

    def steps_in_epoch(self) -> int:
        """See `Feed.steps_in_epoch`."""
        return self._schedule.steps

    def start_epoch(self, epoch: int, first_step: int) -> None:
        """See `Feed.start_epoch`."""
        self._epoch, self._next = epoch, first_step
        self._latest = -1, ()
        self._order = self._source.order(seed=self._plan.seed, epoch=epoch)
        if len(self._order) != self._schedule.examples:
            raise DataError(
                f"the sampler {type(self._source.sampler).__name__} gave {len(self._order)} indices in epoch {epoch} and "
                f"{self._schedule.examples} in epoch 0; a run finds its place by the number of steps, so every epoch has as "
                f"many. Draw a fixed number of examples."
            )
        self._is_read = True
        self._read_ahead()

    def _read_ahead(self) -> None:
        """Read from the present step on, or from the next one if the present one was read."""
        if self._ahead is not None:
            self._ahead.close()
        first = self._next if self._is_read else self._next - 1
        self._ahead = self._loader.load(
            fetch
            for step in range(first, self._schedule.steps)
            for fetch in self._fetches_of(step)
            if fetch.indices
        )

    def change_nodes(self, nodes: Sequence[int]) -> None:
        """See `Feed.change_nodes`."""
        if tuple(nodes) == tuple(self._nodes):
            return
        self._nodes = nodes
        self._latest = -1, ()
        if self._ahead is not None:
            if self._next:
                self._fetches = {f.virtual_node: f for f in self._fetches_of(self._next - 1)}
            self._read_ahead()

    def _fetches_of(self, step: int) -> tuple[Fetch, ...]:
        if self._latest[0] != step:  # asked for twice in a row: to read ahead, and when the step begins
            self._latest = (
                step,
                self._schedule.fetches(
                    self._order, epoch=self._epoch, step_in_epoch=step, virtual_nodes=self._nodes
                ),
            )
        return self._latest[1]

    def advance(self) -> bool:
        """See `Feed.advance`."""
        if self._next >= self._schedule.steps:
            return False
        start, stop = self._schedule.batch_range(self._next)
        self.counts = tuple(b - a for a, b in self._plan.ranges(stop - start))
        self._fetches = {f.virtual_node: f for f in self._fetches_of(self._next)}
        self._next += 1
        self._is_read = False
        return True

    def batch(self, virtual_node: int) -> Any:  # Any: what collate_fn makes
        """See `Feed.batch`."""
        assert self._ahead is not None
        self._is_read = True
        fetch, batch = next(self._ahead)
        assert fetch == self._fetches[virtual_node], (
            f"read {fetch} where {self._fetches[virtual_node]} was due"
        )
        return batch

    def again(self, virtual_node: int) -> Any:  # Any: what collate_fn makes
        """See `Feed.again`."""
        return self._loader.fetch_now(self._fetches[virtual_node])

    def describe(self, virtual_node: int) -> str:
        """See `Feed.describe`."""
        fetch = self._fetches.get(virtual_node)
        if fetch is None:
            return ""
        shown = ", ".join(map(str, fetch.indices[:20])) + (", ..." if len(fetch.indices) > 20 else "")
        return f"examples {shown} of the dataset"

    def close(self) -> None:
        """See `Feed.close`."""
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None
        self._loader.close()


@final
class IterableFeed(Feed):
    """An iterable source read by virtual node; the workers agree on how much is left before each step."""

    def __init__(
        self,
        source: IterableSource,
        *,
        plan: Plan,
        drop_last: bool,
        device: torch.device,
        nodes: Sequence[int],
        group: Group,
        settle: Callable[[], Any],  # Any: what it returns does not count
    ) -> None:
        self._settle = settle
        self._states: dict[int, Any] = {}
        """Where every virtual node's shard is, wherever it is read: its reader may die."""
        self._before: dict[int, Any] = {}
        """As `_states`, before the present step."""
        self._shards = IterableShards(source, virtual_nodes=plan.virtual_nodes, seed=plan.seed, device=device)
        self._plan, self._nodes, self._group, self._drop_last = plan, nodes, group, drop_last
        self._wanted = [b - a for a, b in plan.ranges(plan.global_batch_size)]
        self._batches: dict[int, Any] = {}
        self._over = False

    def steps_in_epoch(self) -> None:
        """See `Feed.steps_in_epoch`."""
        return

    def start_epoch(self, epoch: int, first_step: int) -> None:
        """See `Feed.start_epoch`. `load_states` follows where the epoch is entered in its middle."""
        self._shards.start_epoch(epoch)
        self._step = first_step
        self._over = False
        self._states = {}
        self._before = {}

    def load_states(self, states: dict[int, Any]) -> None:
        """Continue shards where another run or worker was."""
        for v in range(self._plan.virtual_nodes):
            if v not in states:
                raise UsageError(
                    f"the checkpoint has no state for virtual node {v}'s shard; it was written by another source. "
                    f"Resume with the source that began the run."
                )
        self._states = self._before = dict(states)

    def change_nodes(self, nodes: Sequence[int]) -> None:
        """See `Feed.change_nodes`."""
        for v in self._nodes:
            if v not in nodes:
                self._shards.close(v)
        self._nodes = nodes

    def advance(self) -> bool:
        """See `Feed.advance`."""
        if self._over:
            return False
        reads: dict[int, ShardRead] = {}

        def gather() -> list[bytes]:
            for v in self._nodes:
                if v not in reads:
                    reads[v] = self._read(v, self._states)
            own = {v: (read.available, self._shards.state_of(v)) for v, read in reads.items()}
            return self._group.gather_bytes(
                state_to_bytes(own), what=f"the counts of step {self._step} of the epoch"
            )

        counts = [0] * self._plan.virtual_nodes
        states: dict[int, Any] = {}
        for part in gather_anew(gather, self._settle):
            for v, (available, state) in bytes_to_state(part).items():
                counts[v], states[v] = available, state
        self._before, self._states = self._states, states
        short = counts != self._wanted
        self._over = short
        if not any(counts) or (short and self._drop_last):
            return False
        self.counts = tuple(counts)
        self._batches = {v: read.batch for v, read in reads.items()}
        self._step += 1
        return True

    def _read(self, virtual_node: int, states: dict[int, Any]) -> ShardRead:
        """Read the present step's examples of a shard; one that is not open here goes on from `states`."""
        if not self._shards.is_open(virtual_node) and virtual_node in states:
            self._shards.load_state(virtual_node, states[virtual_node])
        return self._shards.read(virtual_node, self._wanted[virtual_node])

    def batch(self, virtual_node: int) -> Any:  # Any: what collate_fn makes
        """See `Feed.batch`."""
        return self._batches[virtual_node]

    def again(self, virtual_node: int) -> Any:  # Any: what collate_fn makes
        """See `Feed.again`. The pass may have changed its batch in place only at the user's own risk."""
        if virtual_node not in self._batches:
            self._batches[virtual_node] = self._read(virtual_node, self._before).batch
        return self._batches[virtual_node]

    def describe(self, virtual_node: int) -> str:
        """See `Feed.describe`."""
        return f"step {self._step - 1} of shard {virtual_node}"

    @property
    def is_epoch_over(self) -> bool:
        """Whether a step was short: the shards of other virtual nodes may have more, which the epoch leaves out."""
        return self._over

    def states(self) -> dict[int, Any]:  # Any: the user's state_dict
        """See `Feed.states`."""
        if self._over:
            return {}
        return self._states
