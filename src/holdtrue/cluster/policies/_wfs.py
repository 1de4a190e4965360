"""Weighted fair sharing: the published power-of-two rule, and any count between minimum and maximum."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from holdtrue.cluster._jobs import Job
from holdtrue.cluster._state import ClusterState, Decision
from holdtrue.errors import UsageError

from ._deal import deal_devices


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
    given = [0] * len(jobs)
    left = list(range(len(jobs)))
    free = devices
    while left:
        shares = _shares(free, [jobs[i] for i in left])
        short = []
        for i, share in zip(left, shares, strict=True):
            if share >= jobs[i][1]:
                given[i] = jobs[i][1]
                free -= given[i]
            else:
                short.append((i, share))
        if len(short) == len(left):
            for i, share in short:
                given[i] = share
                free -= share
            break
        left = [i for i, _ in short]
    for i in sorted(range(len(jobs)), key=lambda i: -jobs[i][0]) if free else ():
        if given[i] <= free and 2 * given[i] <= jobs[i][1]:
            free -= given[i]
            given[i] *= 2
    return given


def _shares(free: int, jobs: Sequence[tuple[float, int]]) -> list[int]:
    """Largest powers of two within each weight's part of `free`; halved by ascending weight until they fit."""
    total = math.fsum(weight for weight, _ in jobs)
    # The bit length is exact where a logarithm may round up to the next power.
    shares = [1 << (max(1, int(free * weight / total)).bit_length() - 1) for weight, _ in jobs]
    excess = sum(shares) - free
    if excess > 0:
        for i in sorted(range(len(jobs)), key=lambda i: jobs[i][0]):
            while excess > 0 and shares[i] > 1:
                shares[i] //= 2
                excess -= shares[i]
    return shares


def decide_wfs(state: ClusterState) -> Decision:
    """Weighted fair sharing as published: power-of-two shares, jobs admitted by weight.

    The head of the line is admitted unless a running job of strictly higher weight would lose devices; the
    first refusal ends the round. Jobs never stop once they run; jobs of low weight may wait for long.
    Minimum demands are not known to the published rule; here a job with `min_devices` above 1 waits until its share
    holds it, and keeps its minimum once it runs.

    Source:
        VirtualFlow (Or, Zhang, Freedman, MLSys 2022), weighted fair sharing.
    """
    total = state.cluster.total
    admitted = [view.grant is not None for view in state.jobs]
    heaviest = max((view.job.weight for view in state.jobs if view.grant is not None), default=0.0)
    modest = all(view.job.min_devices == 1 for view in state.jobs)
    line = sorted(
        (i for i, is_in in enumerate(admitted) if not is_in), key=lambda i: -state.jobs[i].job.weight
    )
    for i in line:
        if sum(admitted) >= total:
            break
        admitted[i] = True
        # Nobody can object to a job as heavy as the heaviest that runs, so there is nothing to try.
        free_to_enter = modest and state.jobs[i].job.weight >= heaviest
        if not free_to_enter and _refused(state, i, _divide_admitted(state, admitted, total)):
            admitted[i] = False
            break
    counts = _divide_admitted(state, admitted, total)
    if not modest:
        counts = _raise_to_minima(state, counts)
    return deal_devices(state, counts, f"power-of-two shares by weight; {admitted.count(False)} waiting")


def _divide_admitted(state: ClusterState, admitted: list[bool], total: int) -> dict[int, int]:
    ids = [i for i, is_in in enumerate(admitted) if is_in]
    jobs = [(state.jobs[i].job.weight, state.jobs[i].job.max_devices) for i in ids]
    return dict(zip(ids, divide_power_of_two(total, jobs), strict=True))


def _raise_to_minima(state: ClusterState, counts: dict[int, int]) -> dict[int, int]:
    """Counts in which no job is below its minimum; lighter jobs are halved, as far as their minima go, to pay for it.

    The published rule knows no minima, and one job's end may shrink another's share.
    """
    raised = {i: max(n, state.jobs[i].job.min_devices) for i, n in counts.items()}
    excess = sum(raised.values()) - state.cluster.total
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
    not fit ends the round.

    Guarantee:
        No starvation among jobs of equal weight: nobody overtakes, and nobody who runs is stopped.
    """
    admitted = [view.grant is not None for view in state.jobs]
    least = sum(view.job.min_devices for view, is_in in zip(state.jobs, admitted, strict=True) if is_in)
    line = sorted(
        (i for i, view in enumerate(state.jobs) if not admitted[i]), key=lambda i: -state.jobs[i].job.weight
    )
    for i in line:
        least += state.jobs[i].job.min_devices
        if least > state.cluster.total:
            break
        admitted[i] = True
    ids = [i for i, is_in in enumerate(admitted) if is_in]
    counts = divide_any_count(state.cluster.total, [bounds_of(state.jobs[i].job) for i in ids])
    reason = f"any-count shares by weight; {admitted.count(False)} waiting"
    return deal_devices(state, dict(zip(ids, counts, strict=True)), reason)


def bounds_of(job: Job) -> Bounds:
    """What `job` may get in any-count sharing."""
    return Bounds(weight=job.weight, least=job.min_devices, most=job.max_devices)
