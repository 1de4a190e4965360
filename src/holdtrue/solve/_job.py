"""Which entry of the profile each worker of a running job stands on, and so how fast it is and what it can hold.

    places   the devices that the job began with, in the order of its workers' numbers
    worker   its number, its device, the model of that: a founder stands on its own place, one that came later on a free one

What is left open by an even mapping, memory, is whole numbers here: every worker finds the same.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

from holdtrue.plan import Plan
from holdtrue.profile import DeviceProfile, Profile, format_profile, parse_profile

from ._cost import Costs, cost_devices
from ._devices import DeviceGroup

UNKNOWN = "unknown"
"""Kind of a device that is in no profile: no limit of memory, and the speed of the first device, until it is measured."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One device that the job began with."""

    kind: str
    """Its entry in the profile; one with a limit of its own is a kind."""
    device: str
    """As its worker knows it: `cpu`, `cuda:1`."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One worker of the job as it is now."""

    number: int
    """Given once; those that the job began with have the numbers of their places."""
    device: str
    """`cpu`, `cuda:1`."""
    model: str = ""
    """Full name of the device; empty if unknown."""
    place: str = ""
    """Which device of which machine it is: workers of one GPU share it, and each may call it `cuda:0`. By default `device`."""

    @property
    def type(self) -> str:
        """`cpu` or `cuda`."""
        return self.device.partition(":")[0]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class JobCosts:
    """What a job that began from a profile knows of its devices."""

    profile: Profile
    """Has the kind of every place; entries of whole kinds come before those of single devices."""
    memory_bytes: Mapping[str, int]
    """Limits by kind, in place of the profile's."""
    places: tuple[Place, ...]
    """By number of the worker that began there."""

    def kinds_of(self, workers: Sequence[Standing]) -> tuple[str, ...]:
        """The entry in the profile of each worker, in their order; `UNKNOWN` for a device without one.

        A worker that the job began with keeps its place. One that came later stands, the lowest number first, on a place of
        its model that nobody holds: rather one with the same name of the device, then the one with the least limit. Without
        a free place it has what the list of devices says of its model as a whole.
        """
        held = {worker.number for worker in workers}
        free = [number for number in range(len(self.places)) if number not in held]
        found: dict[int, str] = {}
        for worker in sorted(workers, key=lambda each: each.number):
            if worker.number < len(self.places):
                found[worker.number] = self.places[worker.number].kind
                continue
            own = [number for number in free if self._is_of(self.places[number].kind, worker)]
            if not own:
                whole = (device.kind for device in self.profile.devices if self._is_of(device.kind, worker))
                found[worker.number] = next(whole, UNKNOWN)
                continue
            taken = min(own, key=lambda number: (*self._rank_place(number, worker), number))
            free.remove(taken)
            found[worker.number] = self.places[taken].kind
        return tuple(found[worker.number] for worker in workers)

    def _rank_place(self, number: int, worker: Standing) -> tuple[bool, float]:
        place = self.places[number]
        limit = self.memory_bytes.get(place.kind, self.profile.device(place.kind).memory_bytes)
        return place.device != worker.device, math.inf if limit is None else limit

    def _is_of(self, kind: str, worker: Standing) -> bool:
        """Whether an entry of the profile is of the worker's model of device."""
        device = self.profile.device(kind)
        if device.name and worker.model:
            return device.name == worker.model
        return (device.type or kind.partition(".")[0]) == worker.type

    def problem_of(self, workers: Sequence[Standing]) -> tuple[Profile, tuple[str, ...], dict[str, int]]:
        """A profile, the kind in it of each worker, and limits by kind, in which workers that share a GPU have a part of it."""
        limits = dict(self.memory_bytes)
        devices = {device.kind: device for device in self.profile.devices}
        kinds: list[str] = []
        shares = Counter(worker.place or worker.device for worker in workers)
        for worker, kind in zip(workers, self.kinds_of(workers), strict=True):
            if kind == UNKNOWN:
                devices.setdefault(UNKNOWN, _without_memory(self.profile.devices[0]))
            share = shares[worker.place or worker.device] if worker.type == "cuda" else 1
            name = kind if share == 1 else f"{kind}.shared-{share}"
            if name not in devices:
                devices[name] = share_device(devices[kind], share, name)
                limits |= {name: limits[kind]} if kind in limits else {}
            kinds.append(name)
        return replace(self.profile, devices=tuple(devices.values())), tuple(kinds), limits

    def costs_of(self, workers: Sequence[Standing], plan: Plan) -> Costs:
        """The costs of these workers, by rank."""
        profile, kinds, limits = self.problem_of(workers)
        ranks: dict[str, list[int]] = {}
        for rank, kind in enumerate(kinds):
            ranks.setdefault(kind, []).append(rank)
        groups = [DeviceGroup(kind=kind, count=len(own)) for kind, own in ranks.items()]
        costs = cost_devices(profile, groups, plan, limits)
        return replace(
            costs,
            kinds=tuple(replace(kind, ranks=tuple(ranks[kind.kind])) for kind in costs.kinds),
        )


def share_device(device: DeviceProfile, share: int, kind: str) -> DeviceProfile:
    """What one of `share` workers has of a device that they drive together: its part of the time and of the memory."""
    return replace(
        device,
        kind=kind,
        memory_bytes=None if device.memory_bytes is None else max(1, device.memory_bytes // share),
        points=tuple(replace(point, seconds=point.seconds * share) for point in device.points),
    )


def _without_memory(device: DeviceProfile) -> DeviceProfile:
    points = tuple(replace(point, peak_bytes=None) for point in device.points)
    return replace(device, kind=UNKNOWN, memory_bytes=None, points=points)


def format_job_costs(costs: JobCosts) -> str:
    """The costs as text that `parse_job_costs` reads."""
    values = {
        "profile": format_profile(costs.profile),
        "memory": dict(costs.memory_bytes),
        "kinds": [place.kind for place in costs.places],
        "devices": [place.device for place in costs.places],
    }
    return json.dumps(values)


def parse_job_costs(text: str) -> JobCosts:
    """The costs that `format_job_costs` wrote."""
    values = json.loads(text)
    return JobCosts(
        profile=parse_profile(values["profile"]),
        memory_bytes=values["memory"],
        places=tuple(
            Place(kind=kind, device=device)
            for kind, device in zip(values["kinds"], values["devices"], strict=True)
        ),
    )
