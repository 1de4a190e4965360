"""The part of the reduction that one worker does alone: a stack of sums that grows and merges as passes end."""

from collections.abc import Collection, Mapping, Sequence

import torch

from holdtrue.mapping import Tree, merges_after

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
    """

    def __init__(self, contributions: Collection[Tree]) -> None:
        self._merges: Mapping[int, int] = merges_after(contributions)
        self.stack: list[Gradients] = []

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
        self.stack.append(gradients)
        for _ in range(self._merges[virtual_node] - merged):
            right = self.stack.pop()
            self.stack[-1] = add_gradients(self.stack[-1], right)

    def present(self, parameters: int) -> Sequence[bool]:
        """Which parameters have a gradient in some contribution."""
        return [any(entry[i] is not None for entry in self.stack) for i in range(parameters)]
