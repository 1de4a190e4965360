"""Jobs of a part of a device: which of them share one."""

from collections.abc import Sequence
from typing import final

from holdtrue.cluster._state import JobView


@final
class SharedDevices:
    """Account of the devices that parts share, whatever their types; mutable, lives within one decision.

    Guarantee:
        No device is shared beyond its whole.
    """

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left: dict[object, int] = {}

    def __len__(self) -> int:
        return len(self._left)

    def add(self, view: JobView, most: int) -> object | None:
        """Place a job: a running one where it is, another on the fullest device with room, or on one more.

        Args:
            view: A job of a part.
            most: Devices that may be added.

        Returns:
            The device on which it is now; None, and nothing is changed, where there is no room.
        """
        left, percent = self._left, view.job.percent
        device: object | None = None
        if view.grant is not None:
            device = (view.grant.counts[0][0], view.grant.slot)
        else:
            room = [(free, order, key) for order, (key, free) in enumerate(left.items()) if free >= percent]
            device = min(room, key=lambda found: found[:2])[2] if room else ("new", len(left))
        free = left.get(device, 100 if most > 0 else 0)
        if free < percent:
            return None
        left[device] = free - percent
        return device


def group_parts(views: Sequence[JobView]) -> list[list[int]]:
    """Jobs of a part of a device, by the device that they share.

    Args:
        views: Jobs whose `percent` is below 100, in the order in which they are placed.

    Returns:
        For each shared device the places in `views` of its jobs: running ones where they are, others as
        `FreeDevices.take_part` places them on one type of device.
    """
    shared = SharedDevices()
    groups: dict[object, list[int]] = {}
    for place in sorted(range(len(views)), key=lambda place: views[place].grant is None):
        groups.setdefault(shared.add(views[place], len(views)), []).append(place)
    return list(groups.values())


def count_shared(views: Sequence[JobView]) -> int:
    """Devices that jobs of a part of a device need; 0 without such jobs."""
    return len(group_parts(views)) if views else 0
