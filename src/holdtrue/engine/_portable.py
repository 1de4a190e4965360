"""Portable numerics around passes, inference and updates; at the other levels nothing happens here."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager

from holdtrue.numerics import close_initial, portable_mode, steady_optimizer, steady_scheduler
from holdtrue.plan import NumericsLevel
from holdtrue.wire import SURVEY_VARIABLE

from ._state import Optimizer, TrainingState


class PassNumerics:
    """The contexts that a level asks for.

    Args:
        level: The plan's.
        state: Its models give refusals their names.
    """

    def __init__(self, level: NumericsLevel, state: TrainingState) -> None:
        self.is_portable, self._state = level == "portable", state
        self._told: set[tuple[str, str]] = set()

    def begin_training(self) -> None:
        """The model is built: outside passes, arithmetic is torch's own from here on."""
        close_initial()

    @contextmanager
    def around_pass(self) -> Iterator[None]:
        """A pass, or one batch of `evaluate` or `predict`: random streams are set before, and draws go on from there."""
        if not self.is_portable:
            yield
            return
        with self._mode():
            yield

    @contextmanager
    def around_update(self, optimizers: Sequence[Optimizer]) -> Iterator[None]:
        """Clipping, optimizers and their schedulers."""
        if not self.is_portable:
            yield
            return
        with ExitStack() as stack:
            stack.enter_context(self._mode())
            for optimizer in optimizers:
                stack.enter_context(steady_optimizer(optimizer))
            for scheduler in self._state.schedulers:
                stack.enter_context(steady_scheduler(scheduler))
            yield

    def _mode(self) -> AbstractContextManager[None]:
        survey = self._survey if os.environ.get(SURVEY_VARIABLE) else None
        return portable_mode(models=self._state.named_models(), survey=survey)

    def _survey(self, operator: str, module: str, sentence: str) -> None:
        """Write an operator that is not covered to the survey's file, once for each module."""
        if (operator, module) in self._told:
            return
        self._told.add((operator, module))
        line = json.dumps({"operator": operator, "module": module, "sentence": sentence})
        with open(os.environ[SURVEY_VARIABLE], "a") as file:
            file.write(line + "\n")
