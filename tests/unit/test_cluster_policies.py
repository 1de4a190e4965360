"""Single decisions: shares in any count, queues, parts of devices, time shares."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdtrue.cluster import (
    POLICIES,
    Cluster,
    ClusterState,
    Costs,
    FreeDevices,
    Grant,
    Job,
    JobView,
    Queue,
    Rates,
    find_policies,
    parse_cluster,
    run_simulation,
)
from holdtrue.cluster.policies import Bounds, divide_any_count, divide_power_of_two
from holdtrue.errors import UsageError

LINEAR = Rates(by_type=(("*", ((1, 1.0),)),), beyond="linear")
LENDING = Cluster(
    devices=(("v100", 8),), queues=(Queue(name="a", guaranteed=6), Queue(name="b", guaranteed=2))
)


def _job(
    name: str, *, least: int = 1, most: int = 8, queue: str = "default", percent: int = 100, at: float = 0.0
) -> Job:
    return Job(
        id=name,
        arrival_s=at,
        work=1000,
        rates=LINEAR,
        min_devices=least,
        max_devices=most,
        queue=queue,
        percent=percent,
    )


def _counts(name: str, cluster: Cluster, views: list[JobView]) -> dict[str, int]:
    state = ClusterState(now_s=10, cluster=cluster, jobs=tuple(views))
    return {job: grant.devices for job, grant in POLICIES[name].decide(state).grants.items()}


@given(
    devices=st.integers(1, 64),
    jobs=st.lists(st.tuples(st.integers(1, 20), st.integers(1, 32)), min_size=1, max_size=20),
)
def test_power_of_two_shares_fit_and_stay_within_demand(devices: int, jobs: list[tuple[int, int]]) -> None:
    jobs = jobs[:devices]
    given_ = divide_power_of_two(devices, jobs)
    assert sum(given_) <= devices
    assert all(1 <= n <= demand for n, (_, demand) in zip(given_, jobs, strict=True))
    assert all(
        n == demand or n & (n - 1) == 0 or 2 * n > demand for n, (_, demand) in zip(given_, jobs, strict=True)
    )


def test_more_jobs_than_devices_are_refused_by_the_published_rule() -> None:
    with pytest.raises(UsageError, match="3 jobs are to share 2 devices"):
        divide_power_of_two(2, [(1, 1)] * 3)


@given(
    devices=st.integers(1, 64),
    jobs=st.lists(
        st.tuples(st.integers(1, 20), st.integers(0, 6), st.integers(0, 12)), min_size=1, max_size=12
    ),
)
def test_any_count_shares_fill_the_cluster_within_all_bounds(
    devices: int, jobs: list[tuple[int, int, int]]
) -> None:
    bounds = [Bounds(weight=w, least=least, most=least + more) for w, least, more in jobs]
    if sum(b.least for b in bounds) > devices:
        with pytest.raises(UsageError, match="minima"):
            divide_any_count(devices, bounds)
        return
    counts = divide_any_count(devices, bounds)
    assert sum(counts) == min(devices, sum(b.most for b in bounds))
    assert all(b.least <= n <= b.most for n, b in zip(counts, bounds, strict=True))


def test_any_count_shares_follow_the_weights() -> None:
    bounds = [Bounds(weight=w, least=1, most=100) for w in (1, 2, 5)]
    assert divide_any_count(80, bounds) == [10, 20, 50]


def test_a_queue_borrows_what_others_do_not_use() -> None:
    assert _counts("queues", LENDING, [JobView(job=_job("b1", queue="b"))]) == {"b1": 8}


def test_an_owner_gets_its_guarantee_back_by_shrinking_the_borrower() -> None:
    borrower = JobView(job=_job("b1", queue="b"), grant=Grant(counts=(("v100", 8),)), started=True)
    owner = JobView(job=_job("a1", queue="a"))
    assert _counts("queues", LENDING, [borrower, owner]) == {"b1": 2, "a1": 6}


def test_a_borrower_is_stopped_only_when_its_minimum_does_not_fit() -> None:
    borrower = JobView(job=_job("b1", queue="b", least=4), grant=Grant(counts=(("v100", 8),)), started=True)
    owner = JobView(job=_job("a1", queue="a"))
    assert _counts("queues", LENDING, [borrower, owner]) == {"a1": 8}
    modest = JobView(job=_job("a1", queue="a", most=4))
    assert _counts("queues", LENDING, [borrower, modest]) == {"b1": 4, "a1": 4}


def test_lending_and_return_are_resizes_in_the_simulator_and_not_stops() -> None:
    jobs = [_job("b1", queue="b"), _job("a1", queue="a", at=50)]
    borrower, owner = run_simulation(jobs, LENDING, POLICIES["queues"], costs=Costs(shrink_s=1)).jobs
    assert (owner.started_s, owner.segments[0].grant.devices) == (50, 6)
    assert (borrower.stops, borrower.resizes) == (0, 2)


@pytest.mark.parametrize("name", ["queues", "fifo", "srtf", "wfs-any", "max-min"])
def test_two_jobs_of_half_a_device_share_one_and_are_kept_to_their_share(name: str) -> None:
    jobs = [_job("h1", most=1, percent=50), _job("h2", most=1, percent=50)]
    one = parse_cluster("v100:2") if name == "wfs-any" else parse_cluster("v100:1")
    outcome = run_simulation(jobs, one, POLICIES[name])
    for done in outcome.jobs:
        assert done.started_s == 0
        assert done.finished_s == pytest.approx(2000)
    slots = {done.segments[0].grant.slot for done in outcome.jobs}
    assert slots == {0}


def test_a_part_waits_when_no_device_has_room_for_it() -> None:
    jobs = [_job("p1", most=1, percent=60), _job("p2", most=1, percent=60)]
    first, second = run_simulation(jobs, parse_cluster("v100:1"), POLICIES["queues"]).jobs
    assert second.started_s == first.finished_s


def test_the_fullest_shared_device_with_room_is_taken_first() -> None:
    free = FreeDevices(parse_cluster("v100:3"), ())
    slots = []
    for percent in (50, 70, 30, 50):
        grant = free.take_part("v100", percent)
        assert grant is not None
        slots.append(grant.slot)
    assert slots == [0, 1, 1, 0]
    assert free.total == 1


def test_max_min_gives_jobs_that_are_alike_the_same_share() -> None:
    cluster = parse_cluster("v100:4,k80:4")
    fast = Rates(by_type=(("v100", ((1, 4.0),)), ("k80", ((1, 1.0),))))
    jobs = [Job(id=str(i), arrival_s=i, work=10, rates=fast) for i in range(12)]
    state = ClusterState(now_s=20, cluster=cluster, jobs=tuple(JobView(job=job) for job in jobs))
    for name in ("max-min", "max-min-aware", "makespan"):
        shares = POLICIES[name].decide(state).shares
        assert shares is not None
        assert len(set(shares.values())) == 1
        assert sum(shares["0"]) == pytest.approx(8 / 12, rel=2e-3)


def test_the_aware_policy_sends_each_job_to_the_type_that_suits_it() -> None:
    cluster = parse_cluster("v100:2,p100:2")
    likes_v = Rates(by_type=(("v100", ((1, 10.0),)), ("p100", ((1, 2.0),))))
    likes_p = Rates(by_type=(("v100", ((1, 2.0),)), ("p100", ((1, 10.0),))))
    jobs = [Job(id=str(i), arrival_s=0, work=10, rates=(likes_v, likes_p)[i % 2]) for i in range(4)]
    state = ClusterState(now_s=0, cluster=cluster, jobs=tuple(JobView(job=job) for job in jobs))
    shares = POLICIES["max-min-aware"].decide(state).shares
    assert shares is not None
    for i in range(4):
        assert shares[str(i)][i % 2] > 0.99


def test_unknown_policies_are_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="there is no policy 'drf'; the policies are fifo, priority"):
        find_policies("wfs,drf")
    with pytest.raises(UsageError, match="each once"):
        find_policies("wfs,wfs")
    with pytest.raises(UsageError, match="name one or more"):
        find_policies(" ,")
