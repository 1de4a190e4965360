"""The scheduler in a world of its own: jobs without processes, and a scheduler that dies at every place where it can."""

import asyncio
import itertools
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from signal import Signals

import pytest
from scheduler_world import TWO, SchedulerKilled, World, open_store, request, take_turns

from holdtrue.cluster import Cluster, Queue, replay_schedule
from holdtrue.errors import UsageError
from holdtrue.scheduler import _scheduler
from holdtrue.scheduler._records import JobRecord
from holdtrue.scheduler._scheduler import Scheduler
from holdtrue.scheduler._store import Store


def live_through(
    folder: Path, world: World, policy: str, act: Callable[[Scheduler], None]
) -> list[JobRecord]:
    """A scheduler to the end of all jobs; where it dies, the next one goes on. `act` is done until it is done once."""
    has_acted, deaths = False, 0
    while True:
        store = open_store(folder, world)
        try:
            scheduler = Scheduler(store, world, TWO if deaths == 0 else None, policy if deaths == 0 else None)
            if not has_acted:
                names = {r.request.name for r in scheduler.jobs.values()}
                if not names:
                    act(scheduler)
                has_acted = True
            take_turns(scheduler)
            records = list(scheduler.jobs.values())
            replay = replay_schedule(store.log())
            assert replay.decisions > 2
            assert replay.differences == ()
            return records
        except SchedulerKilled:
            deaths += 1
            if not (folder / "cluster.sqlite").exists() or not Store(folder / "cluster.sqlite").log():
                deaths = 0  # it died before the cluster was opened
        finally:
            store.close()


@pytest.mark.parametrize(
    ("policy", "stride"),
    [("wfs", 3), *(pytest.param(name, 1, marks=pytest.mark.slow) for name in ("wfs", "srtf"))],
)
def test_a_scheduler_killed_at_any_moment_loses_no_job_and_starts_none_twice(
    tmp_path: Path, policy: str, stride: int
) -> None:
    def act(scheduler: Scheduler) -> None:
        scheduler.submit(
            [
                request("long", tmp_path, max_devices=2, expected_s=100),
                request("crashes", tmp_path, max_devices=2, retries=1, expected_s=10, weight=2),
                request("fails", tmp_path, expected_s=50),
            ]
        )

    for deadly in itertools.count(1, stride):
        folder = tmp_path / f"{policy}-{deadly}"
        folder.mkdir()
        world = World(statuses={"crashes": [1], "fails": [3]}, deadly=deadly)
        records = live_through(folder, world, policy, act)
        ends = {r.request.name: (r.state, r.exit_code, r.crashes) for r in records}
        assert ends == {"long": ("finished", 0, 0), "crashes": ("finished", 0, 1), "fails": ("failed", 3, 1)}
        assert len(world.begun) == len(set(world.begun))
        if world.calls < deadly:
            break  # there were not so many moments
    assert deadly > 40, "the scheduler was to die at many places"


def test_a_dead_mans_job_that_ended_meanwhile_has_its_exit_status(tmp_path: Path) -> None:
    world = World(statuses={"a": [7]})
    store = open_store(tmp_path, world)
    scheduler = Scheduler(store, world, TWO, None)
    scheduler.submit([request("a", tmp_path)])
    asyncio.run(scheduler._turn())
    world.attempts[(1, 1)].exit_code = 7  # while nobody looks
    store.close()
    again = Scheduler(open_store(tmp_path, world), world, None, None)
    take_turns(again)
    assert (again.jobs[1].state, again.jobs[1].exit_code) == ("failed", 7)
    assert again.jobs[1].ending == "It ended with exit status 7. said so"


def test_devices_change_hands_when_they_are_free_and_not_before(tmp_path: Path) -> None:
    world = World(length=8)
    scheduler = Scheduler(open_store(tmp_path, world), world, TWO, None)
    scheduler.submit([request("first", tmp_path, max_devices=2)])
    asyncio.run(scheduler._turn())
    scheduler.submit([request("second", tmp_path)])
    asyncio.run(scheduler._turn())
    assert world.begun == [("first", 1)], "the first one's worker has not left yet"
    take_turns(scheduler)
    assert world.begun == [("first", 1), ("second", 1)]
    assert world.most_held == 2


