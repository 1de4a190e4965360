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
    free = 100 * devices - sum(_share(job, max(job.held, job.target)) for job in jobs if job.is_running)
    for job in jobs:
        if job.is_ending or job.wanted <= (job.target if job.is_running else 0):
            continue
        if job.is_running and not job.can_change:
            continue
        more = _share(job, job.wanted) - (_share(job, max(job.held, job.target)) if job.is_running else 0)
        if more <= free:
            free -= max(0, more)
            orders.append(
                Order(number=job.number, what="resize" if job.is_running else "start", devices=job.wanted)
            )
    return tuple(orders)


def _give_back(job: Standing) -> Order | None:
    if not job.is_running or not job.can_change or job.is_ending or job.wanted >= job.target:
        return None
    return Order(number=job.number, what="resize" if job.wanted else "stop", devices=job.wanted)


def _share(job: Standing, devices: int) -> int:
    return devices * job.percent
