"""What a round gives, and what a worker has of the one that is open."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import torch

from holdtrue.mapping import Mapping, Tree, prune_tree

from ._gradients import Leaf
from ._numbers import checked_weight

OrderFunction = Callable[[Mapping], Tree]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundResult:
    """What a round gives besides gradients; the same on every worker."""

    loss: float
    """Weighted mean loss over all virtual nodes; NaN if no virtual node has weight."""
    losses: dict[int, float]
    """Loss of each virtual node with weight."""
    fingerprints: dict[int, int]
    """Input fingerprint of each virtual node that ran; 0 where inputs are not traced."""
    totals: dict[str, float]
    """Sums of `step.sum` over all virtual nodes."""
    notices: list[bytes]
    """The run's own words of each worker, by rank."""

    @property
    def non_finite(self) -> list[int]:
        """Virtual nodes whose loss is not a finite number."""
        return [v for v, loss in self.losses.items() if not math.isfinite(loss)]


@dataclass(slots=True, kw_only=True)
class OpenPass:
    """The pass that is open on this worker."""

    virtual_node: int
    examples: int
    backward_done: bool = False
    leaf: Leaf | None = None
    """Gradients after the backward; None for an absent leaf."""
    merged: int = 0
    """1 if they are already added to the sum before them."""


@dataclass(slots=True, kw_only=True)
class Round:
    """What this worker has of the round so far."""

    step: int
    round_: int
    counts: Sequence[int]
    nodes: tuple[int, ...]
    unit_examples: int
    """Examples of weight 1 in means of buffers: those of every pass if they are all alike, else 1."""
    losses: dict[int, float | torch.Tensor] = field(default_factory=dict)
    weights: dict[int, float | torch.Tensor] = field(default_factory=dict)
    fingerprints: dict[int, int] = field(default_factory=dict)
    totals: dict[str, dict[int, float | torch.Tensor]] = field(default_factory=dict)
    continues: bool = False
    """Whether it goes on after a loss, from sums that were kept: everything is sent at the end."""


@lru_cache(maxsize=32)
def pruned_tree(order: OrderFunction, mapping: Mapping, active: frozenset[int]) -> Tree:
    """The order of a round in which the virtual nodes `active` have examples."""
    tree = prune_tree(order(mapping), active)
    assert tree is not None, "a step has at least one example"
    return tree


def weight_of_pass(weight: float | torch.Tensor, step: int, virtual_node: int) -> float | torch.Tensor:
    """The weight of a pass as a number, or as a float64 tensor where it lies on a device and is not to be read.

    Raises:
        UsageError: it is negative, or no number.
    """
    if isinstance(weight, torch.Tensor) and weight.numel() == 1 and weight.device.type != "cpu":
        return weight.detach().double().reshape(())
    return checked_weight(
        weight,
        what=f"the weight of virtual node {virtual_node} in step {step}",
        way_out="Pass the number of examples or tokens that the loss is the mean of.",
    )
