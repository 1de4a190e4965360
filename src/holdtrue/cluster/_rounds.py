"""Rounds: shares of time made real, a few minutes at a time.

A policy that shares time says how many devices of each type a job should have on average. A round gives devices
to the jobs that are furthest behind what they should have had.
"""

from collections.abc import Callable, Mapping, Sequence

from ._jobs import Cluster, Grant, Job
from ._outcome import Costs, JobOutcome, Rounds
from ._progress import Progress
from ._sharebook import ShareBook, choose_mixed, choose_rigid
from ._state import ClusterState, Decision
from .policies import Policy, isolated_rates

OnProgress = Callable[[int, int], None]


def run_rounds(
    jobs: Sequence[Job],
    cluster: Cluster,
    policy: Policy,
    costs: Costs,
    rounds: Rounds,
    on_progress: OnProgress | None = None,
) -> tuple[dict[str, JobOutcome], int]:
    """Simulate `jobs`, which are in order of arrival, in rounds.

    Returns:
        Outcomes by job id, and the number of decisions.

    Source:
        The round mechanism of Gavel (Narayanan et al., OSDI 2020), section 5.
    """
    simulation = _RoundSimulation(jobs, cluster, policy, costs, rounds, on_progress)
    return simulation.run(), simulation.decisions


class _RoundSimulation:
    """One owner of all mutable state of a run in rounds."""

    def __init__(
        self,
        jobs: Sequence[Job],
        cluster: Cluster,
        policy: Policy,
        costs: Costs,
        rounds: Rounds,
        on_progress: OnProgress | None,
    ) -> None:
        self.jobs, self.cluster, self.policy, self.costs, self.rounds = jobs, cluster, policy, costs, rounds
        self.on_progress = on_progress
        self.active: dict[str, Progress] = {}
        self.done: dict[str, JobOutcome] = {}
        self.book = ShareBook(cluster, rounds.length_s)
        self.decision = Decision()
        self.alone: dict[str, float] = {}
        self.decisions = self.arrived = self.turn = 0
        self.changed = False
        self.area = self.area_at_s = 0.0

    def run(self) -> dict[str, JobOutcome]:
        """Run all rounds; outcomes by job id."""
        now_s = 0.0
        while self.arrived < len(self.jobs) or self.active:
            if not self.active:
                now_s = max(now_s, self.jobs[self.arrived].arrival_s)
            self._admit(now_s)
            self._decide(now_s)
            now_s = self._run_round(now_s)
        return self.done

    def _admit(self, now_s: float) -> None:
        while self.arrived < len(self.jobs) and self.jobs[self.arrived].arrival_s <= now_s:
            job = self.jobs[self.arrived]
            self._count(job.arrival_s)
            self.active[job.id] = Progress(job, self.area)
            self.book.add(job)
            self.arrived += 1
            self.changed = True

    def _count(self, at_s: float) -> None:
        """Integrate the number of jobs; what happens within a round is seen when the round is over."""
        self.area += len(self.active) * max(0.0, at_s - self.area_at_s)
        self.area_at_s = max(self.area_at_s, at_s)

    def _decide(self, now_s: float) -> None:
        """Ask the policy if jobs came or went and the last answer is old enough."""
        if not self.changed or not self.book.may_reset(now_s, self.rounds.decide_every_s):
            return
        self.book.reset(now_s, self.decision.shares or {})
        views = tuple(progress.view() for progress in self.active.values())
        state = ClusterState(now_s=now_s, cluster=self.cluster, jobs=views)
        self.decision = self.policy.decide(state)
        if self.policy.answers != "devices":
            self.alone = dict(zip(self.active, isolated_rates(state), strict=True))
        self.decisions += 1
        self.changed = False

    def _choose(self, now_s: float) -> Mapping[str, Grant]:
        if self.decision.shares is None:
            return self.decision.grants
        views = [progress.view() for progress in self.active.values()]
        shares, book = self.decision.shares, self.book
        if self.policy.answers == "mixed time":
            return choose_mixed(self.cluster, views, shares, book, now_s)
        self.turn += 1
        order = book.order_types(self.policy.types, self.turn)
        return choose_rigid(self.cluster, views, shares, book, order, now_s)

    def _run_round(self, now_s: float) -> float:
        """Move jobs, make steps, end jobs; returns when the round is over."""
        grants = self._choose(now_s)
        _check_fits(self.cluster, grants, self.policy.name)
        for name, progress in self.active.items():
            if progress.grant != grants.get(name):
                progress.change(grants.get(name), now_s, self.costs)
        until_s = now_s + self.rounds.length_s
        ends = {name: self._step(self.active[name], now_s, until_s) for name in self.active if name in grants}
        over_s = max(ends.values(), default=self._idle_until(now_s))
        for name, end_s in ends.items():
            self.book.spend(name, grants[name], now_s, end_s - now_s)
        self._end_jobs(ends, over_s)
        return over_s

    def _step(self, progress: Progress, now_s: float, until_s: float) -> float:
        before = progress.done
        end_s = progress.run_until(now_s, until_s, whole_steps=self.rounds.whole_steps)
        if alone := self.alone.get(progress.job.id):
            progress.isolated_s += (progress.done - before) / alone
        return end_s

    def _idle_until(self, now_s: float) -> float:
        """When to look again if no job runs: a round later, or at the next arrival."""
        if self.arrived < len(self.jobs) and not self.active:
            return self.jobs[self.arrived].arrival_s
        return now_s + self.rounds.length_s

    def _end_jobs(self, ends: Mapping[str, float], over_s: float) -> None:
        finished = sorted((name for name in ends if self.active[name].is_done), key=lambda name: ends[name])
        for name in finished:
            self._count(ends[name])
            progress = self.active.pop(name)
            progress.finish(ends[name])
            self.book.remove(name)
            self.done[name] = progress.outcome(ends[name], self.area)
            self.changed = True
            if self.on_progress is not None:
                self.on_progress(len(self.done), len(self.jobs))
        for progress in self.active.values():
            progress.as_of_s = max(progress.as_of_s, over_s)


def _check_fits(cluster: Cluster, grants: Mapping[str, Grant], policy: str) -> None:
    for kind, count in cluster.devices:
        whole = sum(n for g in grants.values() if g.percent == 100 for k, n in g.counts if k == kind)
        slots = {g.slot for g in grants.values() if g.percent < 100 and g.counts[0][0] == kind}
        assert whole + len(slots) <= count, f"{policy} gave {whole} + {len(slots)} of {count} {kind}"
