"""The event-driven simulator: when progress is made, what changes cost, what is refused."""

import pytest

from holdtrue.cluster import (
    POLICIES,
    Cluster,
    ClusterState,
    Costs,
    Decision,
    Grant,
    Job,
    Policy,
    Rates,
    Rounds,
    parse_cluster,
    run_simulation,
)
from holdtrue.errors import UsageError

LINEAR = Rates(by_type=(("*", ((1, 1.0),)),), beyond="linear")
FOUR = parse_cluster("v100:4")


def _job(
    name: str, arrival_s: float, work: float, *, least: int = 1, most: int = 4, weight: float = 1.0
) -> Job:
    return Job(
        id=name,
        arrival_s=arrival_s,
        work=work,
        rates=LINEAR,
        min_devices=least,
        max_devices=most,
        weight=weight,
    )


def test_progress_counts_from_the_end_of_the_start_and_not_from_arrival() -> None:
    jobs = [_job("a", 0, 400, least=4), _job("b", 10, 400, least=4)]
    first, second = run_simulation(jobs, FOUR, POLICIES["fifo"], costs=Costs(start_s=5)).jobs
    assert (first.started_s, first.finished_s) == (0, 105)
    assert (second.started_s, second.finished_s) == (105, 210)
    assert second.queuing_s == 95


def test_a_shrinking_job_pauses_and_a_growing_one_goes_on_with_what_it_has() -> None:
    jobs = [_job("a", 0, 1000), _job("b", 100, 100, most=2)]
    costs = Costs(grow_s=20, shrink_s=10)
    long, short = run_simulation(jobs, FOUR, POLICIES["wfs"], costs=costs).jobs
    # b: 2 devices from 100, 50 s. a: 400 steps by 100; pauses 10 s; 40 s at 2: 80 steps by 150; grows for 20 s at
    # 2: 40 steps by 170; 480 left at 4: 120 s.
    assert (short.started_s, short.finished_s) == (100, 150)
    assert long.finished_s == pytest.approx(290)
    assert long.resizes == 2
    assert [segment.grant.devices for segment in long.segments] == [4, 2, 4]
    assert long.held_device_s == pytest.approx(4 * 100 + 2 * 50 + 4 * 140)
    assert long.useful_device_s == pytest.approx(4 * 100 + 2 * 60 + 4 * 120)


def test_a_stopped_job_pays_for_its_checkpoint_and_its_restart() -> None:
    jobs = [_job("long", 0, 4000, least=4), _job("short", 100, 40, least=4)]
    costs = Costs(start_s=5, resume_s=30, checkpoint_s=7)
    long, short = run_simulation(jobs, FOUR, POLICIES["srtf"], costs=costs).jobs
    assert short.finished_s == 115
    assert long.stops == 1
    assert long.finished_s == pytest.approx(115 + 37 + (4000 - 4 * 95) / 4)


def test_a_job_moved_while_it_starts_still_starts_whole() -> None:
    jobs = [_job("a", 0, 400), _job("b", 10, 100, most=2)]
    moved, _ = run_simulation(jobs, FOUR, POLICIES["wfs"], costs=Costs(start_s=60)).jobs
    assert moved.useful_device_s == pytest.approx(400)
    assert moved.done == pytest.approx(400)


def test_backfill_never_delays_the_first_in_line() -> None:
    jobs = [
        _job("running", 0, 300, least=3, most=3),
        _job("head", 1, 400, least=4),
        _job("fits", 2, 50, most=1),
        _job("too-long", 3, 500, most=1),
    ]
    outcome = run_simulation(jobs, FOUR, POLICIES["fifo"])
    started = {done.job.id: done.started_s for done in outcome.jobs}
    assert started == {"running": 0, "head": 100, "fits": 2, "too-long": 200}


