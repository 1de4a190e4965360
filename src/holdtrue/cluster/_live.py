"""The schedule of a live cluster: events in, decisions out.

    state, decision = advance_schedule(state, event, now_s)      pure; the live scheduler acts on the decision

The live scheduler and the simulator share what decides: the views, the policies and this module.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import final

from holdtrue.errors import UsageError

from ._jobs import Cluster, Grant, Job
from ._state import ClusterState, Decision, JobView
from .policies import POLICIES, Policy


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """The cluster is open for jobs, with these devices and this policy; first of a log, and after each restart."""

    cluster: Cluster
    policy: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """A job arrived."""

    job: Job


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """How far a running job was when somebody looked; no decision follows."""

    job: str
    done: float
    """Steps done, of `Job.work`."""
    rate: float
    """Steps per second."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """A job lost its devices without being asked: it crashed and waits for another attempt."""

    job: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A job is over: finished, failed or cancelled."""

    job: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyChosen:
    """From now on another policy decides."""

    policy: str


ScheduleEvent = Opened | Submitted | Observed | Lost | Ended | PolicyChosen


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A live cluster's jobs and who holds what."""

    cluster: Cluster
    policy: str
    views: tuple[JobView, ...] = ()
    """Jobs that are not over, in order of arrival."""

    def grant_of(self, job: str) -> Grant | None:
        """Devices that the last decision gave a job."""
        return next((view.grant for view in self.views if view.job.id == job), None)


def find_live_policy(name: str) -> Policy:
    """The policy of that name, if it can decide about live jobs.

    Raises:
        UsageError: there is none, or it shares time in rounds.
    """
    able = [policy.name for policy in POLICIES.values() if policy.answers == "devices"]
    if name not in POLICIES:
        raise UsageError(
            f"there is no policy {name!r}; for live jobs there are {', '.join(able)}. Name one of them."
        )
    if POLICIES[name].answers != "devices":
        raise UsageError(
            f"the policy {name} shares time, and live jobs are decided about when one comes or goes, not in rounds. "
            f"Take one of {', '.join(able)}; `holdtrue simulate` has them all."
        )
    return POLICIES[name]


def advance_schedule(
    schedule: Schedule, event: ScheduleEvent, now_s: float, *, grants: Mapping[str, Grant] | None = None
) -> tuple[Schedule, Decision | None]:
    """The schedule after an event, and what was decided.

    Args:
        schedule: Before it.
        event: What happened.
        now_s: When, in seconds from the log's beginning.
        grants: What was decided then, for a log that is read again; None asks the policy.

    Returns:
        The new schedule, in which the decision's grants hold, and the decision; None after an observation.

    Guarantee:
        Pure: the same arguments give the same answer on any host.
    """
    after = _note(schedule, event, now_s)
    if isinstance(event, Observed):
        return after, None
    if grants is not None:
        decision = Decision(grants=grants)
    elif after.views:
        state = ClusterState(now_s=now_s, cluster=after.cluster, jobs=after.views)
        decision = find_live_policy(after.policy).decide(state)
    else:
        decision = Decision(reason="no jobs")
    views = tuple(_granted(view, decision.grants.get(view.job.id), now_s) for view in after.views)
    _check_fits(after.cluster, decision.grants, after.policy)
    return replace(after, views=views), decision


def _note(schedule: Schedule, event: ScheduleEvent, now_s: float) -> Schedule:
    match event:
        case Opened():
            return replace(schedule, cluster=event.cluster, policy=event.policy)
        case PolicyChosen():
            return replace(schedule, policy=event.policy)
        case Submitted():
            return replace(schedule, views=(*schedule.views, JobView(job=event.job, as_of_s=now_s)))
        case Ended():
            return replace(schedule, views=tuple(v for v in schedule.views if v.job.id != event.job))
        case Lost():
            return _changed(schedule, event.job, lambda view: replace(view, grant=None, rate=0.0))
        case Observed():
            return _changed(
                schedule,
                event.job,
                lambda view: replace(view, done=event.done, rate=event.rate, as_of_s=now_s),
            )


def _changed(schedule: Schedule, job: str, change: Callable[[JobView], JobView]) -> Schedule:
    return replace(schedule, views=tuple(change(v) if v.job.id == job else v for v in schedule.views))


def _granted(view: JobView, grant: Grant | None, now_s: float) -> JobView:
    if grant is None:
        return view if view.grant is None else replace(view, grant=None, rate=0.0)
    return view if view.grant == grant else replace(view, grant=grant, started=True)


def _check_fits(cluster: Cluster, grants: Mapping[str, Grant], policy: str) -> None:
    for kind, count in cluster.devices:
        whole = sum(n for g in grants.values() if g.percent == 100 for k, n in g.counts if k == kind)
        slots: dict[int, int] = {}
        for grant in grants.values():
            if grant.percent < 100 and grant.counts[0][0] == kind:
                slots[grant.slot] = slots.get(grant.slot, 0) + grant.percent
        assert whole + len(slots) <= count, f"{policy} gave {whole} + {len(slots)} of {count} {kind}"
        assert all(percent <= 100 for percent in slots.values()), f"{policy} overfilled a device"
