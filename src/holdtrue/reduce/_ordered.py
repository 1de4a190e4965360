"""The ordered reduction between workers: all-to-all, tree-order addition of each slice, gather.

One object serves one (group, mapping, layout, tree) and many steps. In a step:

    begin()
    push(v, gradients)            every pass but the last, in ascending id
    open_last(v)                  before the last pass (or with None, if this worker has no pass)
    offer(b, gradients)           bucket after bucket, while or after the last backward pass
    finish()                      -> the reduced gradient

A step that goes on in another group after a loss is given the sums that were `kept`, and ends its passes
with `push_rest` instead.

# W workers, C contributions of a worker, N elements of a bucket
"""

import sys
from collections.abc import Callable, Sequence
from collections.abc import Mapping as Dictionary
from itertools import pairwise

import torch

from holdtrue.errors import GroupError
from holdtrue.mapping import Mapping, Tree, contributions_of, evaluate_tree, leaves_of

from ._accumulate import Accumulator, Gradients, add_gradients
from ._group import Done, Group, Pending
from ._layout import Bucket, GradientLayout
from ._sum_memory import SumMemory

ABSENT = -0.0
"""The exact identity of IEEE addition: sent where a contribution has no value."""

DIRECT_BYTES = 1 << 20
"""Up to this size two workers send each other whole contributions of a bucket: as many bytes as slices and their sums, in one
exchange instead of two. Each worker then adds up all of it, and holds the other's whole contribution."""


