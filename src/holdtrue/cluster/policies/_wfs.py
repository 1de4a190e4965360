"""Weighted fair sharing: the published power-of-two rule, and any count between minimum and maximum."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat

from holdtrue.cluster._jobs import Job
from holdtrue.cluster._state import ClusterState, Decision
from holdtrue.errors import UsageError

from ._deal import deal_devices
from ._parts import group_parts


def divide_power_of_two(devices: int, jobs: Sequence[tuple[float, int]]) -> list[int]:
    """Devices for each admitted job by the published rule of weighted fair sharing.

    Args:
        devices: Devices to share.
        jobs: (weight, demand) of each job, in order of arrival; at most `devices` of them.

    Returns:
        Devices for each job, 1 to its demand.

    Raises:
        UsageError: more jobs than devices.

    Source:
        VirtualFlow (Or, Zhang, Freedman, MLSys 2022), weighted fair sharing.

    >>> divide_power_of_two(8, [(1, 8), (5, 4), (10, 1), (10, 8)])
    [1, 2, 1, 4]
    """
    if len(jobs) > devices:
        raise UsageError(
            f"{len(jobs)} jobs are to share {devices} devices; each needs at least 1. Admit {devices} jobs or fewer."
        )
    by_kind: defaultdict[tuple[float, int], list[int]] = defaultdict(list)
    for i, kind in enumerate(jobs):
        by_kind[kind].append(i)
    given = [0] * len(jobs)
    left = [_Alike(weight=weight, demand=demand, jobs=ids) for (weight, demand), ids in by_kind.items()]
    free = devices
    while left:
        shares = _shares(free, left)
        full = [alike for alike, share in shares if share >= alike.demand]
        for alike in full:
            free -= alike.give(given, alike.demand)
        if not full:
            free -= sum(alike.give(given, share) for alike, share in shares)
            break
        left = [alike for alike, share in shares if share < alike.demand]
    if free:
        _double(given, free, jobs, by_kind)
    return given


def _double(
    given: list[int],
    free: int,
    jobs: Sequence[tuple[float, int]],
    by_kind: Mapping[tuple[float, int], list[int]],
) -> None:
    """One pass in descending weight that doubles what fits in `free` and in the demand; changes `given`."""
    able = [i for (_, demand), ids in by_kind.items() if demand > 1 for i in ids if 2 * given[i] <= demand]
    for i in sorted(able, key=lambda i: (-jobs[i][0], i)):
        if given[i] <= free:
            free -= given[i]
            given[i] *= 2


@dataclass(frozen=True, slots=True, kw_only=True)
class _Alike:
    """Jobs of one weight and one demand: the rule treats them alike, but where their shares exceed what is free."""

    weight: float
    demand: int
    jobs: list[int]

    def give(self, given: list[int], devices: int) -> int:
        """Give each of them so many devices; how many these are in all."""
        for i in self.jobs:
            given[i] = devices
        return devices * len(self.jobs)


def _shares(free: int, left: Sequence[_Alike]) -> list[tuple[_Alike, int]]:
    """Largest powers of two within each weight's part of `free`; halved by ascending weight until they fit."""
    total = math.fsum(chain.from_iterable(repeat(alike.weight, len(alike.jobs)) for alike in left))
    # The bit length is exact where a logarithm may round up to the next power.
    shares = [1 << (max(1, int(free * alike.weight / total)).bit_length() - 1) for alike in left]
    excess = sum(share * len(alike.jobs) for alike, share in zip(left, shares, strict=True)) - free
    if excess <= 0:
        return list(zip(left, shares, strict=True))
    single = []  # which jobs are halved depends on their order; a share of 1 stays
    for alike, share in zip(left, shares, strict=True):
        if share == 1:
            single.append((alike, share))
        else:
            one = (_Alike(weight=alike.weight, demand=alike.demand, jobs=[i]) for i in alike.jobs)
            single += [(each, share) for each in one]
    halved = []
    for alike, share in sorted(single, key=lambda pair: (pair[0].weight, pair[0].jobs)):
        while excess > 0 and share > 1:
            share //= 2
            excess -= share
        halved.append((alike, share))
    return halved