def test_cancelled_jobs_end_and_others_get_their_devices(tmp_path: Path) -> None:
    world = World(length=6)
    scheduler = Scheduler(open_store(tmp_path, world), world, TWO, "fifo")
    names = ["runs", "waits", "next"]
    scheduler.submit([request(name, tmp_path, max_devices=2, min_devices=2) for name in names])
    asyncio.run(scheduler._turn())
    asyncio.run(scheduler._turn())
    assert scheduler.cancel("waits") == "waits is cancelled; it had not started."
    assert "checkpoint" in scheduler.cancel("runs")
    take_turns(scheduler)
    assert [r.state for r in scheduler.jobs.values()] == ["cancelled", "cancelled", "finished"]
    assert world.begun == [("runs", 1), ("next", 1)]
    with pytest.raises(UsageError, match="no job 'runs' that waits or runs; there are: none"):
        scheduler.cancel("runs")


def test_a_policy_chosen_while_jobs_run_decides_at_once(tmp_path: Path) -> None:
    world = World(length=9)
    scheduler = Scheduler(open_store(tmp_path, world), world, TWO, "priority")
    scheduler.submit([request("a", tmp_path, max_devices=2), request("b", tmp_path, max_devices=2)])
    asyncio.run(scheduler._turn())
    assert [grant and grant.devices for grant in map(scheduler.schedule.grant_of, "12")] == [2, None]
    assert scheduler.choose_policy("wfs").startswith("the policy is wfs")
    assert [grant and grant.devices for grant in map(scheduler.schedule.grant_of, "12")] == [1, 1]
    with pytest.raises(UsageError, match="max-min shares time"):
        scheduler.choose_policy("max-min")
    with pytest.raises(UsageError, match="no policy 'best'"):
        scheduler.choose_policy("best")


def test_a_queue_lends_what_it_does_not_need_and_gets_it_back_by_shrinking_the_borrower(
    tmp_path: Path,
) -> None:
    world = World(length=12)
    shares = Cluster(
        devices=(("cpu", 2),), queues=(Queue(name="a", guaranteed=1), Queue(name="b", guaranteed=1))
    )
    store = open_store(tmp_path, world)
    scheduler = Scheduler(store, world, shares, "queues")
    scheduler.submit([request("borrower", tmp_path, queue="a", max_devices=2)])
    asyncio.run(scheduler._turn())
    assert world.attempts[(1, 1)].target == 2, "b needs nothing and lends"
    scheduler.submit([request("owner", tmp_path, queue="b", max_devices=2)])
    for _ in range(3):
        asyncio.run(scheduler._turn())
    assert [(a.target, a.is_stopping) for a in world.attempts.values()] == [(1, False), (1, False)]
    assert world.begun == [("borrower", 1), ("owner", 1)], "shrunk, not stopped"
    scheduler.cancel("borrower")
    for _ in range(3):
        asyncio.run(scheduler._turn())
    assert world.attempts[(2, 1)].target == 2, "now a lends"
    take_turns(scheduler)
    assert replay_schedule(store.log()).differences == ()


def test_parts_of_a_device_share_one_and_leave_the_other_to_a_whole_job(tmp_path: Path) -> None:
    world = World(length=5)
    scheduler = Scheduler(open_store(tmp_path, world), world, TWO, "queues")
    halves = [request(f"half-{i}", tmp_path, percent=50) for i in range(3)]
    scheduler.submit([halves[0], request("whole", tmp_path, weight=2), halves[1], halves[2]])
    asyncio.run(scheduler._turn())
    assert world.begun == [("half-0", 1), ("whole", 1), ("half-1", 1)], "the third half has no room"
    take_turns(scheduler)
    assert world.most_held == 2
    assert all(record.state == "finished" for record in scheduler.jobs.values())


def test_nothing_is_half_submitted(tmp_path: Path) -> None:
    world = World()
    scheduler = Scheduler(open_store(tmp_path, world), world, TWO, None)
    good = request("good", tmp_path)
    wrong = [
        (
            request("big", tmp_path, max_devices=3),
            "asks for 3 devices of one type and the cluster has at most 2",
        ),
        (
            request("lost", tmp_path, queue="research"),
            "for the queue 'research', and the cluster has default",
        ),
        (replace(good, script=str(tmp_path / "none.py")), "there is no such file"),
        (replace(good, name="other", folder=str(tmp_path / "none")), "there is no such folder"),
        (good, "a job called 'good' waits or runs already"),
        (request("taken", tmp_path), "a job called 'taken' runs already, beside this cluster"),
    ]
    for bad, words in wrong:
        with pytest.raises(UsageError, match=words):
            scheduler.submit([good, bad])
        assert scheduler.jobs == {}
    scheduler.submit([good])
    with pytest.raises(UsageError, match="cancel good"):
        scheduler.submit([good])
    assert list(scheduler.jobs) == [1]


