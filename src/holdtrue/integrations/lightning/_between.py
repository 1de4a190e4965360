"""What Lightning computes between the passes of a run: at level `portable` it has one answer too, else it is as ever.

The run itself sees to passes and updates. Lightning clips, steps schedulers and validates by itself, and what comes of that
decides about weights: a learning rate that follows a metric, a training that stops early.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch.optim.lr_scheduler import LRScheduler

from holdtrue.engine import PassNumerics
from holdtrue.numerics import steady_scheduler


@contextmanager
def stepping(numerics: PassNumerics, schedulers: list[Any]) -> Iterator[None]:  # Any: schedulers of any make
    """Around Lightning's own steps of schedulers."""
    with ExitStack() as stack:
        stack.enter_context(numerics.around_pass())
        for scheduler in schedulers if numerics.is_portable else ():
            if isinstance(scheduler, LRScheduler):
                stack.enter_context(steady_scheduler(scheduler))
        yield


def step_within(numerics: PassNumerics, loop: Any) -> None:  # Any: Lightning's loop over an epoch's batches
    """Have a loop step its schedulers there, for each batch and each epoch."""
    plain = loop.update_lr_schedulers

    def update_lr_schedulers(*args: Any, **kwargs: Any) -> None:  # Any: Lightning's own
        with stepping(numerics, [config.scheduler for config in loop.trainer.lr_scheduler_configs]):
            plain(*args, **kwargs)

    loop.update_lr_schedulers = update_lr_schedulers
