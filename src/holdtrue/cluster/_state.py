"""What a policy sees, what it answers, and the account of free devices."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ._jobs import Cluster, Grant, Job


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    """One job that has arrived and is not done."""

    job: Job
    """What never changes."""
    grant: Grant | None = None
    """Devices it holds now; None while it waits."""
    started: bool = False
    """It has held devices before, so starting it again is a restart from a checkpoint."""
    done: float = 0.0
    """Steps done at `as_of_s`."""
    as_of_s: float = 0.0
    """When `done` was right; may lie in the future, when a pause ends."""
    rate: float = 0.0
    """Steps per second after `as_of_s`."""
    isolated_s: float = 0.0
    """Seconds that its steps so far would have taken on an equal share of the cluster."""

    def remaining(self, now_s: float) -> float:
        """Steps left at `now_s`, never negative."""
        return max(0.0, self.job.work - self.done - max(0.0, now_s - self.as_of_s) * self.rate)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterState:
    """Everything that a policy may read."""

    now_s: float
    """The time."""
    cluster: Cluster
    """Devices and queues."""
    jobs: tuple[JobView, ...]
    """Jobs that have arrived and are not done, in order of arrival; ties are broken by this order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A policy's answer: devices for each job, or shares of time for each job, and why."""

    grants: Mapping[str, Grant] = field(default_factory=dict)
    """Devices by job id; a job that is absent holds none. Grants that stay are the same objects."""
    shares: Mapping[str, tuple[float, ...]] | None = None
    """For policies that share time: devices on average, by job id and by type in the cluster's order."""
    reason: str = ""
    """One sentence."""


class FreeDevices:
    """Account of the devices that nobody holds; mutable, lives within one decision.

    >>> free = FreeDevices(Cluster(devices=(("v100", 2),)), ())
    >>> free.take_part("v100", 50), free.take_part("v100", 50) is not None, free.free["v100"]
    (Grant(counts=(('v100', 1),), percent=50, slot=0, devices=1), True, 1)
    """

    __slots__ = ("free", "parts")

    def __init__(self, cluster: Cluster, held: Iterable[Grant]) -> None:
        self.free = free = dict(cluster.devices)
        self.parts: dict[str, dict[int, int]] = {}
        for grant in held:
            if grant.percent == 100:  # as `hold` does; thousands are held at each decision
                for kind, n in grant.counts:
                    free[kind] -= n
            else:
                self.hold(grant)

    @property
    def total(self) -> int:
        """Whole devices that are free, of all types."""
        return sum(self.free.values())

    def hold(self, grant: Grant) -> None:
        """Take out the devices of a grant that is already given."""
        free = self.free
        if grant.percent == 100:
            for kind, n in grant.counts:
                free[kind] -= n
            return
        kind = grant.counts[0][0]
        slots = self.parts.setdefault(kind, {})
        if grant.slot not in slots:
            slots[grant.slot] = 100
            free[kind] -= 1
        slots[grant.slot] -= grant.percent

    def has_room(self, grant: Grant) -> bool:
        """Whether the devices of a grant are free, so that `hold` may follow."""
        if grant.percent == 100:
            return all(self.free[kind] >= n for kind, n in grant.counts)
        kind = grant.counts[0][0]
        left = self.parts.get(kind, {}).get(grant.slot)
        return self.free[kind] >= 1 if left is None else left >= grant.percent

    def take(self, kind: str, devices: int) -> Grant | None:
        """A grant of whole devices of one type, or None if they are not free."""
        if self.free.get(kind, 0) < devices:
            return None
        self.free[kind] -= devices
        return Grant(counts=((kind, devices),))

    def take_part(self, kind: str, percent: int) -> Grant | None:
        """A grant of a part of one device: the fullest shared device with room, else a free one."""
        slots = self.parts.get(kind, {})
        room = [(left, slot) for slot, left in slots.items() if left >= percent]
        if room:
            slot = min(room)[1]
        elif self.free.get(kind, 0) >= 1:
            slot = next(i for i in range(len(slots) + 1) if i not in slots)
        else:
            return None
        grant = Grant(counts=((kind, 1),), percent=percent, slot=slot)
        self.hold(grant)
        return grant

    def take_for(self, job: Job, devices: int) -> Grant | None:
        """A grant for `job` on the type that has room and runs it fastest, or None."""
        best: str | None = None
        rate = 0.0
        for kind, free in self.free.items():
            fits = free >= devices or (job.percent < 100 and self._has_part(kind, job.percent))
            if fits and (here := job.rates.at(kind, devices)) > rate:
                best, rate = kind, here
        if best is None:
            return None
        return self.take(best, devices) if job.percent == 100 else self.take_part(best, job.percent)

    def _has_part(self, kind: str, percent: int) -> bool:
        return any(left >= percent for left in self.parts.get(kind, {}).values())

    def take_mixed(self, job: Job, devices: int, keep: Grant | None) -> Grant | None:
        """A grant of whole devices of any types: those it has already first, then the fastest that are free.

        Devices that cannot run the job are never given; None if fewer than `devices` are free.
        """
        held = dict(keep.counts) if keep is not None else {}
        order = sorted(
            (k for k in self.free if job.rates.at(k, 1) > 0),
            key=lambda k: (-min(held.get(k, 0), 1), -job.rates.at(k, 1)),
        )
        taken: dict[str, int] = {}
        for limit in (held, self.free):
            for kind in order:
                already = taken.get(kind, 0)
                room = min(min(limit.get(kind, 0), self.free[kind]) - already, devices - sum(taken.values()))
                if room > 0:
                    taken[kind] = already + room
        if sum(taken.values()) < devices:
            return None
        for kind, n in taken.items():
            self.free[kind] -= n
        return Grant(counts=tuple((k, taken[k]) for k in self.free if taken.get(k)))