def test_an_attempt_that_was_killed_is_noted_before_the_next_one_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, noted = World(length=3, statuses={"a": [-9]}), list[int]()
    monkeypatch.setattr(_scheduler, "ORPHANS_S", 0.0)
    monkeypatch.setattr(world, "note_killed", lambda record: noted.append(len(world.begun)), raising=True)
    scheduler = Scheduler(open_store(tmp_path, world), world, TWO, None)
    scheduler.submit([request("a", tmp_path, retries=1)])
    take_turns(scheduler)
    assert (noted, world.begun) == ([1], [("a", 1), ("a", 2)])


def test_a_restarted_scheduler_asks_on_which_shared_device_a_part_was_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(length=9)
    store = open_store(tmp_path, world)
    scheduler = Scheduler(store, world, TWO, None)
    scheduler.submit([request("a", tmp_path, percent=50)])
    asyncio.run(scheduler._turn())

    def slots(said: int | None) -> int:
        monkeypatch.setattr(world, "slot", lambda record: said)
        return Scheduler(store, world, None, None)._running[1].slot

    granted = scheduler._running[1].slot
    assert (slots(granted + 1), slots(None)) == (granted + 1, granted)
    scheduler._change(replace(scheduler.jobs[1], purpose="preempt"))
    assert (slots(granted), slots(None)) == (granted, -1), "its grant may be a new one"


def test_other_devices_are_refused_while_jobs_are_not_over(tmp_path: Path) -> None:
    world = World()
    store = open_store(tmp_path, world)
    with pytest.raises(UsageError, match="no devices are named"):
        Scheduler(store, world, None, None)
    scheduler = Scheduler(store, world, TWO, None)
    scheduler.submit([request("a", tmp_path)])
    queues = Cluster(devices=(("cpu", 2),), queues=(Queue(name="q", guaranteed=1),))
    with pytest.raises(UsageError, match=r"has jobs that are not over \(a\)"):
        Scheduler(store, world, queues, None)
    assert Scheduler(store, world, TWO, None).schedule.policy == "wfs"
    (tmp_path / "x").write_text("no database")
    with pytest.raises(UsageError, match="damaged, or no cluster's file"):
        Store(tmp_path / "x")


def test_a_job_that_keeps_losing_workers_is_given_new_ones_a_few_times_only(tmp_path: Path) -> None:
    world = World(length=40)
    scheduler = Scheduler(open_store(tmp_path, world), world, TWO, None)
    scheduler.submit([request("a", tmp_path, max_devices=2)])
    resizes = 0
    for _ in range(12):
        asyncio.run(scheduler._turn())
        attempt = world.attempts[(1, 1)]
        resizes += attempt.target == 2
        attempt.target = attempt.workers = 1  # a worker died; nobody is hired in its place
    assert resizes == 4, "at the start, and three times after"


def test_a_job_that_lost_workers_often_is_made_smaller_when_others_need_its_devices(tmp_path: Path) -> None:
    world = World(length=60)
    scheduler = Scheduler(open_store(tmp_path, world), world, TWO, None)
    scheduler.submit([request("a", tmp_path, max_devices=2)])
    asyncio.run(scheduler._turn())
    attempt = world.attempts[(1, 1)]
    for _ in range(3):  # as often as it is replaced, and it holds two devices at last
        attempt.target = attempt.workers = 1
        asyncio.run(scheduler._turn())
    scheduler._running[1].regrowths += 1
    scheduler.submit([request("b", tmp_path, weight=5)])
    for _ in range(3):
        asyncio.run(scheduler._turn())
    assert attempt.target == 1
    assert world.begun == [("a", 1), ("b", 1)]


def test_devices_of_workers_that_leave_slowly_are_not_given_twice_while_nobody_answers(
    tmp_path: Path,
) -> None:
    world = World(length=30, leaves_slowly=3)
    scheduler = Scheduler(open_store(tmp_path, world), world, TWO, None)
    scheduler.submit([request("first", tmp_path, max_devices=2)])
    for _ in range(2):
        asyncio.run(scheduler._turn())
    scheduler.submit([request("second", tmp_path)])
    asyncio.run(scheduler._turn())
    assert world.attempts[(1, 1)].leaving == 1, "told, and still there"
    world.is_mute = True
    asyncio.run(scheduler._turn())
    assert world.begun == [("first", 1)]
    world.is_mute = False
    take_turns(scheduler, most=90)
    assert world.begun == [("first", 1), ("second", 1)]


