"""One global step, as the user's loop sees it."""

from __future__ import annotations

import hashlib
import sys
import threading
import weakref
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils import _pytree as pytree

from holdtrue.engine import Optimizer, RoundResult, has_gradient
from holdtrue.errors import HoldtrueError, UsageError

from ._checks import norm_above_zero
from ._elastic import Regrouped

if TYPE_CHECKING:
    from ._core import Core
    from ._loop import Loop


class Step:
    """One global batch: iterate over this worker's passes, then update.

        for step in run.steps(train_set):
            for x, y in step:
                loss = F.cross_entropy(model(x), y)
                step.backward(loss)
            step.update(max_grad_norm=1.0)

    The inner loop ends when the exchange is complete: then every worker holds the gradient of the whole
    global batch, and what follows is local and runs once per step on every worker. Code inside the inner
    loop runs once per pass: keep totals there with `step.sum`.
    """

    def __init__(self, core: Core, loop: Loop, *, index: int, epoch: int) -> None:
        self._core, self._loop = core, loop
        self._index, self._epoch = index, epoch
        self._rounds = 0
        self._iterating = False
        self._reduced = False
        self._skipping = False
        self._result: RoundResult | None = None
        self._round: object = None
        """The engine's round that the latest loop over the passes opened."""
        self._with_gradient: list[Optimizer] = []
        """Optimizers for which the passes left a gradient."""
        self._schedules: list[int | None] = []
        """Where the prepared schedulers stood when the script could last step them itself."""
        self.first_result: RoundResult | None = None
        self.has_failed = False
        self.grad_norm: float | None = None
        """Norm of the gradient before clipping; None without `max_grad_norm`."""

    @property
    def index(self) -> int:
        """Number of the step in the run, from 0."""
        return self._index

    @property
    def epoch(self) -> int:
        """Number of the epoch in the run, from 0."""
        return self._epoch

    @property
    def loss(self) -> float:
        """Weighted mean loss over the whole step, the same on every worker; of the latest round.

        Raises:
            UsageError: the passes are not done yet.
        """
        return self._results("step.loss").loss

    @property
    def totals(self) -> dict[str, float]:
        """What `step.sum` added up over all virtual nodes, the same on every worker; of the latest round.

        Raises:
            UsageError: the passes are not done yet.
        """
        return self._results("step.totals").totals

    def _results(self, what: str) -> RoundResult:
        if self._result is None:
            raise UsageError(
                f"{what} was read in step {self._index} before its passes were done; it is a value of the whole step. "
                f"Read it after the `for ... in step` loop."
            )
        return self._result

    @property
    def is_begun(self) -> bool:
        """Whether a loop over its passes began."""
        return self._rounds > 0 or self._iterating or self._reduced

    @property
    def is_updated(self) -> bool:
        """Whether a round was closed by `update` and none is open."""
        return self._rounds > 0 and not self._iterating and not self._reduced

    def __iter__(self) -> Iterator[Any]:
        """This worker's passes: the batch of each of its virtual nodes, on the device.

        Blocks:
            At the end, until every worker has finished its passes, at most the group's time-out.
        """
        if self._reduced:
            raise UsageError(
                f"a second loop over step {self._index} began before step.update; its gradients would be added to the first "
                f"loop's. Call step.update(optimizer) after each loop over the passes."
            )
        if self._iterating:
            raise UsageError(
                f"a loop over the passes of step {self._index} began while another was open; every pass must run once. "
                f"Let the first loop come to its end."
            )
        return self._guarded_passes()

    def _guarded_passes(self) -> Iterator[Any]:
        """The passes; however the loop over them is left, the user's random streams are the user's again."""
        try:
            yield from self._passes()
        except BaseException:
            # A break too: it closes the generator, perhaps late, when another round is open.
            engine = self._core.engine
            if not sys.is_finalizing() and self._round is not None and engine.round is self._round:
                engine.streams.restore()
            raise

    def _passes(self) -> Iterator[Any]:
        engine, feed = self._core.engine, self._core.feed
        assert feed is not None, "a step belongs to a loop, which has a feed"
        self._iterating = True
        self._result = None
        counts = feed.counts
        self._core.take_up_mapping()
        engine.begin_round(step=self._index, round_=self._rounds, counts=counts)
        self._round = engine.round
        engine.streams.save()
        feed.begin_passes()
        for v in engine.nodes(counts):
            yield from self._one_pass(v, feed.batch(v) if self._rounds == 0 else feed.again(v))
        try:
            while self._result is None:
                try:
                    self._result = self._loop.finish_round(self)
                except Regrouped:
                    engine.streams.save()
                    for v in self._core.take_up_mapping():
                        yield from self._one_pass(v, feed.again(v))
            if self._rounds == 0:
                self.first_result = self._result
            self._skipping = self._loop.must_skip(self, self._result)
        except HoldtrueError:
            self.has_failed = True
            raise
        self._iterating = False
        self._reduced = True
        self._schedules = self._read_schedules()
        self._with_gradient = [o for o in self._core.state.optimizers if has_gradient(o)]

    def _one_pass(self, virtual_node: int, batch: Any) -> Iterator[Any]:  # Any: the user's batch
        engine, mark = self._core.engine, self._core.mark
        mark.enter(self._index, self._rounds, virtual_node)
        engine.open_pass(virtual_node, fingerprint_batch(batch) if self._core.settings.trace else 0)
        if engine.numerics.is_portable:
            with engine.numerics.around_pass():
                yield batch
        else:
            yield batch
        engine.close_pass()
        mark.leave()

    def backward(self, loss: torch.Tensor, weight: float | torch.Tensor | None = None) -> None:
        """Run the backward of one pass.

        Args:
            loss: Mean loss over the pass's own items: one number with a gradient.
            weight: Number of items that the loss is the mean of, such as non-padding tokens; a number or a
                tensor of one element. Examples of the pass by default. 0 leaves the pass out.

        Raises:
            UsageError: the pass has had its backward, or none is open; the loss or weight is no such number.
        """
        self._core.engine.backward(loss, weight)

    def sum(self, **values: float | torch.Tensor) -> None:
        """Add to totals over the whole step, to be read as `step.totals` after the passes.

        Args:
            values: Numbers of this pass by name, such as `correct=(logits.argmax(-1) == y).sum()`.
        """
        for name, value in values.items():
            self._core.engine.add_total(name, value)

    def update(self, *optimizers: Optimizer, max_grad_norm: float | None = None) -> None:
        """Clip, then step optimizers and their schedulers: once per round, the same everywhere; local, but for unlike
        devices in one job.

        Args:
            optimizers: Those to step; all prepared ones by default.
            max_grad_norm: Largest total norm of the gradients of these optimizers' parameters.

        Raises:
            UsageError: the passes of this round are not all done, an optimizer was not prepared, the norm is not above 0, the
                gradients were cleared after the passes, or one is not of the whole global batch.
        """
        largest = norm_above_zero(max_grad_norm)
        if not self._reduced:
            when = "in the middle of its passes" if self._iterating else "before its passes"
            if self._rounds and not self._iterating:
                when = "again without passes in between"
            raise UsageError(
                f"step.update was called {when} in step {self._index}; it needs the gradient of the whole global batch. "
                f"Call it after the `for ... in step` loop has ended by itself (without break)."
            )
        state = self._core.state
        strangers = [o for o in optimizers if not any(o is known for known in state.optimizers)]
        if strangers:
            raise UsageError(
                f"step.update was given a {type(strangers[0]).__name__} that was not prepared; its state would be lost on "
                f"resume. Pass it to run.prepare with its model."
            )
        self.check_schedules()
        stepped = optimizers or tuple(state.optimizers)
        if lost := [o for o in stepped if o in self._with_gradient and not has_gradient(o)]:
            raise UsageError(
                f"no parameter of {type(lost[0]).__name__} has a gradient any more in step {self._index}; the update would "
                f"change nothing. Leave optimizer.zero_grad() out: each loop over the passes begins without gradients."
            )
        if strange := self._core.engine.unreduced(stepped):
            raise UsageError(
                f"parameter {strange[0]} has a gradient in step {self._index} that is not of the whole global batch: when the "
                f"loop over the passes began, it was frozen or in no prepared model, and workers would part. Thaw it, or give it "
                f"to its model, before the `for ... in step` loop; or set its .grad to None."
            )
        if self._skipping:
            self._core.engine.skip_update()
        else:
            self._core.is_updating = True
            try:
                grad_norm = self._core.engine.update(stepped, largest)
            finally:
                self._core.is_updating = False
            self.grad_norm = self._core.unlike.unify_update(grad_norm)
        self._rounds += 1
        self._reduced = False
        self._schedules = self._read_schedules()

    def check_schedules(self) -> None:
        """Look whether the script has stepped a prepared scheduler after the passes, as a plain loop does.

        Raises:
            UsageError: it has.
        """
        schedulers = self._core.state.schedulers
        for scheduler, was, now in zip(schedulers, self._schedules, self._read_schedules(), strict=True):
            if was != now:
                raise UsageError(
                    f"{type(scheduler).__name__}.step() was called in step {self._index}; step.update steps the schedulers with "
                    f"their optimizers, and the schedule would run twice as fast. Leave scheduler.step() out, or do not give "
                    f"the scheduler to run.prepare and register it with run.register."
                )

    def _read_schedules(self) -> list[int | None]:
        # One that waits for a metric is the script's to step. A chain of schedulers counts none of its own.
        return [
            None if isinstance(each, ReduceLROnPlateau) else getattr(each, "last_epoch", None)
            for each in self._core.state.schedulers
        ]


