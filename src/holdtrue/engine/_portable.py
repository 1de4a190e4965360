"""Portable numerics around passes, inference and updates; at the other levels nothing happens here."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from holdtrue.numerics import portable_mode, steady_optimizer, steady_scheduler
from holdtrue.plan import NumericsLevel

from ._state import Optimizer, TrainingState


class PassNumerics:
    """The contexts that a level asks for.

    Args:
        level: The plan's.
        state: Its models give refusals their names.
    """

    def __init__(self, level: NumericsLevel, state: TrainingState) -> None:
        self._is_portable, self._state = level == "portable", state

    @contextmanager
    def around_pass(self) -> Iterator[None]:
        """A pass, or one batch of `evaluate` or `predict`: random streams are set before, and draws go on from there."""
        if not self._is_portable:
            yield
            return
        with portable_mode(models=self._state.named_models()):
            yield

    @contextmanager
    def around_update(self, optimizers: Sequence[Optimizer]) -> Iterator[None]:
        """Clipping, optimizers and their schedulers."""
        if not self._is_portable:
            yield
            return
        with ExitStack() as stack:
            stack.enter_context(portable_mode(models=self._state.named_models()))
            for optimizer in optimizers:
                stack.enter_context(steady_optimizer(optimizer))
            for scheduler in self._state.schedulers:
                stack.enter_context(steady_scheduler(scheduler))
            yield
