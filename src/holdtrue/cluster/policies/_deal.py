"""From counts to devices: which types each job gets, moving as little as possible."""

from holdtrue.cluster._jobs import Grant
from holdtrue.cluster._state import ClusterState, Decision, FreeDevices, JobView


def deal_devices(state: ClusterState, counts: dict[int, int], reason: str) -> Decision:
    """Grants of whole devices (and parts) for counts by index of the job in `state.jobs`.

    Jobs keep the devices that they hold, as many as they are to have; then growing and starting jobs take the
    fastest that are free, by weight, then arrival. A job never gets devices that cannot run it, so on a mixed
    cluster it may get fewer than its count.
    """
    jobs = state.jobs
    grants: dict[str, Grant] = {}
    changed = []
    for i, count in counts.items():
        view = jobs[i]
        grant = view.grant
        if grant is not None and grant.devices == count:
            grants[view.job.id] = grant
        elif count:
            changed.append(i)
    free = FreeDevices(state.cluster, grants.values())
    for i in changed:
        view = state.jobs[i]
        kept = view.grant and free.take_mixed(view.job, min(counts[i], view.grant.devices), view.grant)
        if kept:
            grants[view.job.id] = kept
    for i in sorted(changed, key=lambda i: -state.jobs[i].job.weight):
        _grow(free, grants, state.jobs[i], counts[i])
    return Decision(grants=grants, reason=reason)


def _grow(free: FreeDevices, grants: dict[str, Grant], view: JobView, count: int) -> None:
    """Add to what the job keeps until it has `count` devices, or as many as can run it."""
    job, kept = view.job, grants.get(view.job.id)
    if job.percent < 100:
        part = free.take_for(job, 1)
        if part is not None:
            grants[job.id] = part
        return
    have = kept.devices if kept is not None else 0
    usable = sum(n for kind, n in free.free.items() if job.rates.at(kind, 1) > 0)
    if have >= count or have + usable < job.min_devices:
        return
    extra = free.take_mixed(job, min(count - have, usable), None) if usable else None
    if extra is not None:
        old = dict(kept.counts) if kept is not None else {}
        new = dict(extra.counts)
        both = tuple((k, old.get(k, 0) + new.get(k, 0)) for k in free.free if k in old or k in new)
        grants[job.id] = Grant(counts=both)