def decide_wfs(state: ClusterState) -> Decision:
    """Weighted fair sharing as published: power-of-two shares, jobs admitted by weight.

    The head of the line is admitted unless a running job of strictly higher weight would lose devices; the
    first refusal ends the round. Jobs never stop once they run; jobs of low weight may wait for long.
    Minimum demands are not known to the published rule; here a job with `min_devices` above 1 waits until its share
    holds it or nobody else is there, and keeps its minimum once it runs. Nor does it know parts of a device: a device
    that jobs share counts as one job of demand 1 that has all their weight.

    Source:
        VirtualFlow (Or, Zhang, Freedman, MLSys 2022), weighted fair sharing.
    """
    views, total = state.jobs, state.cluster.total
    admitted = _Admitted(state)
    for i in admitted.line_by_weight():
        admitted.add(i)
        # Nobody can object to a job as heavy as the heaviest that runs, so there is nothing to try; nor to one that is
        # alone, whose power of two may be less than its minimum for ever.
        free_to_enter = admitted.modest and views[i].job.weight >= admitted.heaviest
        free_to_enter = free_to_enter or admitted.count == 1
        fits = len(admitted.whole) + len(admitted.shared) <= total
        if not fits or (not free_to_enter and _refused(state, i, _divide_published(state, admitted))):
            admitted.take_back(i)
            break
    counts = _divide_published(state, admitted)
    if not admitted.modest:
        counts = _raise_to_minima(state, counts, total - len(admitted.shared))
    reason = f"power-of-two shares by weight; {len(views) - admitted.count} waiting"
    return deal_devices(state, counts | admitted.part_counts(), reason)


class _Admitted:
    """Places in `state.jobs` of the jobs that have or get devices; mutable, lives within one decision."""

    __slots__ = ("_line", "_state", "heaviest", "modest", "parts", "shared", "whole")

    def __init__(self, state: ClusterState) -> None:
        """Begin with the jobs that run."""
        self._state = state
        self.whole: list[int] = []
        self.parts: list[int] = []
        self._line: list[int] = []
        self.heaviest = 0.0
        """Weight of the heaviest job that runs."""
        self.modest = True
        """Whether no job needs more than one device."""
        for i, view in enumerate(state.jobs):  # once through: there may be thousands, at each event
            job = view.job
            if job.min_devices > 1:
                self.modest = False
            if view.grant is None:
                self._line.append(i)
                continue
            (self.whole if job.percent == 100 else self.parts).append(i)
            if job.weight > self.heaviest:
                self.heaviest = job.weight
        self.shared = self._group()

    def line_by_weight(self) -> list[int]:
        """Jobs that wait, by weight, then arrival."""
        return sorted(self._line, key=lambda i: -self._state.jobs[i].job.weight)

    @property
    def count(self) -> int:
        """Jobs."""
        return len(self.whole) + len(self.parts)

    def add(self, i: int) -> None:
        """Admit a job."""
        if self._state.jobs[i].job.percent == 100:
            self.whole.append(i)
        else:
            self.parts.append(i)
            self.shared = self._group()

    def take_back(self, i: int) -> None:
        """Undo the last `add`, which was of that job."""
        if self._state.jobs[i].job.percent == 100:
            self.whole.pop()
        else:
            self.parts.pop()
            self.shared = self._group()

    def _group(self) -> list[float]:
        """Weight of all jobs on each device that parts share: it stands for one job of that device."""
        if not self.parts:
            return []
        views = [self._state.jobs[i] for i in self.parts]
        return [math.fsum(views[place].job.weight for place in places) for places in group_parts(views)]

    def part_counts(self) -> dict[int, int]:
        """One device, as `deal_devices` takes it, for each job of a part."""
        return dict.fromkeys(self.parts, 1)


def _divide_published(state: ClusterState, admitted: _Admitted) -> dict[int, int]:
    """Devices of jobs of whole devices; a device that parts share stands for one job of demand 1."""
    ids = sorted(admitted.whole)
    jobs = [(state.jobs[i].job.weight, state.jobs[i].job.max_devices) for i in ids]
    jobs += [(weight, 1) for weight in admitted.shared]
    return dict(zip(ids, divide_power_of_two(state.cluster.total, jobs), strict=False))


