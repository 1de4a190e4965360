"""What Lightning takes for a train loader: its batches are the steps of the run."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import torch

from holdtrue.errors import UsageError
from holdtrue.run import Step

if TYPE_CHECKING:
    from ._strategy import VirtualNodeStrategy

ENDLESS_EPOCHS = 1_000_000
"""Epochs of a Trainer that has no bound."""


def count_epochs(trainer: Any, steps_in_epoch: int) -> int:  # Any: Lightning's Trainer
    """Epochs that a Trainer may come to, for a loop that it leaves by itself."""
    loop = trainer.fit_loop
    if loop.max_epochs is not None and loop.max_epochs >= 0:
        return int(loop.max_epochs)
    return math.ceil(loop.max_steps / max(1, steps_in_epoch)) if loop.max_steps > 0 else ENDLESS_EPOCHS


class StepLoader:
    """The steps of one `run.steps` call over all epochs, epoch by epoch.

    One call, because what Lightning does between two epochs is then inside a loop of the run: a worker that joins
    goes on in the middle of it. An epoch that Lightning cuts short (limit_train_batches, a hook that returns -1) ends
    the call, and the next epoch is another one, which finds its place by the calls before it.

    Args:
        strategy: Where the run is.
        loader: The module's own DataLoader.

    Raises:
        UsageError: it is no DataLoader over data with a length.
    """

    def __init__(self, strategy: VirtualNodeStrategy, loader: Any) -> None:  # Any: checked here
        if not isinstance(loader, torch.utils.data.DataLoader) or not hasattr(loader.sampler, "__len__"):
            raise UsageError(
                f"the train loader is a {type(loader).__name__} without a sampler of known length; steps of an epoch are counted "
                f"before it begins. Return one DataLoader over a map-style data set."
            )
        self._strategy, self._loader = strategy, loader
        self._steps: Iterator[Step] | None = None
        self._next: Step | None = None
        """A step that was begun, and that Lightning has not asked for yet."""
        self._done = 0
        """Steps of the present epoch that Lightning has taken."""

    def __len__(self) -> int:
        examples, batch = len(self._loader.sampler), self._strategy.run.plan.global_batch_size  # type: ignore[arg-type]
        return examples // batch if self._loader.drop_last else -(-examples // batch)

    def __iter__(self) -> Iterator[Step]:
        if self._steps is None:
            self._begin()
        elif self._next is None:  # else the epoch is one that Lightning begins with a step that is there
            if self._done < len(self):
                self._close()
                self._open(0)
            self._done = 0
        return self._epoch()

    def _begin(self) -> None:
        """Begin training, or take it up where the others are: before Lightning calls the hooks of its beginning."""
        strategy, trainer = self._strategy, self._strategy.lightning_module.trainer
        strategy.hand_over()
        strategy.keep_sigterm()
        self._done = trainer.global_step % max(1, len(self))
        # Each call before had a step at least; epochs that are cut short are more than the whole ones in as many steps.
        for _ in range(max(1, trainer.fit_loop.max_steps, count_epochs(trainer, len(self)))):
            self._open(trainer.global_step)
            if isinstance(self._steps, Generator):
                break  # else it is a call that was over before this worker came
        assert strategy.record is not None
        strategy.record.reopen_epoch()

    def _open(self, first_step: int) -> None:
        strategy, trainer = self._strategy, self._strategy.lightning_module.trainer
        self._steps = strategy.run.steps(
            self._loader,
            epochs=count_epochs(trainer, len(self)),
            drop_last=self._loader.drop_last,
            first_step=first_step,
        )
        with strategy.leaving_if_it_raises():
            self._next = next(self._steps, None)

    def _epoch(self) -> Iterator[Step]:
        strategy, trainer = self._strategy, self._strategy.lightning_module.trainer
        assert strategy.record is not None
        while (step := self._take()) is not None:
            done = strategy.record.settle()
            self._done = self._done if done is None else done
            if step.index != trainer.global_step:
                raise UsageError(
                    f"the run goes on at step {step.index} and Lightning at {trainer.global_step}; its checkpoint was written in "
                    f"the middle of an epoch that was cut short. Resume with all train batches, or at the end of an epoch."
                )
            self._done += 1
            strategy.follow_main()
            strategy.taken = step
            yield step
            strategy.taken = None

    def _take(self) -> Step | None:
        step, self._next = self._next, None
        if step is not None:
            return step
        assert self._steps is not None
        with self._strategy.leaving_if_it_raises():
            return next(self._steps, None)

    def finish(self) -> None:
        """Close the last step that Lightning took."""
        if self._steps is None:
            return
        trainer = self._strategy.lightning_module.trainer
        has_all = trainer.fit_loop.epoch_progress.current.processed >= count_epochs(trainer, len(self))
        if has_all and self._done == len(self) and next(self._steps, None) is None:
            self._steps = None
            return
        self._close()

    def _close(self) -> None:
        steps, self._steps, self._next = self._steps, None, None
        if isinstance(steps, Generator):
            steps.close()