def test_static_priority_lets_the_first_in_line_block_the_rest() -> None:
    jobs = [
        _job("running", 0, 300, least=3, most=3),
        _job("head", 1, 400, least=4),
        _job("fits", 2, 50, most=1),
    ]
    outcome = run_simulation(jobs, FOUR, POLICIES["priority"])
    assert outcome.jobs[2].started_s == 200


def test_a_mixed_allocation_works_at_the_sum_of_its_devices_rates() -> None:
    rates = Rates(by_type=(("v100", ((1, 4.0),)), ("k80", ((1, 1.0),))), beyond="linear")
    job = Job(id="a", arrival_s=0, work=1000, rates=rates, max_devices=4)
    cluster = parse_cluster("v100:2,k80:2")
    with pytest.raises(UsageError, match="asks for 4 devices of one type"):
        run_simulation([job], cluster, POLICIES["fifo"])
    done = run_simulation([job], parse_cluster("v100:2,k80:4"), POLICIES["wfs"]).jobs[0]
    assert dict(done.segments[0].grant.counts) == {"v100": 2, "k80": 2}
    assert done.finished_s == pytest.approx(1000 / 10)


def test_a_round_ends_with_its_last_whole_step() -> None:
    job = Job(id="a", arrival_s=0, work=10, rates=Rates(by_type=(("*", ((1, 0.03),)),)))
    done = run_simulation([job], FOUR, POLICIES["fifo"], rounds=Rounds(length_s=100)).jobs[0]
    assert done.finished_s == pytest.approx(10 / 0.03)


def test_a_policy_that_gives_away_too_much_is_caught() -> None:
    def decide(state: ClusterState) -> Decision:
        return Decision(
            grants={view.job.id: Grant(counts=(("v100", 3),)) for view in state.jobs}, reason="greedy"
        )

    greedy = Policy(name="greedy", sentence="gives too much", decide=decide)
    with pytest.raises(AssertionError, match="gave 6"):
        run_simulation([_job("a", 0, 9), _job("b", 0, 9)], FOUR, greedy)


def test_a_policy_that_gives_nothing_on_an_idle_cluster_ends_in_a_sentence() -> None:
    idle = Policy(name="idle", sentence="gives nothing", decide=lambda state: Decision(reason="none"))
    with pytest.raises(UsageError, match="idle gives no devices to the 1 jobs that are left"):
        run_simulation([_job("a", 0, 9)], FOUR, idle)


@pytest.mark.parametrize(
    ("jobs", "sentence"),
    [
        ([], "there are no jobs"),
        ([_job("a", 0, 1), _job("a", 1, 1)], "two jobs have the id 'a'"),
        ([_job("a", 0, 1, most=5)], "asks for 5 devices of one type and the cluster has at most 4"),
    ],
)
def test_impossible_traces_are_refused_before_anything_runs(jobs: list[Job], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        run_simulation(jobs, FOUR, POLICIES["wfs"])


def test_progress_is_reported_job_by_job() -> None:
    seen: list[tuple[int, int]] = []
    jobs = [_job("a", 0, 9), _job("b", 0, 9), _job("c", 5, 9)]
    run_simulation(jobs, FOUR, POLICIES["wfs"], on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("field", ["start_s", "grow_s", "checkpoint_s"])
def test_negative_costs_are_refused(field: str) -> None:
    with pytest.raises(UsageError, match=f"{field} is -1"):
        Costs(**{field: -1.0})


def test_clusters_are_checked() -> None:
    for devices in ((), (("v100", 0),), (("v100", 1), ("v100", 2))):
        with pytest.raises(UsageError, match="one entry of 1 or more devices for each type"):
            Cluster(devices=devices)
    with pytest.raises(UsageError, match="guaranteed 9 devices of 4"):
        parse_cluster("v100:4", "a=5,b=4")
    for text in ("v100", "v100:x", "v100:4,"):
        with pytest.raises(UsageError, match="parts are written v100:8,p100:16"):
            parse_cluster(text)
