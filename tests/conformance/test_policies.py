"""One suite for every policy: run on made traces, each decision checked against what any policy must keep."""

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from holdtrue.cluster import (
    POLICIES,
    Cluster,
    ClusterState,
    Costs,
    Decision,
    Ended,
    Job,
    Lost,
    Opened,
    Outcome,
    Policy,
    PolicyChosen,
    Queue,
    Rates,
    Rounds,
    Schedule,
    ScheduleEvent,
    Submitted,
    advance_schedule,
    parse_cluster,
    run_simulation,
)
from holdtrue.cluster.traces import GeneratorOptions, adapt_jobs, generate_trace

ALL = sorted(POLICIES)
ONE_TYPE = parse_cluster("v100:8")
THREE_TYPES = parse_cluster("v100:8,p100:4,k80:8")
QUEUES = Cluster(
    devices=(("v100", 8),), queues=(Queue(name="a", guaranteed=4), Queue(name="b", guaranteed=2))
)
SPEEDS = {"p100": 0.5, "k80": 0.2}
COSTS = Costs(start_s=30, resume_s=40, checkpoint_s=5, grow_s=20, shrink_s=1)


def _jobs(cluster: Cluster, count: int = 30, seed: int = 0) -> tuple[Job, ...]:
    """A made trace with elastic and rigid jobs, parts of devices, and two queues."""
    made = generate_trace(GeneratorOptions(jobs=count, per_hour=20, seed=seed, shortest_s=300))
    jobs = []
    for i, job in enumerate(made):
        if i % 5 == 1:
            job = replace(job, min_devices=job.max_devices)
        if i % 7 == 2:
            rates = Rates(by_type=(("*", ((1, 1.0),)),))
            job = replace(job, max_devices=1, min_devices=1, percent=40, rates=rates)
        jobs.append(replace(job, queue="ab"[i % 2]))
    return adapt_jobs(jobs, cluster.kinds, SPEEDS)


def _checked(policy: Policy, seen: list[Decision]) -> Policy:
    """The policy, with every decision checked."""

    def decide(state: ClusterState) -> Decision:
        decision = policy.decide(state)
        seen.append(decision)
        assert decision.reason
        if decision.shares is None:
            _check_grants(state, decision)
        else:
            _check_shares(state, decision)
        return decision

    return replace(policy, decide=decide)


def _check_grants(state: ClusterState, decision: Decision) -> None:
    jobs = {view.job.id: view.job for view in state.jobs}
    assert set(decision.grants) <= set(jobs), "devices for a job that is not there"
    slots: dict[tuple[str, int], int] = {}
    whole = dict.fromkeys(state.cluster.kinds, 0)
    had = {view.job.id: view.grant for view in state.jobs if view.grant is not None}
    for name, grant in decision.grants.items():
        job = jobs[name]
        assert job.percent == 100 or had.get(name, grant) == grant, "a part is moved while it runs"
        assert job.min_devices <= grant.devices <= job.max_devices
        assert grant.percent == job.percent
        assert job.rate(grant) > 0, "devices that cannot run the job"
        for kind, n in grant.counts:
            if grant.percent < 100:
                slots[kind, grant.slot] = slots.get((kind, grant.slot), 0) + grant.percent
            else:
                whole[kind] += n
    for kind, count in state.cluster.devices:
        assert whole[kind] + sum(1 for k, _ in slots if k == kind) <= count, "more devices than exist"
    assert all(percent <= 100 for percent in slots.values()), "a device is shared beyond its whole"


def _check_shares(state: ClusterState, decision: Decision) -> None:
    assert decision.shares is not None
    assert list(decision.shares) == [view.job.id for view in state.jobs]
    for t, (_, count) in enumerate(state.cluster.devices):
        assert sum(share[t] for share in decision.shares.values()) <= count + 1e-4
    for view in state.jobs:
        share = decision.shares[view.job.id]
        assert min(share) >= 0
        assert sum(share) <= view.job.max_devices * view.job.percent / 100 + 1e-4
        assert sum(share) > 0, "a job that shares time gets none"


def _run(name: str, cluster: Cluster, jobs: Sequence[Job], *, costs: Costs = COSTS) -> Outcome:
    seen: list[Decision] = []
    outcome = run_simulation(jobs, cluster, _checked(POLICIES[name], seen), costs=costs)
    assert len(seen) == outcome.decisions > 0
    return outcome


@pytest.mark.parametrize(
    "cluster", [ONE_TYPE, THREE_TYPES, QUEUES], ids=["one-type", "three-types", "queues"]
)
@pytest.mark.parametrize("name", ALL)
def test_every_decision_fits_the_cluster_and_the_bounds_and_every_job_does_its_work(
    name: str, cluster: Cluster
) -> None:
    jobs = _jobs(cluster)
    outcome = _run(name, cluster, jobs)
    for job, done in zip(jobs, outcome.jobs, strict=True):
        assert done.job == job
        assert abs(done.done - job.work) <= 1e-6 * job.work
        assert job.arrival_s <= done.started_s < done.finished_s
        ends = [segment.end_s for segment in done.segments]
        assert all(s.start_s >= end for s, end in zip(done.segments[1:], ends, strict=False))


