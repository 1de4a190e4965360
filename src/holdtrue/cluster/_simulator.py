"""The event-driven simulator: jobs arrive, end and are resized in continuous time."""

import heapq
from collections.abc import Callable, Sequence

from holdtrue.errors import UsageError

from ._jobs import Cluster, Grant, Job
from ._outcome import Costs, JobOutcome, Outcome, Rounds
from ._progress import Progress
from ._rounds import run_rounds
from ._state import ClusterState, Decision, JobView
from .policies import Policy

OnProgress = Callable[[int, int], None]


def run_simulation(
    jobs: Sequence[Job],
    cluster: Cluster,
    policy: Policy,
    *,
    costs: Costs | None = None,
    rounds: Rounds | None = None,
    on_progress: OnProgress | None = None,
) -> Outcome:
    """Simulate `jobs` on `cluster` under `policy`.

    Args:
        jobs: Jobs with different ids, in any order; jobs that arrive together keep their order.
        cluster: The devices.
        policy: Who gets which devices.
        costs: Seconds that changes take; none by default.
        rounds: Decide at the ends of rounds only; policies that share time need rounds and get 360 s by default.
        on_progress: Called with (jobs done, jobs) after each job that ends.

    Returns:
        The schedule, jobs in the order given.

    Raises:
        UsageError: no jobs, an id twice, or a job that this cluster can never run; nothing is simulated then.

    Guarantee:
        Pure: the same arguments give the same schedule. Progress counts from the end of the start, and every job
        does its work, no more and no less.
    """
    check_demands(jobs, cluster)
    in_order = sorted(jobs, key=lambda job: job.arrival_s)
    if rounds is None and policy.answers != "devices":
        rounds = Rounds()
    if rounds is not None:
        done, decisions = run_rounds(in_order, cluster, policy, costs or Costs(), rounds, on_progress)
    else:
        simulation = _Simulation(in_order, cluster, policy, costs or Costs(), on_progress)
        done, decisions = simulation.run(), simulation.decisions
    return Outcome(
        policy=policy.name, cluster=cluster, jobs=tuple(done[job.id] for job in jobs), decisions=decisions
    )


def check_demands(jobs: Sequence[Job], cluster: Cluster) -> None:
    """Refuse jobs that the cluster could never run.

    Raises:
        UsageError: no jobs, an id twice, or a demand beyond the devices of every type that runs the job.
    """
    if not jobs:
        raise UsageError("there are no jobs; a simulation needs at least one. Check the trace and --limit.")
    seen: set[str] = set()
    for job in jobs:
        if job.id in seen:
            raise UsageError(f"two jobs have the id {job.id!r}; every job needs its own. Rename one of them.")
        seen.add(job.id)
        usable = [n for kind, n in cluster.devices if job.rates.at(kind, job.max_devices) > 0]
        if max(usable, default=0) < job.max_devices:
            raise UsageError(
                f"job {job.id!r} asks for {job.max_devices} devices of one type and the cluster has at most "
                f"{max(usable, default=0)} that run it. Lower its demand or enlarge the cluster."
            )