_here = threading.local()
"""Its `run` is a weak reference to the run of this thread: optimizers may outlive it."""


def refuse_own_steps(core: Core) -> None:
    """Let `optimizer.step()` be refused where the script itself calls it in a step of this run.

    Of a prepared optimizer it would be a second update. One that is not prepared, and steps once more after passes have
    given its parameters gradients, steps by those of this worker's passes alone. What a script trains on the side, within a pass
    or an evaluation too, is its own.
    """
    _here.run = weakref.ref(core)
    _watch_steps()


@cache
def _watch_steps() -> None:
    # Once for all runs: to take a hook out while another thread's optimizer goes through them would break its loop.
    register_optimizer_step_pre_hook(_refuse_own_step)


def _refuse_own_step(own: Optimizer, *_: object) -> None:
    core: Core | None = _here.run() if hasattr(_here, "run") else None
    if core is None or core.open_step is None or core.is_updating:
        return
    name = type(own).__name__
    if any(own is o for o in core.state.optimizers):
        raise UsageError(
            f"{name}.step() was called in step {core.open_step}; step.update steps the optimizers, once "
            f"the gradient is that of the whole global batch, and another step would change the weights again. Leave "
            f"optimizer.step() out, and call step.update() after the `for ... in step` loop."
        )
    if (
        any(own is o for o in core.state.registered.values())
        or core.is_inferring
        or core.engine.open is not None
    ):
        return
    if own not in core.strangers:
        core.strangers[own] = []
        _watch_gradients(own, core, core.strangers[own])
    elif core.strangers[own]:
        raise UsageError(
            f"{name}.step() was called in step {core.open_step}, and this {name} was not prepared; the passes of step "
            f"{core.strangers[own][0]} gave its parameters gradients, those of this worker's passes alone, and its state would "
            f"be lost on resume. Pass it to run.prepare with the module that owns its parameters, and let step.update step "
            f"it; where its gradients are equal on all workers, run.register it."
        )


def _watch_gradients(own: Optimizer, core: Core, seen: list[int]) -> None:
    """Note the steps in whose passes parameters of `own` get gradients."""
    known = weakref.ref(core)

    def note(_: torch.Tensor) -> None:
        core = known()
        if core is not None and core.open_step is not None and core.engine.open is not None:
            seen[:] = [core.open_step]

    for group in own.param_groups:
        for p in group["params"]:
            if p.requires_grad and p.is_leaf:
                p.register_post_accumulate_grad_hook(note)


def fingerprint_batch(batch: Any) -> int:  # Any: the user's batch
    """64-bit hash of everything in a batch: tensors by their bits, the rest by its text."""
    found = hashlib.blake2b(digest_size=8)
    for leaf in pytree.tree_leaves(batch):
        if isinstance(leaf, torch.Tensor):
            found.update(f"{leaf.dtype}{tuple(leaf.shape)}".encode())
            found.update(leaf.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        else:
            found.update(repr(leaf).encode())
    return int.from_bytes(found.digest(), "little")
