"""How long this worker's passes take: two readings of a clock in every round, on from the first step.

A pass is counted from the reading of its batch to its place in the sum of gradients, since all of that is
what one more virtual node costs. The exchange and the update are outside.
"""

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import ClassVar, Protocol, final

import torch

from holdtrue.reduce import Group

RECENT_STEPS = 6
"""Steps that an estimate looks back on: even, so that a device that is fast and slow in turn has one value."""


class PassTimer(ABC):
    """Told by the engine when the passes of a round begin and end."""

    lag: ClassVar[int] = 0
    """Steps after which a step's time is known."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=RECENT_STEPS)
        self._step = -1
        self._open_s = 0.0
        """Seconds of one virtual node in the rounds of the present step."""

    @abstractmethod
    def begin(self, step: int, passes: int) -> None:
        """The passes of a round begin.

        Args:
            step: Index of the step; its rounds count together.
            passes: Passes of this worker in the round, 0 for a standby.
        """

    @abstractmethod
    def end(self) -> None:
        """The last pass of the round has its gradient; nothing was waited for yet. A second call does nothing."""

    def _add(self, step: int, seconds: float) -> None:
        """Count one round's seconds of a virtual node."""
        if step != self._step:
            if self._open_s:
                self._recent.append(self._open_s)
            self._step, self._open_s = step, 0.0
        self._open_s += seconds

    @property
    def pass_s(self) -> float | None:
        """Seconds of one virtual node in a step, the median of the latest steps; None before the first.

        Where a step has several rounds, of all of them together.
        """
        values = sorted([*self._recent, self._open_s][-RECENT_STEPS:] if self._open_s else self._recent)
        if not values:
            return None
        return (values[(len(values) - 1) // 2] + values[len(values) // 2]) / 2

    def seconds_of(self, step: int) -> float | None:
        """Seconds of one virtual node in `step`, of all its rounds up to now; None where this worker ran no pass in it.

        On CUDA, whose events are read a round later, those of the step before stand for it, complete.
        """
        if self.lag and self._step == step:  # of this one the last round is still to come
            return self._recent[-1] if self._recent else None
        return self._open_s if self._open_s and self._step >= step - self.lag else None


@final
class HostTimer(PassTimer):
    """By the host's clock: for devices on which a call returns when its work is done."""

    def __init__(self) -> None:
        super().__init__()
        self._at_s = 0.0
        self._passes = 0
        self._of = -1

    def begin(self, step: int, passes: int) -> None:
        """See `PassTimer.begin`."""
        self._of, self._passes = step, passes
        self._at_s = time.perf_counter()

    def end(self) -> None:
        """See `PassTimer.end`."""
        if self._passes:
            self._add(self._of, (time.perf_counter() - self._at_s) / self._passes)
            self._passes = 0


@final
class CudaTimer(PassTimer):
    """By events in the device's stream, read a round later: nothing waits for them."""

    lag: ClassVar[int] = 1

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device
        self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        self._passes = 0
        self._of = -1
        self._is_open = False

    def begin(self, step: int, passes: int) -> None:
        """See `PassTimer.begin`."""
        if self._passes and all(event.query() for event in self._events):
            self._add(self._of, self._events[0].elapsed_time(self._events[1]) / 1e3 / self._passes)
        self._of, self._passes = step, passes
        self._events[0].record(torch.cuda.current_stream(self._device))
        self._is_open = True

    def end(self) -> None:
        """See `PassTimer.end`."""
        if self._is_open:  # a round that goes on after a loss ends twice, and has waited in between
            self._is_open = False
            self._events[1].record(torch.cuda.current_stream(self._device))


class TimerFactory(Protocol):
    """Makes the timer of an engine."""

    def __call__(self, device: torch.device, group: Group) -> PassTimer:
        """A timer for passes on `device`, in `group`."""


_factory: ContextVar[TimerFactory | None] = ContextVar("timer_factory", default=None)


@contextmanager
def timed_by(factory: TimerFactory) -> Iterator[None]:
    """Give engines that are built in this context another timer: for `holdtrue profile`."""
    token = _factory.set(factory)
    try:
        yield
    finally:
        _factory.reset(token)


def make_timer(device: torch.device, group: Group) -> PassTimer:
    """The timer of an engine on `device`."""
    factory = _factory.get()
    if factory is not None:
        return factory(device, group)
    return CudaTimer(device) if device.type == "cuda" else HostTimer()
