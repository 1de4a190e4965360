"""When to stop the workers, and how hard. Pure: the time is an argument."""

from dataclasses import dataclass, replace
from typing import Literal, final

StopWay = Literal["terminate", "kill"]

FAILURE_GRACE_S = 0.5
"""After a failure, what the other workers have to end by themselves: it may be the same mistake."""
FINISH_GRACE_S = 30.0
"""After the end of the job, what workers have for the rest of their scripts."""
STOP_WAIT_S = 5.0
"""From SIGTERM to SIGKILL after a failure."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StopState:
    """What happened so far; times in seconds of one clock."""

    interrupts: int = 0
    """Ctrl-C and SIGTERM received by the launcher."""
    interrupted_at_s: float | None = None
    failed_at_s: float | None = None
    """Time of the first failure of a worker."""
    finished_at_s: float | None = None
    """When the controller said that the job is over."""
    terminated_at_s: float | None = None
    """When the workers were sent SIGTERM."""
    killed_at_s: float | None = None
    """When they were sent SIGKILL."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StopAction:
    """What to do next to the workers that still live, unless all end before."""

    at_s: float
    way: StopWay
    reason: str


def next_stop(state: StopState, *, interrupt_wait_s: float) -> StopAction | None:
    """The next thing to do to the living workers; None if there is nothing to wait for.

    >>> next_stop(StopState(failed_at_s=10.0), interrupt_wait_s=300)
    StopAction(at_s=10.5, way='terminate', reason='another worker failed')
    """
    if state.killed_at_s is not None:
        return None
    if state.interrupts >= 2:
        return StopAction(at_s=0.0, way="kill", reason="interrupted twice")
    if state.terminated_at_s is None:
        return min(_first_stops(state), key=lambda action: action.at_s, default=None)
    over_s = [at_s for at_s in (state.failed_at_s, state.finished_at_s) if at_s is not None]
    if over_s:
        at_s = max(min(over_s), state.terminated_at_s) + STOP_WAIT_S
        return StopAction(at_s=at_s, way="kill", reason=f"still running {STOP_WAIT_S:.0f} s after SIGTERM")
    at_s = state.terminated_at_s + interrupt_wait_s
    return StopAction(at_s=at_s, way="kill", reason=f"no step boundary within {interrupt_wait_s:.0f} s")


def _first_stops(state: StopState) -> list[StopAction]:
    """Reasons to send SIGTERM, and when."""
    found: list[StopAction] = []
    if state.interrupted_at_s is not None:
        found.append(StopAction(at_s=state.interrupted_at_s, way="terminate", reason="interrupted"))
    if state.failed_at_s is not None:
        at_s = state.failed_at_s + FAILURE_GRACE_S
        found.append(StopAction(at_s=at_s, way="terminate", reason="another worker failed"))
    if state.finished_at_s is not None:
        at_s = state.finished_at_s + FINISH_GRACE_S
        found.append(StopAction(at_s=at_s, way="terminate", reason="the job is over"))
    return found


def count_interrupts(stop: StopState, count: int, now_s: float) -> StopState:
    """The state after so many further interrupts."""
    since_s = now_s if stop.interrupts == 0 else stop.interrupted_at_s
    return replace(stop, interrupts=stop.interrupts + count, interrupted_at_s=since_s)