def test_stopping_the_scheduler_while_it_looks_at_jobs_stops_none_of_them(tmp_path: Path) -> None:
    world = World(length=30)
    scheduler = Scheduler(open_store(tmp_path, world), world, TWO, None)
    scheduler.submit([request("a", tmp_path)])
    asyncio.run(scheduler._turn())
    world.on_look = lambda: scheduler.close(ends_jobs=False)
    asyncio.run(scheduler._turn())
    assert scheduler.is_closing
    assert not world.attempts[(1, 1)].is_stopping
    assert scheduler.jobs[1].purpose == ""


def test_a_job_that_cannot_be_started_can_be_cancelled(tmp_path: Path) -> None:
    world = World(is_full=True)
    scheduler = Scheduler(open_store(tmp_path, world), world, TWO, None)
    scheduler.submit([request("a", tmp_path)])
    for _ in range(3):
        asyncio.run(scheduler._turn())
    assert (scheduler.jobs[1].state, world.begun) == ("running", [])
    scheduler.cancel("a")
    asyncio.run(scheduler._turn())
    assert scheduler.jobs[1].state == "cancelled"


def test_a_job_that_cannot_be_asked_to_end_is_sent_signals_after_a_bounded_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(length=1000, is_mute=True)
    scheduler = Scheduler(open_store(tmp_path, world), world, TWO, None)
    scheduler.submit([request("deaf", tmp_path)])
    asyncio.run(scheduler._turn())
    scheduler.cancel("deaf")
    asyncio.run(scheduler._turn())
    assert world.signals == [], "it has its time"
    monkeypatch.setattr("holdtrue.scheduler._scheduler.END_WAIT_S", 0.0)
    take_turns(scheduler)
    assert world.signals == [Signals.SIGTERM, Signals.SIGTERM]
    assert scheduler.jobs[1].state == "cancelled"


def test_closing_with_jobs_leaves_them_waiting_for_the_next_start(tmp_path: Path) -> None:
    world = World(length=50)
    store = open_store(tmp_path, world)
    scheduler = Scheduler(store, world, TWO, None)

    async def stop() -> None:
        scheduler.submit([request("a", tmp_path), request("b", tmp_path)])
        await scheduler._turn()
        assert scheduler.close(ends_jobs=True) == ["a", "b"]
        await asyncio.wait_for(scheduler.work(), 30)

    asyncio.run(stop())
    assert [r.state for r in scheduler.jobs.values()] == ["waiting", "waiting"]
    with pytest.raises(UsageError, match="is stopping"):
        scheduler.submit([request("c", tmp_path)])
    world.length = 3
    again = Scheduler(store, world, None, None)
    take_turns(again)
    assert [(r.state, r.attempt, r.crashes) for r in again.jobs.values()] == [("finished", 2, 0)] * 2


@pytest.mark.parametrize("seed", [0, 3, 6, 8, 9])
def test_parts_and_whole_jobs_share_devices_through_changes_of_policy_and_slow_ends(
    seed: int, tmp_path: Path
) -> None:
    draw = random.Random(seed)
    world = World(length=6, leaves_slowly=draw.randint(0, 2))
    scheduler = Scheduler(open_store(tmp_path, world), world, TWO, "queues")
    for number in range(14):
        is_part = draw.random() < 0.7
        percent = draw.choice((20, 50, 60)) if is_part else 100
        most = 1 if is_part else draw.randint(1, 2)
        weight = draw.choice((1.0, 5.0))
        scheduler.submit(
            [request(f"job-{number}", tmp_path, percent=percent, max_devices=most, weight=weight)]
        )
        asyncio.run(scheduler._turn())  # the world itself counts who is on which device
        if draw.random() < 0.5:
            scheduler.choose_policy(draw.choice(["fifo", "priority", "srtf", "wfs", "wfs-any", "queues"]))
        if draw.random() < 0.2:
            scheduler = Scheduler(open_store(tmp_path, world), world, None, None)
        asyncio.run(scheduler._turn())
    scheduler.choose_policy("wfs")
    take_turns(scheduler, most=400)
    assert all(record.state == "finished" for record in scheduler.jobs.values())
    assert replay_schedule(open_store(tmp_path, world).log()).differences == ()
