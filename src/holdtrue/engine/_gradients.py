"""From `parameter.grad` to a leaf of the tree and back, and buckets that leave while backward runs."""

from collections.abc import Callable, Sequence
from functools import partial

import torch

from holdtrue.errors import NumericsError
from holdtrue.reduce import Bucket, widened_dtype

Leaf = list[torch.Tensor | None]


class GradientTaker:
    """Takes gradients off parameters after a pass, and puts the reduced ones on.

    Args:
        named: Parameters that need gradients, with their names.
    """

    def __init__(self, named: Sequence[tuple[str, torch.nn.Parameter]]) -> None:
        self.names = [name for name, _ in named]
        self.parameters = [p for _, p in named]
        self._lent: Leaf = []
        self._expected: list[int | None] = []
        """Version of each tensor that was lent, once it has been added to."""
        self._on_cpu = all(p.device.type == "cpu" for p in self.parameters)
        self.is_plain = all(p.dtype in (torch.float32, torch.float64) for p in self.parameters)

    def take(self) -> Leaf:
        """Every parameter's gradient in the widened dtype; the parameters are left without."""
        leaf: Leaf = [p.grad for p in self.parameters]
        for p in self.parameters:
            p.grad = None
        return leaf if self.is_plain else [None if g is None else widen(g) for g in leaf]

    def lend(self, entry: Leaf) -> None:
        """Make a sum the parameters' gradient, so that the next backward adds to it."""
        self._lent = entry
        self._expected = [None if g is None else g._version + 1 for g in entry]
        for p, g in zip(self.parameters, entry, strict=True):
            p.grad = g

    def is_filled(self, index: int) -> bool:
        """Whether the present backward has reached a parameter."""
        gradient = self.parameters[index].grad
        expected = self._expected[index] if self._lent else None
        return gradient is not None and (expected is None or gradient._version >= expected)

    def shares_memory(self) -> bool:
        """Whether two parameters' gradients are views of one tensor."""
        there = [p.grad for p in self.parameters if p.grad is not None and p.grad.layout == torch.strided]
        return len({g.untyped_storage()._cdata for g in there}) < len(there)

    def take_back(self) -> None:
        """Make sure, before `take`, that what was lent was added to once.

        Raises:
            NumericsError: a parameter got its gradient in two parts.
        """
        lent, self._lent = self._lent, []
        versions = [None if g is None else g._version for g in lent]
        if not lent or versions == self._expected:
            return
        for name, version, expected in zip(self.names, versions, self._expected, strict=True):
            if version is not None and expected is not None and version > expected:
                raise NumericsError(
                    f"parameter {name!r} got its gradient in {version - expected + 1} parts in one pass, and in the first "
                    f"passes in one; the parts were added in another order than the plan's. Set HOLDTRUE_OVERLAP=0 for a model "
                    f"whose backward changes from step to step."
                )

    def take_one(self, index: int) -> torch.Tensor | None:
        """One parameter's gradient in the widened dtype; the parameter is left without."""
        gradient = self.parameters[index].grad
        self.parameters[index].grad = None
        return gradient if self.is_plain or gradient is None else widen(gradient)

    def refuse_sparse(self) -> None:
        """Refuse gradients that cannot be added element by element.

        Raises:
            NumericsError: a gradient is sparse; the message names the parameter.
        """
        for name, p in zip(self.names, self.parameters, strict=True):
            if p.grad is not None and p.grad.layout != torch.strided:
                raise NumericsError(
                    f"the gradient of {name!r} is sparse ({p.grad.layout}); the reduction adds dense ones. "
                    f"Build the layer with sparse=False."
                )

    def put(self, reduced: Sequence[torch.Tensor | None], present: Sequence[bool], factor: float) -> None:
        """Make `reduced * factor`, rounded once to the parameter's dtype, the parameters' gradients.

        Args:
            reduced: From `OrderedReduce.finish`; its tensors are scaled in place.
            present: Which parameters have a gradient in some pass of some worker; the others get None.
            factor: What the sum is multiplied with.
        """
        there = [g for g, is_there in zip(reduced, present, strict=True) if is_there and g is not None]
        if factor != 1.0 and there:
            torch._foreach_mul_(there, factor)
        for p, gradient, is_there in zip(self.parameters, reduced, present, strict=True):
            if not is_there or gradient is None:
                p.grad = None
            elif self.is_plain and (self._on_cpu or gradient.device == p.device):
                p.grad = gradient
            else:
                p.grad = narrow(gradient, p)

    def clear(self) -> None:
        """Leave all parameters without gradient."""
        for p in self.parameters:
            p.grad = None


def widen(gradient: torch.Tensor) -> torch.Tensor:
    """`gradient` as real numbers in the dtype in which it is added; complex ones get a last axis of 2."""
    real = torch.view_as_real(gradient) if gradient.is_complex() else gradient
    return real.to(widened_dtype(gradient.dtype))


