"""From what was decided to what is done next: shrink first, and give only what is free. Pure.

A decision holds at once; devices change hands when the processes that drive them have ended. So orders are made anew
at every look, from what was decided and what is there: whatever was lost on the way is ordered again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One job that waits or runs."""

    number: int
    wanted: int
    """Devices that the last decision gives it; 0 for none."""
    percent: int = 100
    """Per cent of one device, for a job of a part."""
    slot: int = -1
    """Which shared device, for a job of a part; -1 for one that runs on nobody knows which: it counts as one of its own."""
    is_running: bool = False
    """Its processes live, or may."""
    target: int = 0
    """Devices that it was last told to have."""
    held: int = 0
    """Devices that its processes drive now, those that are about to leave included."""
    can_change: bool = False
    """Its controller answers, and it is neither ending nor over."""
    is_ending: bool = False
    """It was asked to end."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One thing to do."""

    number: int
    what: Literal["start", "resize", "stop"]
    devices: int


def plan_orders(devices: int, jobs: Sequence[Standing]) -> tuple[Order, ...]:
    """What to do next.

    Args:
        devices: Devices that exist.
        jobs: Jobs that are not over, in order of arrival.

    Returns:
        Orders that can be carried out at once: at no time do jobs hold more devices than exist.

    >>> grows = Standing(number=1, wanted=2, is_running=True, target=1, held=1, can_change=True)
    >>> leaves = Standing(number=2, wanted=0, is_running=True, target=1, held=1, can_change=True)
    >>> plan_orders(2, [grows, leaves])
    (Order(number=2, what='stop', devices=0),)
    """
    orders = [order for job in jobs if (order := _give_back(job)) is not None]
    free = _Free(devices, [job for job in jobs if job.is_running])
    for job in jobs:
        if job.is_ending or job.wanted <= (job.target if job.is_running else 0):
            continue
        if job.is_running and not job.can_change:
            continue
        if free.take(job):
            what: Literal["resize", "start"] = "resize" if job.is_running else "start"
            orders.append(Order(number=job.number, what=what, devices=job.wanted))
    return tuple(orders)


def _give_back(job: Standing) -> Order | None:
    if not job.is_running or not job.can_change or job.is_ending or job.wanted >= job.target:
        return None
    return Order(number=job.number, what="resize" if job.wanted else "stop", devices=job.wanted)


class _Free:
    """Account of the devices that no process drives, and of what is free of shared ones; lives within one plan."""

    def __init__(self, devices: int, running: Sequence[Standing]) -> None:
        self.parts: dict[int, int] = {}
        lost = 0
        for job in running:
            if job.percent < 100 and job.slot < 0:
                lost += 1
            elif job.percent < 100:
                self.parts[job.slot] = self.parts.get(job.slot, 0) + job.percent
        whole = sum(max(job.held, job.target) for job in running if job.percent == 100)
        self.whole = devices - whole - lost - len(self.parts)

    def take(self, job: Standing) -> bool:
        """Whether what the job wants is free; then it is taken."""
        if job.percent < 100:
            used = self.parts.get(job.slot, 0)
            if used + job.percent > 100 or (not used and self.whole < 1):
                return False
            self.parts[job.slot] = used + job.percent
            self.whole -= not used
            return True
        more = job.wanted - (max(job.held, job.target) if job.is_running else 0)
        if more > self.whole:
            return False
        self.whole -= max(0, more)
        return True
