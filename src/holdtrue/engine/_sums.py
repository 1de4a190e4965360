"""Sums of buffers over virtual nodes, in float64 and in the order of the tree: the second reduction of a round.

Where they are small, each worker's own sums ride in the message that closes the round, and everyone adds all of them up:
running statistics are a few kilobytes, and an exchange costs above all its way to the other worker and back. Large ones go
through an exchange of their own, behind the gradients.
"""

from collections.abc import Sequence
from typing import final

import numpy as np
import torch

from holdtrue.mapping import Mapping, Tree, contributions_of, evaluate_tree, leaves_of
from holdtrue.reduce import GradientLayout, Group, OrderedReduce

from ._buffer_family import Bits
from ._buffers import BufferBook

Sums = Sequence[torch.Tensor | Bits | None]
"""One entry for each family of buffers that is added; None where no pass had it."""

RIDING_BYTES = 1 << 15
"""Up to this size a worker's sums ride in the round's message."""


@final
class BufferSums:
    """The sums of one round on one worker.

        begin -> push, for what cannot wait -> start -> finish -> pack, see -> result

    Args:
        group: The workers.
        buffers: Whose sums.
    """

    def __init__(self, group: Group, buffers: BufferBook) -> None:
        self._group, self._buffers = group, buffers
        self._reduces: dict[tuple[Tree, tuple[int, ...]], OrderedReduce] = {}
        self._contributions: dict[Tree, list[tuple[Tree, ...]]] = {}
        self._mapping = Mapping(1, ((0,),))
        self._tree: Tree = 0
        self._reduce: OrderedReduce | None = None
        self._own: dict[Tree, Sums] | None = None
        """This worker's sums by subtree, once they are added up."""
        self._goes_on = False
        """Whether the round goes on after a loss."""
        self.result: Sums = ()
        """The sums over all virtual nodes, once the round's message was seen."""

    def begin(self, mapping: Mapping, tree: Tree) -> None:
        """A round begins; nothing is built before it is needed."""
        self._mapping, self._tree = mapping, tree
        self._reduce, self._own, self._goes_on, self.result = None, None, False, ()

    def forget(self) -> None:
        """Another mapping follows: what was built is of no use."""
        self._reduces.clear()
        self._contributions.clear()

    def _by_rank(self) -> list[tuple[Tree, ...]]:
        """What each worker adds up alone."""
        if self._tree not in self._contributions:
            present = set(leaves_of(self._tree))
            self._contributions[self._tree] = [
                contributions_of(self._tree, present.intersection(held)) for held in self._mapping.held
            ]
        return self._contributions[self._tree]

    def _slot_bytes(self) -> int:
        """Bytes of one contribution."""
        return sum(8 * t.numel() for t in self._buffers.added())

    @property
    def _rides(self) -> bool:
        """Whether the sums ride in the round's message; the same on every worker."""
        size = self._slot_bytes()
        return size > 0 and self._mapping.world_size > 1 and size * self._slots() <= RIDING_BYTES

    def _slots(self) -> int:
        return max(map(len, self._by_rank()))

    def _open(self) -> OrderedReduce | None:
        """The reduction of what `push` is given; None where no buffer is added."""
        added = self._buffers.added()
        if self._reduce is not None or not added:
            return self._reduce
        key = self._tree, tuple(t.numel() for t in added)
        if key not in self._reduces:
            self._reduces[key] = self._build(None)
        self._reduce = self._reduces[key]
        self._reduce.begin()
        return self._reduce

    def _build(self, kept: dict[Tree, list[torch.Tensor | None]] | None) -> OrderedReduce:
        return OrderedReduce(
            group=self._group,
            layout=GradientLayout.build(self._buffers.added()),
            tree=self._tree,
            mapping=self._mapping,
            eager=False,
            kept=kept,
        )

    def push(self, passes: Sequence[tuple[int, list[torch.Tensor | None]]]) -> None:
        """Add what passes left, one after the other."""
        reduce = self._open() if passes else None
        if reduce is not None:
            for v, leaf in passes:
                reduce.push(v, leaf)

    def start(self, passes: int) -> None:
        """Add up what waited for the end of this worker's passes; what does not ride is sent behind the gradients.

        Args:
            passes: How many passes this worker had in the round. A second call does nothing.
        """
        if self._own is not None or not self._buffers.has_families:
            return
        own = self._by_rank()[self._group.rank]
        rides = self._rides
        if self._reduce is None and not self._goes_on and (rides or self._mapping.world_size == 1):
            found = self._buffers.add_up(own, passes)
            if found is not None:
                self._own = dict(zip(own, found, strict=True))
                return
        self.push(self._buffers.work_off())
        reduce = self._open()
        if reduce is not None and not rides:
            reduce.push_rest()

    def finish(self) -> None:
        """Complete the exchange of sums that do not ride.

        Blocks:
            Until all workers have sent theirs, at most the group's time-out.
        """
        if self._mapping.world_size == 1 and self._own is not None:
            self.result = self._own[self._tree]
        elif self._reduce is not None and not self._rides:
            self.result = self._reduce.finish()

    def pack(self) -> bytes:
        """What rides in the round's message, as long on every worker; nothing if the sums do not ride."""
        if not self._rides:
            return b""
        own = self._own
        if own is None:
            own = {} if self._reduce is None else dict(self._reduce.contributions())
        parts = [_bytes_of(total) for tree in self._by_rank()[self._group.rank] for total in own[tree]]
        return b"".join(parts).ljust(self._slots() * self._slot_bytes(), b"\0")

    def see(self, messages: Sequence[bytes]) -> None:
        """Add up what every worker's `pack` gave."""
        if not self._rides:
            return
        sizes = [t.numel() for t in self._buffers.added()]
        values: dict[Tree, Bits] = {}
        for trees, message in zip(self._by_rank(), messages, strict=True):
            for k, tree in enumerate(trees):
                values[tree] = np.frombuffer(
                    message, dtype=np.float64, count=sum(sizes), offset=k * self._slot_bytes()
                )
        with np.errstate(all="ignore"):  # infinities and NaN are the user's, and no warning
            total = evaluate_tree(self._tree, values, np.add).copy()  # one contribution alone is not writable
        ends = np.cumsum(sizes)
        self.result = [total[end - size : end] for size, end in zip(sizes, ends, strict=True)]

    def take_over(self, mapping: Mapping) -> None:
        """Go on with the open round under the mapping of those who are left, from the sums that are there."""
        kept: dict[Tree, list[torch.Tensor | None]] = {}
        if self._own is not None:
            for tree, totals in self._own.items():
                kept[tree] = [torch.from_numpy(t) if isinstance(t, np.ndarray) else t for t in totals]
        else:
            self.push(self._buffers.work_off())
            reduce = self._open()
            kept = {} if reduce is None else reduce.contributions()
        self.forget()
        self._mapping, self._own, self._goes_on = mapping, None, True
        self._reduce = self._build(kept) if self._buffers.added() else None


def _bytes_of(total: torch.Tensor | Bits | None) -> bytes:
    assert total is not None, "every pass has a value in every family that is added"
    return total.tobytes() if isinstance(total, np.ndarray) else total.cpu().contiguous().numpy().tobytes()