@pytest.mark.parametrize("name", ALL)
def test_the_devices_held_at_any_moment_exist(name: str) -> None:
    outcome = _run(name, THREE_TYPES, _jobs(THREE_TYPES, seed=3))
    changes = []
    for done in outcome.jobs:
        for segment in done.segments:
            for kind, n in segment.grant.counts:
                held = n * segment.grant.percent / 100
                changes += [(segment.start_s, 1, kind, held), (segment.end_s, 0, kind, -held)]
    use = dict.fromkeys(THREE_TYPES.kinds, 0.0)
    for _, _, kind, change in sorted(changes):
        use[kind] += change
        assert use[kind] <= THREE_TYPES.count(kind) + 1e-6


@pytest.mark.parametrize("name", ALL)
def test_the_same_input_gives_the_same_schedule(name: str) -> None:
    jobs = _jobs(THREE_TYPES, seed=1)
    assert _run(name, THREE_TYPES, jobs) == _run(name, THREE_TYPES, jobs)


@pytest.mark.parametrize("name", ALL)
def test_renaming_the_jobs_changes_nothing_else(name: str) -> None:
    jobs = _jobs(THREE_TYPES, seed=2)
    renamed = [replace(job, id=f"job-{(7 * i) % 30:02d}") for i, job in enumerate(jobs)]
    plain, other = _run(name, THREE_TYPES, jobs), _run(name, THREE_TYPES, renamed)
    assert [done.segments for done in plain.jobs] == [done.segments for done in other.jobs]
    assert [done.finished_s for done in plain.jobs] == [done.finished_s for done in other.jobs]


@pytest.mark.parametrize("name", ALL)
def test_a_job_alone_starts_at_once_and_takes_its_time_at_full_demand(name: str) -> None:
    rates = Rates(by_type=(("v100", ((1, 1.0), (4, 3.0))),))
    job = Job(id="only", arrival_s=100, work=3000, rates=rates, max_devices=4)
    if POLICIES[name].answers != "devices":
        job = replace(job, min_devices=4)
    done = _run(name, ONE_TYPE, [job], costs=Costs(start_s=60)).jobs[0]
    assert done.started_s == 100
    assert done.finished_s == pytest.approx(100 + 60 + 1000)
    assert done.useful_device_s == pytest.approx(4 * 1000)


def _stream(big_weight: float = 1.0) -> list[Job]:
    """One job that wants the whole cluster behind a stream of small ones that never leaves it empty."""
    rates = Rates(by_type=(("*", ((1, 1.0),)),), beyond="linear")
    small = [
        Job(id=f"s{i}", arrival_s=50.0 * i, work=400, rates=rates, weight=2.0, queue="a") for i in range(200)
    ]
    big = Job(
        id="big", arrival_s=60.0, work=8000, rates=rates, min_devices=8, max_devices=8, weight=big_weight
    )
    return [*small, big]


@pytest.mark.parametrize("name", [name for name in ALL if not POLICIES[name].starves])
def test_no_job_starves_where_the_policy_promises_it(name: str) -> None:
    outcome = _run(name, ONE_TYPE, _stream(), costs=Costs())
    big = outcome.jobs[-1]
    last_arrival_s = max(job.job.arrival_s for job in outcome.jobs)
    assert big.started_s < last_arrival_s / 4


@pytest.mark.parametrize("name", ["priority", "srtf"])
def test_the_starvation_test_can_fail(name: str) -> None:
    outcome = _run(name, ONE_TYPE, _stream(), costs=Costs())
    assert outcome.jobs[-1].started_s > 9000


@pytest.mark.parametrize("name", ["fifo", "wfs", "wfs-any", "max-min"])
def test_rounds_move_jobs_only_at_their_ends(name: str) -> None:
    jobs = _jobs(ONE_TYPE, seed=4)
    outcome = run_simulation(jobs, ONE_TYPE, POLICIES[name], rounds=Rounds(length_s=100, whole_steps=False))
    starts = {segment.start_s for done in outcome.jobs for segment in done.segments}
    ends = {segment.end_s for done in outcome.jobs for segment in done.segments[:-1]}
    assert ends <= starts | {done.finished_s for done in outcome.jobs} | ends
    assert all(abs(done.done - done.job.work) <= 1e-6 * done.job.work for done in outcome.jobs)


def _parts(cluster: Cluster, count: int = 40) -> tuple[Job, ...]:
    """Many more jobs of a part of a device at once than there are devices, and a few of whole ones among them."""
    draw = random.Random(1)
    one = Rates(by_type=(("*", ((1, 1.0), (4, 3.0))),))
    jobs = []
    for i in range(count):
        is_part = i % 8 != 5
        most = 1 if is_part else draw.randint(1, 4)
        jobs.append(
            Job(
                id=f"{i:02d}",
                arrival_s=3.0 * i,
                work=draw.randint(50, 400),
                rates=one,
                min_devices=draw.randint(1, most),
                max_devices=most,
                weight=draw.choice((1.0, 2.0, 5.0)),
                queue=draw.choice("ab"),
                percent=draw.choice((10, 30, 50, 60, 80)) if is_part else 100,
            )
        )
    return adapt_jobs(jobs, cluster.kinds, SPEEDS)


