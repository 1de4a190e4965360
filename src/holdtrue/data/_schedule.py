"""Which examples each virtual node reads in each step: pure arithmetic on positions.

order of an epoch   i0 i1 i2 ... ...                          positions 0 .. examples-1
step s              positions [s*B, min((s+1)*B, examples))    the global batch
virtual node v      its range of that batch, by Plan.ranges    one fetch
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from holdtrue.errors import DataError
from holdtrue.plan import Plan

from ._order import IndexArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch:
    """The examples of one virtual node in one step."""

    epoch: int
    """Epoch, from 0; evaluation uses -1."""
    step_in_epoch: int
    """Step, counted from the epoch's start."""
    virtual_node: int
    """Id of the virtual node."""
    first: int
    """Position in the epoch's order of the first example."""
    indices: tuple[int, ...]
    """Dataset indices in reading order; empty where a short last batch leaves the virtual node none."""
    rows: IndexArray | None = field(default=None, compare=False, repr=False)
    """The same as a part of the epoch's order, for those who gather many rows at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Steps of one epoch over `examples` examples.

    Raises:
        DataError: there is no example, or less than one global batch while `drop_last` is true.

    >>> s = Schedule(plan=Plan(virtual_nodes=2, global_batch_size=4), examples=10, drop_last=False)
    >>> s.steps, s.batch_range(2)
    (3, (8, 10))
    """

    plan: Plan
    """Virtual nodes and global batch size."""
    examples: int
    """Examples in the epoch: the length of its order."""
    drop_last: bool
    """Whether a last batch of fewer than the global batch size is left out."""

    def __post_init__(self) -> None:
        if self.examples < 1:
            raise DataError(
                f"the epoch has {self.examples} examples; it needs at least one. "
                f"Check the path or the filter that the dataset reads from."
            )
        if self.drop_last and self.examples < self.plan.global_batch_size:
            raise DataError(
                f"the epoch has {self.examples} examples and the global batch size is "
                f"{self.plan.global_batch_size}; with drop_last=True an epoch needs at least one full global "
                f"batch. Lower global_batch_size to {self.examples} or fewer, or pass drop_last=False."
            )

    @property
    def steps(self) -> int:
        """Steps in the epoch, at least 1."""
        full, rest = divmod(self.examples, self.plan.global_batch_size)
        return full if self.drop_last or rest == 0 else full + 1

    def batch_range(self, step_in_epoch: int) -> tuple[int, int]:
        """Half-open range of positions of the global batch of a step.

        Raises:
            DataError: the epoch has no such step.
        """
        if not 0 <= step_in_epoch < self.steps:
            raise DataError(
                f"step {step_in_epoch} is not in the epoch; it has steps 0 to {self.steps - 1}. Ask for one "
                "of these."
            )
        start = step_in_epoch * self.plan.global_batch_size
        return start, min(start + self.plan.global_batch_size, self.examples)

    def fetches(
        self, order: IndexArray, *, epoch: int, step_in_epoch: int, virtual_nodes: Iterable[int]
    ) -> tuple[Fetch, ...]:
        """Fetches of some virtual nodes in one step.

        Args:
            order: The epoch's order; its length is `examples`.
            epoch: Epoch, from 0.
            step_in_epoch: Step, from the epoch's start.
            virtual_nodes: Ids, in the order of the passes.

        Returns:
            One fetch for each id, in that order; its `indices` are empty where the node has no example.
        """
        assert len(order) == self.examples, (
            f"an order of {len(order)} for an epoch of {self.examples} examples"
        )
        start, stop = self.batch_range(step_in_epoch)
        ranges = self.plan.ranges(stop - start)

        def fetch(virtual_node: int) -> Fetch:
            first, end = ranges[virtual_node]
            rows = order[start + first : start + end]
            return Fetch(
                epoch=epoch,
                step_in_epoch=step_in_epoch,
                virtual_node=virtual_node,
                first=start + first,
                indices=tuple(rows.tolist()),
                rows=rows,
            )

        return tuple(fetch(v) for v in virtual_nodes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A run of examples that one virtual node evaluates in one pass."""

    index: int
    """Number of the chunk, from 0: results are combined in this order."""
    virtual_node: int
    """Id of the virtual node that evaluates it."""
    start: int
    """Position of its first example."""
    stop: int
    """Position after its last example."""

    def fetch(self, order: IndexArray) -> Fetch:
        """The fetch of this chunk's examples, outside any epoch (-1)."""
        return Fetch(
            epoch=-1,
            step_in_epoch=self.index,
            virtual_node=self.virtual_node,
            first=self.start,
            indices=tuple(order[self.start : self.stop].tolist()),
        )


def chunks(examples: int, chunk_size: int, virtual_nodes: int) -> tuple[Chunk, ...]:
    """Division of a dataset for evaluation and prediction: every example exactly once.

    Args:
        examples: Examples in the dataset, 0 or more.
        chunk_size: Examples in a pass; the last chunk may have fewer.
        virtual_nodes: V; chunk i belongs to virtual node i mod V.

    Returns:
        Chunks in the order of their examples.

    Raises:
        DataError: `examples` is negative, or `chunk_size` or `virtual_nodes` less than 1.

    Guarantee:
        Pure, and free of devices: the shape of a pass does not depend on the mapping.

    >>> [(c.virtual_node, c.start, c.stop) for c in chunks(5, 2, 2)]
    [(0, 0, 2), (1, 2, 4), (0, 4, 5)]
    """
    if examples < 0 or chunk_size < 1 or virtual_nodes < 1:
        raise DataError(
            f"{examples} examples in chunks of {chunk_size} over {virtual_nodes} virtual nodes; a chunk and "
            "the virtual nodes number at least 1, the examples at least 0. Pass batch_size=1 or more."
        )
    return tuple(chunk_at(i, examples, chunk_size, virtual_nodes) for i in range(-(-examples // chunk_size)))


def chunk_at(index: int, examples: int, chunk_size: int, virtual_nodes: int) -> Chunk:
    """One of `chunks`, by its number; the arguments are as there.

    >>> chunk_at(2, 5, 2, 2) == chunks(5, 2, 2)[2]
    True
    """
    start = index * chunk_size
    return Chunk(
        index=index,
        virtual_node=index % virtual_nodes,
        start=start,
        stop=min(start + chunk_size, examples),
    )