class _BucketExchange:
    """Buffers and routes of one bucket."""

    def __init__(
        self, bucket: Bucket, group: Group, contributions: Sequence[Sequence[Tree]], rounds: int
    ) -> None:
        self.bucket = bucket
        self._group = group
        self._bounds = bucket.slice_bounds(group.world_size)
        self._slice = self._bounds[group.rank], self._bounds[group.rank + 1]
        self._is_direct = group.world_size == 2 and bucket.elements * bucket.dtype.itemsize <= DIRECT_BYTES
        if self._is_direct:
            self._slice = 0, bucket.elements
        # Not where a device is merely there: pinning takes hold of it, half a gigabyte for a worker on the CPU.
        pinned = group.device.type == "cpu" and torch.cuda.is_initialized()

        def buffer(elements: int) -> torch.Tensor:
            return torch.empty(elements, dtype=bucket.dtype, device=group.device, pin_memory=pinned)

        own = len(contributions[group.rank])
        self.contributions = [buffer(bucket.elements) for _ in range(own)]
        self._buffer = buffer
        self._take_result()
        self._first_round = rounds - own
        # The first and the last worker's own slice lies at an end of the flat tensor: it need not travel.
        self._keeps_own = group.rank in (0, group.world_size - 1)
        self._senders = [
            [
                r
                for r, c in enumerate(contributions)
                if len(c) >= rounds - j and not (self._keeps_own and r == group.rank)
            ]
            for j in range(rounds)
        ]
        width = self._slice[1] - self._slice[0]
        self._received = [buffer(width * len(senders)) for senders in self._senders]
        self._values: dict[Tree, torch.Tensor] = {}
        for j, senders in enumerate(self._senders):
            for r, piece in zip(senders, self._received[j].split(width) if width else [], strict=False):
                self._values[contributions[r][j - (rounds - len(contributions[r]))]] = piece
        if self._keeps_own:
            for tree, flat in zip(contributions[group.rank], self.contributions, strict=True):
                self._values[tree] = flat[self._slice[0] : self._slice[1]]
        self._own_pieces = {id(self._values[tree]) for tree in contributions[group.rank] if self._keeps_own}
        self._nothing = buffer(0)
        self.views = [{s.parameter: s.view_of(flat) for s in bucket.segments} for flat in self.contributions]

    def _take_result(self) -> None:
        self.result = self._buffer(self.bucket.elements)
        self.result_views = {s.parameter: s.view_of(self.result) for s in self.bucket.segments}
        self._uses = self._count_uses()

    def _count_uses(self) -> int:
        """Who holds the result's memory, and who its views as they are."""
        # Private, and torch's own CUDA graphs count with it: nothing public tells of tensors that share memory.
        sharing: int = torch._C._storage_Use_Count(self.result.untyped_storage()._cdata)
        return sharing + sum(map(sys.getrefcount, self.result_views.values()))

    def leave_result(self) -> None:
        """Leave the last result to who keeps a gradient of it, an optimizer say, and write the next one elsewhere."""
        if self._count_uses() > self._uses:
            self._take_result()

    def start_exchange(self, round_: int, what: str) -> Pending:
        """Send this worker's contribution of a round, if it has one, slice by slice to the slices' owners."""
        bounds, width = self._bounds, self._slice[1] - self._slice[0]
        sizes = [0] * self._group.world_size
        source = self._nothing
        if round_ >= self._first_round:
            source = self.contributions[round_ - self._first_round]
            sizes = [b - a for a, b in pairwise(bounds)]
            if self._is_direct:
                sizes[1 - self._group.rank], sizes[self._group.rank] = width, 0
            elif self._keeps_own:
                rank = self._group.rank
                source = source[self._slice[1] :] if rank == 0 else source[: self._slice[0]]
                sizes[rank] = 0
        senders = set(self._senders[round_])
        incoming = [width if r in senders else 0 for r in range(self._group.world_size)]
        return self._group.exchange(self._received[round_], source, incoming, sizes, what=what)

    def add_slice(self, tree: Tree) -> None:
        """Add the contributions of this worker's slice in the order of the tree, into `result`."""
        start, stop = self._slice
        if start == stop:
            return
        target = self.result[start:stop]
        if tree in self._values:
            target.copy_(self._values[tree])
            return
        assert not isinstance(tree, int)
        left, right = (evaluate_tree(side, self._values, self._add_received) for side in tree)
        torch.add(left, right, out=target)

    def _add_received(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """`left + right`, written over an operand that is not this worker's own contribution.

        Contributions stay as they are until the round has closed: if a worker dies they are exchanged again.
        Two own ones never meet: they would have been one.
        """
        return torch.add(left, right, out=right if id(left) in self._own_pieces else left)

    def start_spread(self, what: str) -> Pending:
        """Send the finished slice to everyone."""
        if self._is_direct:
            return Done()
        return self._group.spread(self.result, self._bounds, what=what)


class OrderedReduce:
    """Adds gradients over all virtual nodes in the order of a tree, with this worker's part done here.

    Args:
        group: The workers.
        layout: Buckets of the parameters.
        tree: The order, pruned to the virtual nodes that have examples in this step.
        mapping: Who holds which virtual nodes.
        eager: Send contributions as soon as they are complete. False sends everything in `push_rest`: for
            a second reduction in the same step, whose collectives must not mix with the first's, and for a step
            that goes on after a loss.
        kept: Sums of subtrees that this worker has already, from the same step under another mapping. Their tensors
            are reused.
        memory: Where sums wait between passes; reductions of rounds that are never open together may share it.

    Guarantee:
        The result is the value of the tree's expression whatever the mapping, in every bit (guarantee G1).
    """

    def __init__(
        self,
        *,
        group: Group,
        layout: GradientLayout,
        tree: Tree,
        mapping: Mapping,
        eager: bool = True,
        kept: Dictionary[Tree, Gradients] | None = None,
        memory: SumMemory | None = None,
    ) -> None:
        self._group, self._layout, self._tree, self._eager = group, layout, tree, eager
        present = set(leaves_of(tree))
        contributions = [contributions_of(tree, present.intersection(held)) for held in mapping.held]
        self._own = contributions[group.rank]
        self._ends = {leaves_of(c)[-1]: i for i, c in enumerate(self._own)}
        self._rounds = max(map(len, contributions))
        self._exchanges = (
            [_BucketExchange(b, group, contributions, self._rounds) for b in layout.buckets]
            if group.world_size > 1
            else []
        )
        self._memory = memory
        self._accumulator = Accumulator(self._own, kept, memory)
        self._goes_on = kept is not None
        self._open()

    @property
    def buckets(self) -> tuple[Bucket, ...]:
        """Buckets in the order in which they must be offered; empty when this worker is alone."""
        return self._layout.buckets if self._exchanges else ()

    def begin(self) -> None:
        """Start a step."""
        if self._goes_on:
            self._accumulator, self._goes_on = Accumulator(self._own, memory=self._memory), False
        else:
            self._accumulator.begin_anew()
        self._open()
        for exchange in self._exchanges:
            exchange.leave_result()

    def _open(self) -> None:
        self._broken: GroupError | None = None
        self._is_written = False
        self._last: int | None = None
        self._merged_last = 0
        self._launched_rounds = 0
        self._in_flight: list[list[Pending]] = [[] for _ in self._exchanges]
        self._offered = 0
        self._reduced = 0
        self._spreads: list[Pending] = []
        self._present = [False] * self._layout.parameters

    def pop_for(self, virtual_node: int) -> Gradients | None:
        """The sum that the gradients of `virtual_node` are to be added to first, taken off the stack.

        None if there is none. Whoever takes it adds, and says so with `merged=1` (or `merge_last`).
        """
        if not self._accumulator.merges_after(virtual_node) or not self._accumulator.may_lend(virtual_node):
            return None
        return self._accumulator.stack.pop()

    def merge_last(self) -> None:
        """Say that the last pass's gradients will come added to what `pop_for` gave."""
        self._merged_last = 1

    def push(self, virtual_node: int, gradients: Gradients, merged: int = 0) -> None:
        """Add the gradients of one pass that is not this worker's last of the step."""
        self._accumulator.push(virtual_node, gradients, merged)
        ends = self._ends.get(virtual_node)
        if self._exchanges and self._eager and ends is not None and ends < len(self._own) - 1:
            self._send_complete(ends, self._accumulator.stack.pop())

    def _send_complete(self, index: int, entry: Gradients) -> None:
        """Send a contribution that is not this worker's last, in its round."""
        self._launch_rounds(self._rounds - len(self._own) + index)
        for exchange in self._exchanges:
            self._write(
                exchange, index, [], {s.parameter: entry[s.parameter] for s in exchange.bucket.segments}
            )
        self._launch_rounds(self._rounds - len(self._own) + index + 1)

    def _launch_rounds(self, until: int) -> None:
        for round_ in range(self._launched_rounds, until):
            for b, exchange in enumerate(self._exchanges):
                self._start(b, exchange, round_, f"the exchange of bucket {b}, round {round_}")
        self._launched_rounds = max(until, self._launched_rounds)

    def _start(self, bucket: int, exchange: _BucketExchange, round_: int, what: str) -> None:
        self._attempt(lambda: self._in_flight[bucket].append(exchange.start_exchange(round_, what)))

    def _attempt(self, act: Callable[[], None]) -> None:
        """Do something with the group; once that has failed, nothing more, and `finish` says why.

        Passes go on: their sums are still needed, by this group's successor.
        """
        if self._broken is not None:
            return
        try:
            act()
        except GroupError as error:
            error.__cause__ = (
                None  # a live traceback keeps the connections open, and others wait for their end
            )
            self._broken = error.with_traceback(None)

    def open_last(self, virtual_node: int | None) -> None:
        """Say that the next pass, of `virtual_node`, is this worker's last of the step; None: it has no more."""
        self._last = virtual_node
        if self._exchanges and self._eager:
            self._launch_rounds(self._rounds - 1)

    def offer(self, bucket: int, gradients: dict[int, torch.Tensor | None]) -> None:
        """Give the last pass's gradients of one bucket, by parameter; buckets come in order.

        The exchange starts at once and goes on while backward does.
        """
        assert bucket == self._offered, f"bucket {bucket} offered where {self._offered} was due"
        exchange = self._exchanges[bucket]
        if self._last is not None:
            merges = self._accumulator.merges_after(self._last) - self._merged_last
            left = self._accumulator.stack[len(self._accumulator.stack) - merges :]
            self._write(exchange, len(self._own) - 1, left, gradients)
        self._start(bucket, exchange, self._rounds - 1, f"the exchange of bucket {bucket}")
        self._offered += 1
        self._attempt(lambda: self._progress(wait=False))

    def _write(
        self,
        exchange: _BucketExchange,
        index: int,
        left: list[Gradients],
        right: dict[int, torch.Tensor | None],
    ) -> None:
        """Write `left[0] + (left[1] + (... + right))` of a bucket into this worker's contribution `index`."""
        order = list(right)
        value: Gradients = [right[p] for p in order]
        for entry in reversed(left[1:]):
            value = add_gradients([entry[p] for p in order], value)
        first: Gradients = [left[0][p] for p in order] if left else [None] * len(order)
        views = exchange.views[index]
        copies: list[tuple[torch.Tensor, torch.Tensor]] = []
        for p, a, b in zip(order, first, value, strict=True):
            if a is not None and b is not None and a.device == self._group.device:
                torch.add(a, b, out=views[p])
            elif a is not None and b is not None:
                copies.append((views[p], a.add_(b)))
            elif a is not None or b is not None:
                copies.append((views[p], a if a is not None else b))  # type: ignore[arg-type]  # one is not None
            else:
                views[p].fill_(ABSENT)
                continue
            self._present[p] = True
        if copies:
            torch._foreach_copy_([target for target, _ in copies], [source for _, source in copies])

    def _progress(self, *, wait: bool) -> None:
        """Add and spread the slices of buckets whose contributions have all come, in bucket order."""
        while self._reduced < self._offered:
            pending = self._in_flight[self._reduced]
            if not wait and not all(p.is_complete() for p in pending):
                return
            for p in pending:
                p.wait()
            exchange = self._exchanges[self._reduced]
            exchange.add_slice(self._tree)
            self._spreads.append(exchange.start_spread(f"the gather of bucket {self._reduced}"))
            self._reduced += 1

    def push_last(self, gradients: Gradients) -> None:
        """Give the whole of the last pass at once, without overlap: what has not been offered yet."""
        if not self._exchanges:
            if self._last is not None:
                self._accumulator.push(self._last, gradients, self._merged_last)
            return
        self._is_written = True
        for b in range(self._offered, len(self._exchanges)):
            self.offer(b, {s.parameter: gradients[s.parameter] for s in self._layout.buckets[b].segments})

    def push_rest(self) -> None:
        """Say that all passes were given to `push`, and send everything: the end of a reduction that is not eager.

        A second call does nothing.
        """
        self._accumulator.push_rest()
        if not self._exchanges or self._is_written:
            return
        self._is_written = True
        stack = self._accumulator.stack
        assert len(stack) == len(self._own), f"{len(stack)} sums where {len(self._own)} were due"
        for index in range(len(self._own)):
            self._send_complete(index, stack[index])
        self._launch_rounds(self._rounds)
        self._offered = len(self._exchanges)

    def contributions(self) -> dict[Tree, Gradients]:
        """This worker's sums by subtree, to go on with in another group; once all its passes are over.

        Returns:
            Absent gradients are None. The tensors are this reduction's own: it is of no use afterwards.
        """
        if not self._is_written:
            self._accumulator.push_rest()
            return dict(zip(self._own, self._accumulator.stack, strict=True))
        present = self.present()
        found: dict[Tree, Gradients] = {}
        for index, tree in enumerate(self._own):
            entry: Gradients = [None] * self._layout.parameters
            for exchange in self._exchanges:
                for p, view in exchange.views[index].items():
                    entry[p] = view if present[p] else None
            found[tree] = entry
        return found

    def present(self) -> list[bool]:
        """Which parameters have a gradient in some contribution of this worker."""
        if not self._exchanges:
            return list(self._accumulator.present(self._layout.parameters))
        return self._present

    def finish(self) -> list[torch.Tensor | None]:
        """The reduced gradient in parameter order, once every collective of the step is complete.

        Returns:
            One tensor for each parameter, in the widened dtype and real shape. Between workers all of
            them are there (absent ones hold -0.0), as views of a buffer that the next step reuses unless
            somebody keeps one; alone, an absent one is None.

        Blocks:
            Until every worker has offered all its buckets, at most the group's time-out.
        """
        if not self._exchanges:
            result: Gradients = [None] * self._layout.parameters
            if self._accumulator.stack:
                (result,) = self._accumulator.stack
            self._accumulator.stack = []
            return result
        if self._broken is not None:
            raise self._broken
        self._accumulator.stack.clear()
        self._progress(wait=True)
        for pending in self._spreads:
            pending.wait()
        gradients: list[torch.Tensor | None] = [None] * self._layout.parameters
        for exchange in self._exchanges:
            for p, view in exchange.result_views.items():
                gradients[p] = view
        return gradients
