"""Policies that serve jobs in an order and give each its whole demand or nothing."""

from collections import Counter

from holdtrue.cluster._jobs import Grant, Job
from holdtrue.cluster._state import ClusterState, Decision, FreeDevices, JobView

from ._parts import SharedDevices

BACKFILL_DEPTH = 100
"""Jobs behind the first in line that are looked at; a bound, so that a long line costs no more than a short one."""


def decide_fifo(state: ClusterState) -> Decision:
    """First in, first out, with backfill that never delays the first job in line.

    A job may start out of turn if, by the rates that are known, it ends before the first job in line could
    start, or leaves that job's devices alone.

    Guarantee:
        No starvation: the reservation of the first job in line never moves back.

    Source:
        EASY backfilling (Lifka, JSSPP 1995).
    """
    grants, free = _running(state)
    waiting = [view for view in state.jobs if view.grant is None] if _can_start_any(free) else []
    for place, view in enumerate(waiting):
        if not _can_start_any(free):
            break
        grant = free.take_for(view.job, view.job.max_devices)
        if grant is None:
            _backfill(state, grants, free, waiting[place : place + 1 + BACKFILL_DEPTH])
            break
        grants[view.job.id] = grant
    return Decision(
        grants=grants, reason=_line(len(state.jobs) - len(grants), "first in, first out with backfill")
    )


def decide_priority(state: ClusterState) -> Decision:
    """Static priority as published: highest weight first, whole demand or nothing, no preemption, no backfill.

    The first job in line that does not fit blocks all behind it: a weak baseline, kept because the paper's
    comparison is against it. Jobs of low weight may starve.

    Source:
        VirtualFlow (Or, Zhang, Freedman, MLSys 2022), section on elasticity.
    """
    grants, free = _running(state)
    for view in sorted((v for v in state.jobs if v.grant is None), key=lambda v: -v.job.weight):
        grant = free.take_for(view.job, view.job.max_devices)
        if grant is None:
            break
        grants[view.job.id] = grant
    return Decision(
        grants=grants, reason=_line(len(state.jobs) - len(grants), "highest priority first, no preemption")
    )


def decide_srtf(state: ClusterState) -> Decision:
    """Shortest remaining time first, preemptive: the least work left at full demand runs, the rest waits.

    Long jobs may starve. A running job keeps the devices that it has if it is still among the first.

    Source:
        Schrage, Operations Research 16 (1968); for jobs of several devices it is a heuristic.
    """
    order = sorted(state.jobs, key=lambda view: _remaining_s(state, view))
    left, shared = state.cluster.total, SharedDevices()
    chosen = []
    for view in order:
        if view.job.percent == 100 and view.job.max_devices <= left:
            chosen.append(view)
            left -= view.job.max_devices
        elif view.job.percent < 100:
            before = len(shared)
            if shared.add(view, left) is not None:
                chosen.append(view)
                left -= len(shared) - before
        if left <= 0 and not len(shared):
            break
    kept = {view.job.id: view.grant for view in chosen if view.grant is not None}
    free = FreeDevices(state.cluster, kept.values())
    grants: dict[str, Grant] = dict(kept)
    for view in order:
        if view.job.id not in grants and (grant := _keep(free, view) or _take(free, view)):
            grants[view.job.id] = grant
        if not _can_start_any(free):
            break
    return Decision(
        grants=grants, reason=_line(len(state.jobs) - len(grants), "shortest remaining time first")
    )


def _keep(free: FreeDevices, view: JobView) -> Grant | None:
    """The devices that a job has, if they are still free."""
    grant = view.grant
    if grant is None or not free.has_room(grant):
        return None
    free.hold(grant)
    return grant


def _take(free: FreeDevices, view: JobView) -> Grant | None:
    """Devices for a job that has none, or has whole ones: a part of a device is given up before another is taken."""
    if view.grant is not None and view.job.percent < 100:
        return None
    return free.take_for(view.job, view.job.max_devices)


def _running(state: ClusterState) -> tuple[dict[str, Grant], FreeDevices]:
    grants = {view.job.id: view.grant for view in state.jobs if view.grant is not None}
    return grants, FreeDevices(state.cluster, grants.values())


def _can_start_any(free: FreeDevices) -> bool:
    return free.total > 0 or any(left > 0 for slots in free.parts.values() for left in slots.values())


def _line(waiting: int, rule: str) -> str:
    return f"{rule}; {waiting} waiting"


def _best_rate(state: ClusterState, job: Job) -> float:
    return max(job.rates.at(kind, job.max_devices) for kind in state.cluster.kinds) * job.percent / 100


def _remaining_s(state: ClusterState, view: JobView) -> float:
    return view.remaining(state.now_s) / _best_rate(state, view.job)


def _backfill(state: ClusterState, grants: dict[str, Grant], free: FreeDevices, line: list[JobView]) -> None:
    """Start jobs behind the first in line, around its reservation; changes `grants` and `free`."""
    head = line[0].job
    kind, start_s = _reservation(state, free, head)
    most = max(free.free.values())
    for view in line[1:]:
        if not _can_start_any(free):
            return
        job = view.job
        if job.percent == 100 and job.max_devices > most:
            continue
        grant = free.take_for(job, job.max_devices)
        if grant is None:
            continue
        ends_s = state.now_s + view.remaining(state.now_s) / job.rate(grant)
        if grant.counts[0][0] == kind and ends_s > start_s:
            _give_back(free, grant)
            continue
        grants[job.id] = grant
        most = max(free.free.values())


def _reservation(state: ClusterState, free: FreeDevices, head: Job) -> tuple[str, float]:
    """Type and time at which the first job in line can start, if nobody else starts on that type."""
    ends = [(_end_s(state, view), view.grant) for view in state.jobs if view.grant is not None]
    ends.sort(key=lambda pair: pair[0])
    best = ("", float("inf"))
    for kind, count in free.free.items():
        if head.rates.at(kind, head.max_devices) > 0 and state.cluster.count(kind) >= head.max_devices:
            start_s = _time_of(ends, kind, head.max_devices - count)
            best = min(best, (kind, start_s), key=lambda pair: pair[1])
    return best


def _time_of(ends: list[tuple[float, Grant]], kind: str, missing: int) -> float:
    """When `missing` devices of a type have become free; one that parts share, when the last of them has ended."""
    sharing = Counter(g.slot for _, g in ends if g.percent < 100 and g.counts[0][0] == kind)
    for end_s, grant in ends:
        if grant.percent == 100:
            missing -= sum(n for k, n in grant.counts if k == kind)
        elif grant.counts[0][0] == kind:
            sharing[grant.slot] -= 1
            missing -= sharing[grant.slot] == 0
        if missing <= 0:
            return end_s
    return ends[-1][0] if ends else 0.0


def _end_s(state: ClusterState, view: JobView) -> float:
    rate = view.rate or _best_rate(state, view.job)
    return max(state.now_s, view.as_of_s) + view.remaining(state.now_s) / rate


def _give_back(free: FreeDevices, grant: Grant) -> None:
    kind, n = grant.counts[0]
    if grant.percent == 100:
        free.free[kind] += n
        return
    slots = free.parts[kind]
    slots[grant.slot] += grant.percent
    if slots[grant.slot] == 100:
        del slots[grant.slot]
        free.free[kind] += 1