def narrow(gradient: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """The inverse of `widen`, on the parameter's device: one rounding."""
    moved = gradient.to(parameter.device)
    if parameter.is_complex():
        return torch.view_as_complex(moved.contiguous()).to(parameter.dtype)
    return moved.to(parameter.dtype)


WATCHED_PASSES = 16
"""So many passes are watched at most: the gradient that adding in place saves is missed in the first round already."""


class AccumulationWatch:
    """Learns in the first passes of its first round whether each parameter gets its gradient once in a pass.

    Where it does, backward may add a pass's gradient to the sum that it belongs to: the same addition, one
    buffer less. Reentrant checkpointing of a shared layer is a case where it does not: there, adding part by
    part would change the order. Gradients that are views of one tensor, as those of `torch.cat([a, b])`, count their
    versions together, so that additions to one would look like additions to the other: they are not added in place either.
    """

    def __init__(self, taker: GradientTaker) -> None:
        self._taker = taker
        self._counts: list[int] = []
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._passes = 0
        self.is_single: bool | None = None
        """None while the first passes are watched."""

    @property
    def is_counting(self) -> bool:
        """Whether hooks are in."""
        return bool(self._handles)

    def respect_hooks(self) -> None:
        """Stop adding in backward once a parameter has a hook of the user's, which must see its pass alone."""
        if any(p._post_accumulate_grad_hooks for p in self._taker.parameters):
            self.is_single = False

    def open(self) -> None:
        """Start counting before a backward of the first round."""
        self._counts = [0] * len(self._taker.parameters)

        def count(_: torch.Tensor, index: int) -> None:
            self._counts[index] += 1

        for i, p in enumerate(self._taker.parameters):
            if p.requires_grad:  # the pass may have frozen it
                self._handles.append(p.register_post_accumulate_grad_hook(partial(count, index=i)))

    def close(self) -> None:
        """Take the count after that backward."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._passes += 1
        if any(n > 1 for n in self._counts) or self._taker.shares_memory():
            self.is_single = False
        elif self._passes == WATCHED_PASSES:
            self.end_round()

    def end_round(self) -> None:
        """The first round with passes is over: what was seen holds from here on."""
        if self.is_single is None and self._passes:
            self.is_single = self._taker.is_plain


class BackwardOverlap:
    """Offers buckets to the exchange as soon as the last backward has filled them.

    The first round only watches: it learns, for each bucket, which of its parameters is last, and that
    each gets its gradient once. From then on one hook per bucket suffices. A bucket with a parameter that
    got no gradient, or two, is offered after backward, and so are those behind it.
    """

    def __init__(self, taker: GradientTaker, buckets: Sequence[Bucket]) -> None:
        self._taker, self._buckets = taker, buckets
        self._order: list[int] = []
        self._triggers: list[int] | None = None
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._offered = 0

    def open(self, offer: Callable[[int, dict[int, torch.Tensor | None]], None]) -> None:
        """Hang hooks in before the last backward of a round."""
        self._offered = 0
        if self._triggers is None:
            self._order = []
            for i, p in enumerate(self._taker.parameters):
                if p.requires_grad:
                    self._handles.append(
                        p.register_post_accumulate_grad_hook(lambda _, i=i: self._order.append(i))
                    )
            return
        for bucket, trigger in enumerate(self._triggers):

            def leave(_: torch.Tensor, bucket: int = bucket) -> None:
                if bucket != self._offered:
                    return  # out of order: the rest leaves after backward
                indices = [s.parameter for s in self._buckets[bucket].segments]
                if not all(self._taker.is_filled(i) for i in indices):
                    return
                self._offered += 1
                offer(bucket, {i: self._taker.take_one(i) for i in indices})

            if self._taker.parameters[trigger].requires_grad:
                self._handles.append(
                    self._taker.parameters[trigger].register_post_accumulate_grad_hook(leave)
                )

    def close(self) -> None:
        """Take the hooks out after the backward.

        Raises:
            NumericsError: a parameter got another gradient after its bucket had left.
        """
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        if self._triggers is None:
            self._learn()
            return
        for bucket in self._buckets[: self._offered]:
            for segment in bucket.segments:
                if self._taker.parameters[segment.parameter].grad is not None:
                    name = self._taker.names[segment.parameter]
                    raise NumericsError(
                        f"parameter {name!r} received a second gradient in one pass after its bucket had left; in the first "
                        f"step each got one. Set HOLDTRUE_OVERLAP=0 for a model whose backward changes from step to step."
                    )

    def _learn(self) -> None:
        position = {index: at for at, index in enumerate(self._order)}
        triggers = []
        for bucket in self._buckets:
            indices = [s.parameter for s in bucket.segments]
            if any(self._order.count(i) != 1 for i in indices):
                break
            triggers.append(max(indices, key=position.__getitem__))
        self._triggers = triggers
