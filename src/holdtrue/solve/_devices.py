"""Lists of devices and of memory limits, as people write them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from holdtrue.errors import UsageError
from holdtrue.units import cut_text

_ENTRY = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]*):([0-9]+)")
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgt]i?b?|b)?", re.IGNORECASE)
MOST_DEVICES = 65_536
"""Devices of one list: more are a slip of the hand."""
_MOST_SHOWN = 40
"""Characters of a list, an entry or a size that an error shows."""
_POWERS = {"": 0, "b": 0, "k": 1, "m": 2, "g": 3, "t": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceGroup:
    """Some devices of one kind.

    Raises:
        UsageError: the count is less than 1.
    """

    kind: str
    """Kind of device, as the profile names it."""
    count: int
    """How many there are, at least 1."""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UsageError(
                f"{self.kind} has a count of {self.count}; a group has at least 1 device. Leave {self.kind} "
                f"out instead."
            )


def parse_devices(text: str) -> tuple[DeviceGroup, ...]:
    """The groups of a list such as `v100:2,p100:8`; ranks are given in its order.

    Raises:
        UsageError: the text is not such a list, names a kind twice, or more than `MOST_DEVICES` devices.

    >>> [(group.kind, group.count) for group in parse_devices("v100:2, p100:8")]
    [('v100', 2), ('p100', 8)]
    """
    shown = cut_text(text, _MOST_SHOWN)
    groups: list[DeviceGroup] = []
    for entry in text.split(","):
        match = _ENTRY.fullmatch(entry.strip())
        if match is None:
            raise UsageError(
                f"the device list {shown!r} has the entry {cut_text(entry.strip(), _MOST_SHOWN)!r}; each entry is KIND:COUNT. "
                f"Write it like v100:2,p100:8."
            )
        kind, digits = match[1], match[2].lstrip("0") or "0"
        # Before it is a number: Python reads no more than 4,300 digits.
        if len(digits) > len(str(MOST_DEVICES)):
            raise _too_many(shown, cut_text(digits, _MOST_SHOWN))
        groups.append(DeviceGroup(kind=kind, count=int(digits)))
    total = sum(group.count for group in groups)
    if total > MOST_DEVICES:
        raise _too_many(shown, str(total))
    kinds = [group.kind for group in groups]
    doubled = sorted({kind for kind in kinds if kinds.count(kind) > 1})
    if doubled:
        raise UsageError(
            f"the device list {shown!r} names {', '.join(doubled)} more than once; each kind stands once with "
            f"its count. "
            f"Add the counts up."
        )
    return tuple(groups)


def _too_many(shown: str, count: str) -> UsageError:
    return UsageError(
        f"the device list {shown!r} has {count} devices; at most {MOST_DEVICES} are planned for. Name fewer."
    )


_TOO_LARGE = 2.0**63


def parse_size(text: str) -> int:
    """Bytes of a size such as `16GiB`, `512MiB` or `1000000`; K, M, G and T count by 1024.

    Raises:
        UsageError: the text is not a size, or one of 8 EiB or more.

    >>> parse_size("1.5GiB"), parse_size("512M"), parse_size("100")
    (1610612736, 536870912, 100)
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(
            f"the size {cut_text(text, _MOST_SHOWN)!r} cannot be read; it is a number with a unit. Write it like 16GiB or 512MiB."
        )
    size = float(match[1]) * 1024 ** _POWERS[(match[2] or "")[:1].lower()]
    if size >= _TOO_LARGE:
        raise UsageError(
            f"the size {cut_text(text, _MOST_SHOWN)!r} is more than any machine has; it is less than 8 EiB. Write it like 16GiB."
        )
    return int(size)


def parse_memory(entries: Sequence[str]) -> dict[str, int]:
    """Memory limits by kind, from entries such as `v100=16GiB`.

    Raises:
        UsageError: an entry is not KIND=SIZE, or a kind stands twice.

    >>> parse_memory(["v100=16GiB,p100=12GiB"])
    {'v100': 17179869184, 'p100': 12884901888}
    """
    limits: dict[str, int] = {}
    for entry in ",".join(entries).split(",") if entries else ():
        kind, equals, size = entry.partition("=")
        if not equals or not kind.strip() or kind.strip() in limits:
            raise UsageError(
                f"the memory limit {cut_text(entry, _MOST_SHOWN)!r} is not KIND=SIZE, or names its kind again; each kind has one "
                f"limit. "
                f"Write it like v100=16GiB."
            )
        limits[kind.strip()] = parse_size(size)
    return limits
