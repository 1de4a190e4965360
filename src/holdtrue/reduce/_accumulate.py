"""The part of the reduction that one worker does alone: a stack of sums that grows and merges as passes end."""

from collections.abc import Collection, Mapping, Sequence

import torch

from holdtrue.mapping import Tree, leaves_of, merges_after

Gradients = list[torch.Tensor | None]
"""One entry for each parameter, None where the parameter has no gradient (an absent leaf)."""


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


class Accumulator:
    """Adds the gradients of one worker's passes in tree order.

    Passes must come in ascending id. After pass v the stack is merged as often as the tree says; what
    is left at the end are the worker's contributions. Memory: at most log2(n) + 1 gradients for an
    aligned block of n virtual nodes.

    Args:
        contributions: What this worker adds up, left to right.
        kept: Sums that are there already, by subtree: the worker held them under another mapping. They take
            their places between the passes, and their tensors are reused.
    """

    def __init__(self, contributions: Collection[Tree], kept: Mapping[Tree, Gradients] | None = None) -> None:
        self._merges: Mapping[Tree, int] = merges_after(contributions, kept or ())
        self._kept = dict(kept or {})
        # A dict keeps the order in which items were met: left to right.
        self._waiting = [item for item in self._merges if item in self._kept]
        self.stack: list[Gradients] = []

    def begin_anew(self) -> None:
        """Forget what was pushed: for the next step, where nothing was kept."""
        assert not self._waiting, "what was kept is not taken in yet"
        self.stack = []

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
        for _ in range(self._merges[item] - merged):
            right = self.stack.pop()
            self.stack[-1] = add_gradients(self.stack[-1], right)

    def present(self, parameters: int) -> Sequence[bool]:
        """Which parameters have a gradient in some contribution."""
        return [any(entry[i] is not None for entry in self.stack) for i in range(parameters)]