class _Simulation:
    """Events in, progress out; one owner of all mutable state of a run."""

    def __init__(
        self, jobs: list[Job], cluster: Cluster, policy: Policy, costs: Costs, on_progress: OnProgress | None
    ) -> None:
        self.jobs, self.cluster, self.policy, self.costs = jobs, cluster, policy, costs
        self.on_progress = on_progress
        self.decisions = 0
        self.active: dict[str, Progress] = {}
        # Views of active jobs in order of arrival, and names of those with devices: kept as they change, since with
        # thousands of jobs in line going through all of them at every event is most of the time.
        self.views: dict[str, JobView] = {}
        self.running: dict[str, None] = {}
        self.done: dict[str, JobOutcome] = {}
        self.events: list[tuple[float, int, str, int]] = []
        self.area = self.area_at_s = 0.0
        self.used = _Used(cluster)

    def run(self) -> dict[str, JobOutcome]:
        """Run all events; outcomes by job id."""
        arrived = 0
        while arrived < len(self.jobs) or self.active:
            now_s = min(
                self.jobs[arrived].arrival_s if arrived < len(self.jobs) else float("inf"),
                self._next_event_s(),
            )
            if now_s == float("inf"):
                raise self._stuck()
            self.area += len(self.active) * (now_s - self.area_at_s)
            self.area_at_s = now_s
            changed = self._end_jobs(now_s)
            while arrived < len(self.jobs) and self.jobs[arrived].arrival_s <= now_s:
                job = self.jobs[arrived]
                self.active[job.id] = Progress(job, self.area)
                self.views[job.id] = self.active[job.id].view()
                arrived += 1
                changed = True
            if changed and self.active:
                self._decide(now_s)
        return self.done

    def _next_event_s(self) -> float:
        events = self.events
        while events:
            at_s, _, name, version = events[0]
            progress = self.active.get(name)
            if progress is not None and progress.version == version:
                return at_s
            heapq.heappop(events)
        return float("inf")

    def _end_jobs(self, now_s: float) -> bool:
        """Run the events of jobs up to `now_s`; whether one of them ended."""
        changed = False
        while self._next_event_s() <= now_s:
            _, _, name, _ = heapq.heappop(self.events)
            progress = self.active[name]
            progress.advance(now_s)
            if not progress.is_done:
                self.views[name] = progress.view()
                self._schedule(progress)
                continue
            changed = True
            self.used.change(progress.grant, None)
            progress.finish(now_s)
            del self.active[name], self.views[name], self.running[name]
            self.done[name] = progress.outcome(now_s, self.area)
            if self.on_progress is not None:
                self.on_progress(len(self.done), len(self.jobs))
        return changed

    def _schedule(self, progress: Progress) -> None:
        at_s = progress.next_event_s
        if at_s < float("inf"):
            heapq.heappush(self.events, (at_s, len(self.done), progress.job.id, progress.version))

    def _decide(self, now_s: float) -> None:
        views = tuple(self.views.values())
        decision = self.policy.decide(ClusterState(now_s=now_s, cluster=self.cluster, jobs=views))
        self.decisions += 1
        self._apply(decision, now_s)

    def _apply(self, decision: Decision, now_s: float) -> None:
        grants = decision.grants
        stopped = [name for name in self.running if name not in grants]
        for name, grant in [*((name, None) for name in stopped), *grants.items()]:
            progress = self.active[name]
            if progress.grant is grant or progress.grant == grant:
                continue
            self.used.change(progress.grant, grant)
            progress.change(grant, now_s, self.costs)
            self.views[name] = progress.view()
            self._schedule(progress)
            if grant is None:
                del self.running[name]
            else:
                self.running[name] = None
        self.used.check(self.policy.name)

    def _stuck(self) -> UsageError:
        waiting = ", ".join(list(self.active)[:5])
        return UsageError(
            f"{self.policy.name} gives no devices to the {len(self.active)} jobs that are left ({waiting}) on an idle "
            "cluster; their minima do not fit its shares. Lower min_devices or take another policy."
        )


class _Used:
    """Devices in use; catches a policy that gives away more than exist."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.whole = dict.fromkeys(cluster.kinds, 0)
        self.parts: dict[tuple[str, int], int] = {}

    def change(self, old: Grant | None, new: Grant | None) -> None:
        for grant, sign in ((old, -1), (new, 1)):
            if grant is None:
                continue
            if grant.percent == 100:
                for kind, n in grant.counts:
                    self.whole[kind] += sign * n
            else:
                key = (grant.counts[0][0], grant.slot)
                self.parts[key] = self.parts.get(key, 0) + sign * grant.percent
                if self.parts[key] == 0:
                    del self.parts[key]

    def check(self, policy: str) -> None:
        for kind, count in self.cluster.devices:
            shared = sum(1 for k, _ in self.parts if k == kind)
            assert self.whole[kind] + shared <= count, (
                f"{policy} gave {self.whole[kind]} + {shared} of {count} {kind}"
            )
        assert all(percent <= 100 for percent in self.parts.values()), f"{policy} overfilled a device"
