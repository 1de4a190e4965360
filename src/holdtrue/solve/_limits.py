"""Memory limits of single devices: a device with a limit of its own is a kind of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from holdtrue.errors import UsageError
from holdtrue.profile import Profile
from holdtrue.units import format_ids

from ._devices import DeviceGroup


def split_limits(
    profile: Profile, groups: Sequence[DeviceGroup], limits: Mapping[str, int]
) -> tuple[Profile, tuple[DeviceGroup, ...], dict[str, int]]:
    """Profile, groups and limits in which every limit is one of a kind.

    Args:
        profile: Has every kind of `groups`.
        groups: The devices.
        limits: Bytes by kind (`cpu`), or by kind and index in its group, from 0 (`cpu:1`).

    Raises:
        UsageError: a limit is of a device that is not among the groups.

    Guarantee:
        Pure; ranks stay as they are. Without limits of single devices nothing changes.
    """
    kinds, parts, found = list(profile.devices), [], dict(limits)
    for group in groups:
        own = {i: found.pop(f"{group.kind}:{i}", None) for i in range(group.count)}
        if all(limit is None for limit in own.values()):
            parts.append(group)
            continue
        for ids in _runs(own):
            name = f"{group.kind}.{format_ids(ids).replace(',', '_')}"
            parts.append(DeviceGroup(kind=name, count=len(ids)))
            kinds.append(replace(profile.device(group.kind), kind=name))
            limit = own[ids[0]] if own[ids[0]] is not None else limits.get(group.kind)
            found |= {} if limit is None else {name: limit}
    strangers = sorted(set(found) - {group.kind for group in (*groups, *parts)})
    if strangers:
        raise UsageError(
            f"--memory names {', '.join(strangers)}, and there is no such device in --devices; a limit is of a kind (cpu=2GiB), "
            f"or of one device of it, counted from 0 (cpu:1=2GiB). Name devices that are there."
        )
    return replace(profile, devices=tuple(kinds)), tuple(parts), found


def check_limits(profile: Profile, limits: Mapping[str, int]) -> None:
    """Refuse limits of kinds whose peaks of memory nobody measured: they would be kept by nobody.

    Args:
        profile: Has the kinds of `limits`, or strangers are left to others.
        limits: Bytes by kind.

    Raises:
        UsageError: a kind with a limit has a point without a peak.
    """
    for device in profile.devices:
        unknown = [point.batch_size for point in device.points if point.peak_bytes is None]
        if device.kind in limits and unknown:
            raise UsageError(
                f"--memory limits {device.kind}, and its profile has no peak memory for passes of "
                f"{', '.join(map(str, unknown))}; a limit is compared with what was measured. Measure it with "
                f"`holdtrue profile`, or leave the limit out."
            )


def _runs(limits: Mapping[int, int | None]) -> list[tuple[int, ...]]:
    """Neighbours with equal limits together.

    >>> _runs({0: None, 1: None, 2: 5, 3: None})
    [(0, 1), (2,), (3,)]
    """
    runs: list[tuple[int, ...]] = []
    for index, limit in sorted(limits.items()):
        if runs and limits[runs[-1][-1]] == limit:
            runs[-1] = (*runs[-1], index)
        else:
            runs.append((index,))
    return runs
