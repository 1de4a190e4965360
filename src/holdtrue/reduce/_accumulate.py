"""The part of the reduction that one worker does alone: a stack of sums that grows and merges as passes end."""

from collections.abc import Collection, Mapping, Sequence

import torch

from holdtrue.mapping import Tree, leaves_of, merges_after

from ._sum_memory import SumMemory

Gradients = list[torch.Tensor | None]
"""One entry for each parameter, None where the parameter has no gradient (an absent leaf)."""


PASSES_OF_LONG_WAIT = 4
"""Sums of at least so many passes wait in memory of their own. Smaller ones are mostly made by backward, and wait for one or
two passes; a worker with few passes, as in a profile's trial, takes no memory that its waiting sums do not need."""


def add_gradients(left: Gradients, right: Gradients) -> Gradients:
    """`left + right`, parameter by parameter; an absent gradient is the identity. `left`'s tensors are reused."""
    both_left: list[torch.Tensor] = []
    both_right: list[torch.Tensor] = []
    result = list(left)
    for i, (a, b) in enumerate(zip(left, right, strict=True)):
        if a is None:
            result[i] = b
        elif b is not None:
            both_left.append(a)
            both_right.append(b)
    if both_left:
        torch._foreach_add_(both_left, both_right)
    return result


def add_in_memory(
    left: Gradients, right: Gradients, memory: SumMemory, *, waits: bool, ends: bool
) -> Gradients:
    """`left + right` as `add_gradients` gives it, in every bit; only where it is written to differs.

    Args:
        left: Its tensors are reused, or given back to `memory`.
        right: The same.
        memory: Where sums wait.
        waits: The sum goes into `memory`: writing it there costs what writing it over `left` does.
        ends: The sum, or what it is added to next, is a contribution: it goes into none of `memory`'s tensors.
    """
    result = list(left)
    both_left: list[torch.Tensor] = []
    both_right: list[torch.Tensor] = []
    for i, (a, b) in enumerate(zip(left, right, strict=True)):
        if a is None:
            result[i] = b
        elif b is None:
            result[i] = a.clone() if ends and memory.holds(a) else a
        else:
            target: torch.Tensor | None = None
            if ends:
                target = b if memory.holds(a) and not memory.holds(b) else None
            elif waits and not memory.holds(a):
                target = b if memory.holds(b) else memory.take(i, a, b)
            if target is None:
                both_left.append(a)
                both_right.append(b)
            else:
                result[i] = torch.add(a, b, out=target)
        for given in (a, b):
            if given is not None and given is not result[i]:
                memory.give_back(i, given)
    if both_left:
        torch._foreach_add_(both_left, both_right)
    return result


class Accumulator:
    """Adds the gradients of one worker's passes in tree order.

    Passes must come in ascending id. After pass v the stack is merged as often as the tree says; what
    is left at the end are the worker's contributions. Memory: at most log2(n) + 1 gradients for an
    aligned block of n virtual nodes.

    Args:
        contributions: What this worker adds up, left to right.
        kept: Sums that are there already, by subtree: the worker held them under another mapping. They take
            their places between the passes, and their tensors are reused.
        memory: Where sums of four passes or more wait; without it, where the first of them was. Contributions never lie in it:
            who gets one may keep it.
    """

    def __init__(
        self,
        contributions: Collection[Tree],
        kept: Mapping[Tree, Gradients] | None = None,
        memory: SumMemory | None = None,
    ) -> None:
        self._merges: Mapping[Tree, int] = merges_after(contributions, kept or ())
        ends = {leaves_of(c)[-1] for c in contributions}
        self._ends = {item for item in self._merges if leaves_of(item)[-1] in ends}
        self._memory = memory
        self._to_memory = set[Tree]() if memory is None else self._plan_memory(memory)
        self._kept = dict(kept or {})
        # A dict keeps the order in which items were met: left to right.
        self._waiting = [item for item in self._merges if item in self._kept]
        self.stack: list[Gradients] = []

    def begin_anew(self) -> None:
        """Forget what was pushed: for the next step, where nothing was kept."""
        assert not self._waiting, "what was kept is not taken in yet"
        self.stack = []
        if self._memory is not None:
            self._memory.free_all()

    def _plan_memory(self, memory: SumMemory) -> set[Tree]:
        """Items after whose merges a sum waits in `memory`, which is made ready for as many as wait at one time."""
        stack: list[tuple[int, bool]] = []
        """(passes, whether it waits in memory) of each entry."""
        most, items = 0, set[Tree]()
        for item, merges in self._merges.items():
            stack.append((len(leaves_of(item)), False))
            for _ in range(merges):
                right, _ = stack.pop()
                stack[-1] = stack[-1][0] + right, stack[-1][1]
            if item in self._ends:
                stack.clear()  # a contribution: nothing of it waits any more
            elif stack[-1][0] >= PASSES_OF_LONG_WAIT:
                stack[-1] = stack[-1][0], True
                items.add(item)
            most = max(most, sum(waits for _, waits in stack))
        memory.reserve(most)
        return items

    def may_lend(self, virtual_node: int) -> bool:
        """Whether backward may add the pass of `virtual_node` to the entry on top: a contribution is not made in `memory`."""
        if self._memory is None or virtual_node not in self._ends:
            return True
        return not any(g is not None and self._memory.holds(g) for g in self.stack[-1])

    def merges_after(self, virtual_node: int) -> int:
        """How many merges follow the pass of `virtual_node`."""
        return self._merges[virtual_node]

    def push(self, virtual_node: int, gradients: Gradients, merged: int = 0) -> None:
        """Add the gradients of one pass; their tensors now belong to the accumulator.

        Args:
            virtual_node: The pass.
            gradients: Its gradients; with `merged` 1, already added to the entry that was on top, which was
                popped for it (backward's own accumulation is the same addition).
            merged: Merges of this pass that are done.
        """
        self._push_kept(virtual_node)
        self._push(virtual_node, gradients, merged)

    def push_rest(self) -> None:
        """Take in what was kept and comes after the last pass: then the stack holds the contributions."""
        self._push_kept(None)

    def _push_kept(self, before: int | None) -> None:
        while self._waiting and (before is None or leaves_of(self._waiting[0])[0] < before):
            item = self._waiting.pop(0)
            self._push(item, self._kept.pop(item), 0)

    def _push(self, item: Tree, gradients: Gradients, merged: int) -> None:
        self.stack.append(gradients)
        for after in reversed(range(self._merges[item] - merged)):
            right = self.stack.pop()
            if self._memory is None:
                self.stack[-1] = add_gradients(self.stack[-1], right)
            else:
                is_end = item in self._ends
                self.stack[-1] = add_in_memory(
                    self.stack[-1],
                    right,
                    self._memory,
                    waits=after == 0 and item in self._to_memory,
                    ends=is_end,
                )

    def present(self, parameters: int) -> Sequence[bool]:
        """Which parameters have a gradient in some contribution."""
        return [any(entry[i] is not None for entry in self.stack) for i in range(parameters)]