def _raise_to_minima(state: ClusterState, counts: dict[int, int], devices: int) -> dict[int, int]:
    """Counts in which no job is below its minimum; lighter jobs are halved, as far as their minima go, to pay for it.

    The published rule knows no minima, and one job's end may shrink another's share.
    """
    raised = {i: max(n, state.jobs[i].job.min_devices) for i, n in counts.items()}
    excess = sum(raised.values()) - devices
    for i in sorted(raised, key=lambda i: state.jobs[i].job.weight):
        least = state.jobs[i].job.min_devices
        while excess > 0 and raised[i] > least:
            smaller = max(least, raised[i] // 2)
            excess -= raised[i] - smaller
            raised[i] = smaller
    return raised


def _refused(state: ClusterState, candidate: int, trial: dict[int, int]) -> bool:
    weight = state.jobs[candidate].job.weight
    for i, count in trial.items():
        view = state.jobs[i]
        held = view.grant.devices if view.grant is not None else 0
        if count < view.job.min_devices or (view.job.weight > weight and count < held):
            return True
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What one job may get when devices are shared in any count."""

    weight: float
    """Weight, positive."""
    least: int
    """Fewest devices."""
    most: int
    """Most devices."""


def divide_any_count(devices: int, jobs: Sequence[Bounds]) -> list[int]:
    """Devices for each job in proportion to weight, between its bounds, in any count.

    Args:
        devices: Devices to share, at least the sum of the minima.
        jobs: Weight and bounds of each job, in order of arrival.

    Returns:
        Devices for each job; all devices are given unless every job has its maximum.

    Raises:
        UsageError: the minima do not fit.

    Guarantee:
        Max-min fair by weight before rounding; rounding gives the largest remainders, ties by arrival.

    >>> divide_any_count(8, [Bounds(weight=1, least=1, most=8), Bounds(weight=2, least=1, most=4)])
    [4, 4]
    >>> divide_any_count(7, [Bounds(weight=1, least=2, most=8), Bounds(weight=1, least=1, most=8)])
    [4, 3]
    """
    least = sum(job.least for job in jobs)
    if least > devices:
        raise UsageError(
            f"minima of {least} devices are to share {devices}. Admit fewer jobs or lower the minima."
        )
    if sum(job.most for job in jobs) <= devices:
        return [job.most for job in jobs]
    level = _water_level(devices, jobs)
    exact = [min(float(job.most), max(float(job.least), level * job.weight)) for job in jobs]
    given = [min(job.most, max(job.least, math.floor(x + 1e-9))) for x, job in zip(exact, jobs, strict=True)]
    spare = devices - sum(given)
    order = sorted(range(len(jobs)), key=lambda i: (given[i] - exact[i], i))
    for i in order + order:
        if spare > 0 and given[i] < jobs[i].most:
            given[i] += 1
            spare -= 1
    return given


def _water_level(devices: int, jobs: Sequence[Bounds]) -> float:
    """Devices per unit of weight at which the bounded shares add up to `devices`."""
    points = sorted({b / job.weight for job in jobs for b in (job.least, job.most)})

    def filled(level: float) -> float:
        return math.fsum(min(job.most, max(job.least, level * job.weight)) for job in jobs)

    low, high = 0, len(points) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if filled(points[middle]) >= devices else (middle + 1, high)
    upper = points[low]
    lower = points[low - 1] if low else 0.0
    at_lower, at_upper = filled(lower), filled(upper)
    if at_upper <= at_lower:
        return upper
    return lower + (upper - lower) * (devices - at_lower) / (at_upper - at_lower)


def decide_wfs_any(state: ClusterState) -> Decision:
    """Weighted fair sharing in any count between each job's minimum and maximum.

    Jobs that run stay; waiting jobs enter by weight, then arrival, while all minima fit; the first that does
    not fit ends the round. A device that jobs of parts share counts as one job that has all their weight.

    Guarantee:
        No starvation among jobs of equal weight: nobody overtakes, and nobody who runs is stopped.
    """
    views, total = state.jobs, state.cluster.total
    admitted = _Admitted(state)
    least = sum(views[i].job.min_devices for i in admitted.whole)
    for i in admitted.line_by_weight():
        admitted.add(i)
        least += views[i].job.min_devices if views[i].job.percent == 100 else 0
        if least + len(admitted.shared) > total:
            admitted.take_back(i)
            break
    ids = sorted(admitted.whole)
    bounds = [bounds_of(views[i].job) for i in ids]
    bounds += [Bounds(weight=weight, least=1, most=1) for weight in admitted.shared]
    counts = dict(zip(ids, divide_any_count(total, bounds), strict=False))
    reason = f"any-count shares by weight; {len(views) - admitted.count} waiting"
    return deal_devices(state, counts | admitted.part_counts(), reason)


def bounds_of(job: Job) -> Bounds:
    """What `job` may get in any-count sharing."""
    return Bounds(weight=job.weight, least=job.min_devices, most=job.max_devices)