@pytest.mark.parametrize(
    "cluster",
    [parse_cluster("v100:4", "a=2,b=1"), parse_cluster("v100:4,k80:2")],
    ids=["one-type", "two-types"],
)
@pytest.mark.parametrize("name", ALL)
def test_more_parts_than_devices_fill_devices_and_never_more(name: str, cluster: Cluster) -> None:
    outcome = _run(name, cluster, jobs := _parts(cluster))
    assert all(abs(d.done - job.work) <= 1e-6 * job.work for d, job in zip(outcome.jobs, jobs, strict=True))
    changes = [
        (at_s, sign)
        for done in outcome.jobs
        for segment in done.segments
        for at_s, sign in ((segment.start_s, 1), (segment.end_s, -1))
    ]
    held = most = 0
    for _, sign in sorted(changes):
        held += sign
        most = max(most, held)
    assert most > cluster.total, "jobs shared devices"


@pytest.mark.parametrize("name", [name for name in ALL if not POLICIES[name].starves])
def test_neither_parts_nor_whole_jobs_starve_behind_a_stream_of_the_others(name: str) -> None:
    rates = Rates(by_type=(("*", ((1, 1.0),)),), beyond="linear")
    cluster = parse_cluster("v100:2")
    for stream, late in (((60, 1), (100, 2)), ((100, 2), (60, 1))):
        jobs = [
            Job(
                id=f"s{i}",
                arrival_s=100.0 * i,
                work=stream[1] * 150.0,
                rates=rates,
                percent=stream[0],
                min_devices=stream[1],
                max_devices=stream[1],
            )
            for i in range(60)
        ]
        last = Job(
            id="late",
            arrival_s=60.0,
            work=100,
            rates=rates,
            percent=late[0],
            min_devices=late[1],
            max_devices=late[1],
        )
        outcome = _run(name, cluster, [*jobs, last], costs=Costs())
        assert outcome.jobs[-1].started_s < 100.0 * 60 / 2


LIVE = sorted(name for name in ALL if POLICIES[name].answers == "devices")


@pytest.mark.parametrize("seed", range(24))
def test_live_decisions_fit_whatever_comes_goes_and_decides_next(seed: int) -> None:
    draw = random.Random(seed)
    cluster = draw.choice(
        [
            parse_cluster("cpu:1"),
            parse_cluster("cpu:2"),
            parse_cluster("cpu:3", "a=2,b=1"),
            parse_cluster("a:2,b:2"),
        ]
    )
    opened = Opened(cluster=cluster, policy=draw.choice(LIVE))
    schedule, _ = advance_schedule(Schedule(cluster=cluster, policy=opened.policy), opened, 0.0)
    for number in range(80):
        event = _draw_event(draw, schedule, number)
        at_s = 10.0 * number
        before = {view.job.id: view for view in schedule.views}
        schedule, decision = advance_schedule(schedule, event, at_s)
        assert decision is not None
        if isinstance(event, Lost):
            before[event.job] = replace(before[event.job], grant=None)
        there = tuple(before.get(view.job.id, replace(view, grant=None)) for view in schedule.views)
        _check_grants(ClusterState(now_s=at_s, cluster=cluster, jobs=there), decision)
        assert decision.grants or not schedule.views, f"{schedule.policy} leaves an idle cluster idle"


def _draw_event(draw: random.Random, schedule: Schedule, number: int) -> ScheduleEvent:
    """Something that may happen now: above all arrivals, of parts more often than of whole jobs."""
    names = [view.job.id for view in schedule.views]
    holders = [view.job.id for view in schedule.views if view.grant is not None]
    kind = draw.choices(("arrival", "end", "loss", "policy"), (5, 3, 1, 1))[0]
    if kind == "policy":
        return PolicyChosen(policy=draw.choice(LIVE))
    if kind == "loss" and holders:
        return Lost(job=draw.choice(holders))
    if kind == "end" and names:
        return Ended(job=draw.choice(holders or names))
    is_part = draw.random() < 0.6
    most = 1 if is_part else draw.randint(1, max(n for _, n in schedule.cluster.devices))
    return Submitted(
        job=Job(
            id=f"{number:02d}",
            arrival_s=10.0 * number,
            work=draw.randint(1, 1000),
            rates=Rates(by_type=(("*", ((most, 1.0),)),)),
            min_devices=draw.randint(1, most),
            max_devices=most,
            weight=draw.choice((1.0, 2.0, 5.0)),
            queue=draw.choice("ab"),
            percent=draw.choice((10, 30, 50, 60, 80)) if is_part else 100,
        )
    )
