"""Jobs, devices and queues: what a policy decides about."""

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from holdtrue.errors import UsageError

Counts = tuple[tuple[str, int], ...]
"""Whole devices by type, in the cluster's order of types, without zeros."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Steps per second of one job, by device type and number of devices.

    >>> Rates(by_type=(("v100", ((1, 10.0), (4, 28.0))),)).at("v100", 2)
    16.0
    """

    by_type: tuple[tuple[str, tuple[tuple[int, float], ...]], ...]
    """(type, ((devices, steps per second), ...)) with devices ascending; an absent type cannot run the job.

    The type `*` stands for every type that is not named."""
    beyond: Literal["flat", "linear"] = "flat"
    """Above the largest number given: no faster, or in proportion to the last point."""

    def at(self, kind: str, devices: int) -> float:
        """Steps per second on `devices` devices of type `kind`; 0.0 where the job cannot run.

        Guarantee:
            The given points exactly; straight lines between them; in proportion below the first.
        """
        return _rate_at(self, kind, devices)

    def mixed(self, counts: Counts) -> float:
        """Steps per second on devices of several types, work divided in proportion to their speed.

        Each device works at the rate per device that its type has at the whole number of devices, so a job
        that scales badly over one type scales as badly over two.

        >>> two = Rates(by_type=(("a", ((1, 4.0),)), ("b", ((1, 1.0),))), beyond="linear")
        >>> two.mixed((("a", 1), ("b", 2)))
        6.0
        """
        if len(counts) == 1:
            return _rate_at(self, *counts[0])
        total = sum(n for _, n in counts)
        return math.fsum(n * _rate_at(self, kind, total) / total for kind, n in counts)


@lru_cache(maxsize=65536)
def _rate_at(rates: Rates, kind: str, devices: int) -> float:
    named = dict(rates.by_type)
    points = named.get(kind, named.get("*", ()))
    if not points or devices < 1:
        return 0.0
    below = [p for p in points if p[0] <= devices]
    above = [p for p in points if p[0] >= devices]
    if not below:
        return points[0][1] * devices / points[0][0]
    if not above:
        last, rate = points[-1]
        return rate * devices / last if rates.beyond == "linear" else rate
    (n0, r0), (n1, r1) = below[-1], above[0]
    return r0 if n0 == n1 else r0 + (r1 - r0) * (devices - n0) / (n1 - n0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One job of a trace or of a live cluster; nothing here changes while it runs.

    Raises:
        UsageError: a field is out of its range; the message gives the rule.
    """

    id: str
    """Name, different for every job; no policy reads it."""
    arrival_s: float
    """When it was submitted, in seconds from the trace's beginning."""
    work: float
    """Steps until it is done."""
    rates: Rates
    """Steps per second by device type and number."""
    min_devices: int = 1
    """Fewest devices it runs on."""
    max_devices: int = 1
    """Demand: most devices that are of use to it."""
    weight: float = 1.0
    """Weight in fair sharing, priority in static priority; larger is more."""
    queue: str = "default"
    """Queue that pays for it, where the cluster has queues."""
    percent: int = 100
    """Per cent of one device's memory and time; below 100 only for jobs of exactly one device."""
    kind: str = ""
    """What it trains, for people."""

    def __post_init__(self) -> None:
        _check(self.arrival_s >= 0 and math.isfinite(self.arrival_s), self, "arrival_s", "0 or more seconds")
        _check(self.work > 0 and math.isfinite(self.work), self, "work", "a positive number of steps")
        _check(self.weight > 0 and math.isfinite(self.weight), self, "weight", "a positive number")
        _check(self.min_devices >= 1, self, "min_devices", "1 or more")
        _check(
            self.max_devices >= self.min_devices,
            self,
            "max_devices",
            f"min_devices={self.min_devices} or more",
        )
        _check(1 <= self.percent <= 100, self, "percent", "from 1 to 100")
        _check(
            self.percent == 100 or self.max_devices == 1, self, "percent", "100 for jobs of several devices"
        )

    def rate(self, grant: "Grant") -> float:
        """Steps per second on the devices of `grant`."""
        return self.rates.mixed(grant.counts) * grant.percent / 100


def _check(holds: bool, job: Job, name: str, rule: str) -> None:
    if not holds:
        value = getattr(job, name)
        raise UsageError(f"job {job.id!r} has {name} {value!r}; it must be {rule}. Correct the job.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """Devices that one job holds (its allocation).

    >>> Grant(counts=(("v100", 2), ("p100", 1))).devices
    3
    """

    counts: Counts
    """Whole devices by type; for a job of a part of a device, the type that it shares and 1."""
    percent: int = 100
    """Per cent of the device, for a job of a part."""
    slot: int = -1
    """Which shared device of the type, for a job of a part; -1 otherwise."""
    devices: int = field(init=False)
    """Number of devices, of all types."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "devices", sum(n for _, n in self.counts))


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """A queue with a guaranteed share that it lends while it does not need it."""

    name: str
    """Name that jobs refer to."""
    guaranteed: int
    """Devices that it gets back whenever its jobs ask for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """The devices that exist, by type, and the queues that share them.

    Raises:
        UsageError: no devices, a type or queue twice, or guarantees beyond the devices.
    """

    devices: Counts
    """(type, number) in the order in which ties between types are broken."""
    queues: tuple[Queue, ...] = ()
    """Empty: one queue for all jobs."""

    def __post_init__(self) -> None:
        kinds = [kind for kind, _ in self.devices]
        if not kinds or len(set(kinds)) != len(kinds) or any(n < 1 for _, n in self.devices):
            shown = ",".join(f"{kind}:{number}" for kind, number in self.devices)
            raise UsageError(
                f"the cluster is {shown!r}; it needs one entry of 1 or more devices for each type. "
                "Write it as v100:8,p100:16."
            )
        names = [queue.name for queue in self.queues]
        promised = sum(queue.guaranteed for queue in self.queues)
        if (
            len(set(names)) != len(names)
            or promised > self.total
            or any(q.guaranteed < 0 for q in self.queues)
        ):
            raise UsageError(
                f"the queues {names} are guaranteed {promised} devices of {self.total}; names must differ and "
                "guarantees must fit in the cluster. Lower the guarantees or add devices."
            )

    @property
    def kinds(self) -> tuple[str, ...]:
        """Device types, in order."""
        return tuple(kind for kind, _ in self.devices)

    @property
    def total(self) -> int:
        """Devices of all types."""
        return sum(n for _, n in self.devices)

    def count(self, kind: str) -> int:
        """Devices of type `kind`."""
        return next((n for k, n in self.devices if k == kind), 0)


def parse_cluster(text: str, queues: str = "") -> Cluster:
    """Cluster from `v100:8,p100:16` and queues from `research=8,product=4`.

    Raises:
        UsageError: the text is not of that form.

    >>> parse_cluster("v100:8,p100:16").total
    24
    """
    devices = tuple((kind, number) for kind, number in _pairs(text, ":", "cluster", "v100:8,p100:16"))
    pairs = _pairs(queues, "=", "queue list", "research=8,product=4") if queues else []
    return Cluster(devices=devices, queues=tuple(Queue(name=name, guaranteed=n) for name, n in pairs))


def _pairs(text: str, separator: str, what: str, example: str) -> list[tuple[str, int]]:
    pairs = []
    for part in text.split(","):
        name, _, number = part.strip().partition(separator)
        if not name or not number.isascii() or not number.isdigit():
            raise UsageError(
                f"the {what} {text!r} has the part {part!r}; parts are written {example}. Correct it."
            )
        pairs.append((name, int(number)))
    return pairs
