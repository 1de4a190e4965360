"""One global step, as the user's loop sees it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from holdtrue.engine import Optimizer, RoundResult
from holdtrue.errors import UsageError

if TYPE_CHECKING:
    from ._feed import Feed
    from ._run import Run


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

    def __init__(self, run: Run, feed: Feed, *, index: int, epoch: int) -> None:
        self._run, self._feed = run, feed
        self._index, self._epoch = index, epoch
        self._rounds = 0
        self._iterating = False
        self._reduced = False
        self._skipping = False
        self._result: RoundResult | None = None
        self.first_result: RoundResult | None = None
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
        return self._passes()

    def _passes(self) -> Iterator[Any]:
        engine = self._run.engine
        self._iterating = True
        self._result = None
        counts = self._feed.counts
        engine.begin_round(step=self._index, round_=self._rounds, counts=counts)
        for v in engine.nodes(counts):
            batch = self._feed.batch(v) if self._rounds == 0 else self._feed.again(v)
            engine.open_pass(v, self._run.fingerprint(batch))
            yield batch
            engine.close_pass()
        self._result = self._run.finish_round(self)
        if self._rounds == 0:
            self.first_result = self._result
        self._skipping = self._run.must_skip(self, self._result)
        self._iterating = False
        self._reduced = True

    def backward(self, loss: torch.Tensor, weight: float | torch.Tensor | None = None) -> None:
        """Run the backward of one pass.

        Args:
            loss: Mean loss over the pass's own items: one number with a gradient.
            weight: Number of items that the loss is the mean of, such as non-padding tokens; a number or a
                tensor of one element. Examples of the pass by default. 0 leaves the pass out.

        Raises:
            UsageError: the pass has had its backward, or none is open; the loss or weight is no such number.
        """
        self._run.engine.backward(loss, weight)

    def sum(self, **values: float | torch.Tensor) -> None:
        """Add to totals over the whole step, to be read as `step.totals` after the passes.

        Args:
            values: Numbers of this pass by name, such as `correct=(logits.argmax(-1) == y).sum()`.
        """
        for name, value in values.items():
            self._run.engine.add_total(name, value)

    def update(self, *optimizers: Optimizer, max_grad_norm: float | None = None) -> None:
        """Clip, then step optimizers and their schedulers: local, once per round, the same everywhere.

        Args:
            optimizers: Those to step; all prepared ones by default.
            max_grad_norm: Largest total norm of the gradients of these optimizers' parameters.

        Raises:
            UsageError: the passes of this round are not all done, or an optimizer was not prepared.
        """
        if not self._reduced:
            when = "in the middle of its passes" if self._iterating else "before its passes"
            raise UsageError(
                f"step.update was called {when} in step {self._index}; it needs the gradient of the whole global batch. "
                f"Call it after the `for ... in step` loop has ended by itself (without break)."
            )
        state = self._run.state
        strangers = [o for o in optimizers if not any(o is known for known in state.optimizers)]
        if strangers:
            raise UsageError(
                f"step.update was given a {type(strangers[0]).__name__} that was not prepared; its state would be lost on "
                f"resume. Pass it to run.prepare with its model."
            )
        if self._skipping:
            self._run.engine.discard()
        else:
            self.grad_norm = self._run.engine.update(optimizers or state.optimizers, max_grad_norm)
        self._rounds += 1
        self._reduced = False
