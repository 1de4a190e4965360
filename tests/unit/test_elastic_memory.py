"""What was asked of a controller that died, and how a stop ends: rules of the membership."""

from dataclasses import replace

import pytest
from test_elastic_rules import Job, orders, refusals, sent_to

from holdtrue.elastic import HostSaid, JobSettings, MappingAsked, ResizeAsked, StopAsked
from holdtrue.elastic._memory import memory_from_text, memory_of, memory_to_text, recall
from holdtrue.wire import End, Ended, Finish, Leaving, Start, Stop, ViewSent, ViewText

INTERRUPTED = Ended(worker=0, status=130, sentence="", at=None, has_left=True)
"""What a host says of a worker that ended in order as the job was stopped."""


def views_of(job: Job, generation: int | None = None) -> tuple[ViewText, ...]:
    """A view, by default the newest, as worker 0 would say it."""
    sent = [m.view for d in job.decisions for m in sent_to(d, 0) if isinstance(m, ViewSent)]
    return tuple(view for view in sent if view.generation == (generation or job.newest.generation))


def started_again(old: Job) -> Job:
    """The next controller, with what the old one wrote down."""
    new = Job(2, is_founded=False, life=1, settle_s=10.0)
    memory = memory_from_text(memory_to_text(memory_of(old.state)))
    new.state = recall(replace(old.state.settings, life=1, settle_s=10.0), memory)
    new.decisions.clear()
    return new


def all_back(job: Job, old: Job, *workers: int) -> None:
    """Host and members say hello to a new controller."""
    job.host(running=workers)
    for worker in workers:
        job.hello(worker, generation=old.newest.generation, views=views_of(old))


def test_a_stop_that_was_accepted_is_known_to_the_next_controller() -> None:
    old = Job(2, restarts=3)
    old.feed(StopAsked(reason="the user asked"))
    new = started_again(old)
    all_back(new, old, 0, 1)
    assert [sent for d in new.decisions for sent in sent_to(d, 1) if isinstance(sent, Stop)] == [
        Stop(reason="the user asked")
    ]
    for worker in (0, 1):
        new.say(worker, End(how="interrupted", sentence=""))
        new.end(worker, status=130)
    assert not [order for d in new.decisions for order in orders(d) if isinstance(order, Start)]
    assert (new.state.how_over, new.state.over_reason) == ("stopped", "the user asked")


@pytest.mark.parametrize("was_heard", [False, True])
def test_an_order_that_was_lost_with_its_controller_raises_the_target_once(was_heard: bool) -> None:
    old = Job(2)
    assert orders(old.host("spot", slots=1, adds=1)) == [Start(worker=2, device=None)]
    new = started_again(old)
    new.host("spot", slots=1, adds=0 if was_heard else 1, running=(2,) if was_heard else ())
    all_back(new, old, 0, 1)
    assert new.state.target == 3
    started = [order for d in new.decisions for order in orders(d) if isinstance(order, Start)]
    assert started == ([] if was_heard else [Start(worker=10_000, device=None)])


def test_a_stop_whose_workers_have_all_ended_before_the_next_controller_came_is_a_stop() -> None:
    old = Job(2)
    old.feed(StopAsked(reason="the user asked"))
    new = started_again(old)
    new.host()
    for worker in (0, 1):
        new.end(worker, status=130)
    assert new.state.how_over is None, "others may still be on their way to say hello"
    assert orders(new.wait(10.0)) == [Finish(how="stopped", reason="the user asked")]


def test_members_that_are_slow_to_say_hello_are_not_sent_away_by_a_stop_that_is_remembered() -> None:
    old = Job(2)
    old.feed(StopAsked(reason="the user asked"))
    new = started_again(old)
    assert not orders(new.host(running=(0, 1)))
    new.hello(0, generation=1, views=views_of(old))
    assert [worker.phase for worker in new.state.workers] == ["member", "member"]


@pytest.mark.parametrize(("asked", "ordered"), [(4, 2), (1, 0)])
def test_a_size_that_was_asked_for_outlives_the_controller(asked: int, ordered: int) -> None:
    old = Job(2)
    old.state = old.state.with_host(
        replace(old.state.hosts[0], slots=2, running=(0, 1))
    )  # no room: the wish waits
    old.feed(ResizeAsked(workers=asked))
    new = started_again(old)
    all_back(new, old, 0, 1)
    starts = [order for d in new.decisions for order in orders(d) if isinstance(order, Start)]
    assert (new.state.target, len(starts)) == (asked, ordered)
    assert len(new.newest.members) == (1 if asked == 1 else 2)


def test_restarts_are_not_given_anew_by_each_controller() -> None:
    old = Job(2, restarts=1)
    old.lose(0)
    old.end(1)
    assert old.state.restarts_left == 0
    new = started_again(old)
    assert new.state.restarts_left == 0


def test_a_death_that_the_host_tells_before_any_worker_speaks_is_replaced() -> None:
    old = Job(2, restarts=1)
    new = started_again(old)
    new.host(running=(0,))
    new.end(1)
    new.hello(0, generation=1, views=views_of(old))
    starts = [order for d in new.decisions for order in orders(d) if isinstance(order, Start)]
    assert (len(starts), new.state.restarts_left, new.state.target) == (1, 0, 2)
    without = started_again(Job(2))
    without.host(running=(0,))
    without.end(1)
    without.hello(0, generation=1, views=views_of(old))
    assert without.state.target == 1


def test_an_error_that_the_host_tells_before_any_worker_speaks_fails_the_job() -> None:
    old = Job(2)
    new = started_again(old)
    new.host(running=(0,))
    new.end(1, status=1, sentence="ValueError: no")
    new.hello(0, generation=1, views=views_of(old))
    assert new.state.over_reason == "worker 1 failed: ValueError: no"


def test_a_mapping_outlives_the_controller_with_and_without_its_memory() -> None:
    old = Job(2)
    old.feed(MappingAsked(mapping="0-5/6-7"))
    old.enter(2, 0, 1)
    for new in (started_again(old), Job(2, is_founded=False, life=1)):
        all_back(new, old, 0, 1)
        assert new.newest.mapping == "0-5/6-7"
        assert new.newest.generation == 2, "nobody asked for another view"


def test_workers_that_a_host_asked_for_are_given_once_also_by_two_controllers() -> None:
    old = Job(1)
    old.host("guest", slots=1, adds=1)
    assert old.state.target == 2
    old.state = replace(old.state, hosts=tuple(replace(host, adds=1) for host in old.state.hosts))
    new = started_again(old)
    new.host("guest", slots=1, adds=1)
    assert new.state.target == 2


@pytest.mark.parametrize("mapping", ["x", "0-3/3-7", "0-2/4-7", "0-99999999999/1", f"0-{10**40}/1", "0,-1/1"])
def test_a_mapping_that_no_worker_could_read_is_refused(mapping: str) -> None:
    job = Job(2)
    (sentence,) = refusals(job.feed(MappingAsked(mapping=mapping)))
    assert mapping.split("/")[0] in sentence
    assert len(job.state.chain) == 1


def test_an_interrupt_of_one_worker_stops_the_job_and_starts_nobody_in_its_place() -> None:
    job = Job(2, restarts=2)
    told = job.say(0, End(how="interrupted", sentence=""))
    assert isinstance(sent_to(told, 1)[0], Stop)
    job.say(1, End(how="interrupted", sentence=""))
    job.end(0, status=130)
    job.end(1, status=130)
    assert not [
        order for d in job.decisions for order in orders(d) if isinstance(order, Start) and order.worker > 1
    ]
    assert job.state.how_over == "stopped"


@pytest.mark.parametrize("has_memory", [True, False])
@pytest.mark.parametrize("silent", [0, 1])
def test_workers_interrupted_without_a_word_are_known_by_their_host(silent: int, has_memory: bool) -> None:
    """The controller was killed while they stopped: one speaks with the next, and the other has ended."""
    old = Job(2, restarts=2)
    old.feed(StopAsked(reason="the user asked"))
    new = started_again(old) if has_memory else Job(2, is_founded=False, life=1)
    new.hello(1 - silent, generation=1, views=views_of(old))
    new.say(1 - silent, End(how="interrupted", sentence=""))
    new.host(running=(silent,))
    new.feed(HostSaid(host="here", message=replace(INTERRUPTED, worker=silent)))
    assert new.state.how_over == "stopped"
    assert not [order for d in new.decisions for order in orders(d) if isinstance(order, Start)]


@pytest.mark.parametrize("heard", [True, False])
def test_a_status_of_130_without_a_word_of_worker_and_host_is_a_death(heard: bool) -> None:
    job = Job(2)
    job.feed(StopAsked(reason="the user asked"))
    for worker in 0, 1:
        job.feed(HostSaid(host="here", message=replace(INTERRUPTED, worker=worker, has_left=heard)))
    assert job.state.how_over == ("stopped" if heard else "failed")


@pytest.mark.parametrize(("first", "how"), [(0, "stopped"), (1, "failed")])
def test_a_worker_killed_while_the_job_stops_does_not_fail_it_once_the_main_worker_has_left(
    first: int, how: str
) -> None:
    job = Job(2)
    job.feed(StopAsked(reason="the user asked"))
    job.say(first, End(how="interrupted", sentence=""))
    job.end(first, status=130)
    job.end(1 - first, status=-9)
    assert job.state.how_over == how
    assert ("may be missing" in job.state.over_reason) == (how == "failed")


def test_a_wish_to_leave_after_a_stop_changes_nothing() -> None:
    job = Job(2)
    job.feed(StopAsked(reason="the user asked"))
    assert not job.say(1, Leaving(reason="it was sent SIGTERM")).reason
    assert job.state.target == 2


@pytest.mark.parametrize("text", ["", "[]", "{", '{"target": 1}'])
def test_a_memory_that_is_none_is_no_memory(text: str) -> None:
    assert memory_from_text(text) is None


def test_the_first_controller_of_a_job_has_no_memory() -> None:
    settings = JobSettings(name="a", workers=2, least=2)
    old = Job(2)
    old.feed(ResizeAsked(workers=5))
    assert recall(settings, memory_of(old.state)).target == 2


def test_one_that_was_left_out_and_says_hello_first_gets_no_view_before_the_others_are_back() -> None:
    old = Job(3)
    first = views_of(old, 1)
    old.lose(0)
    old.end(2)
    old.end(1)  # in truth it lives, where no word of this comes: 0 goes on alone
    newest = old.newest.generation
    old.enter(newest, 0)
    new = started_again(old)
    new.host(running=(0, 1))
    new.hello(1, generation=1, views=first)
    new.end(2)
    assert new.newest.generation == 1, "no view without 0, which may know more"
    new.hello(0, generation=newest, views=views_of(old))
    assert new.newest.generation == newest
    assert new.members == [0]


def test_nobody_is_sent_away_in_the_place_of_one_that_had_asked_to_leave() -> None:
    old = Job(2)
    first = views_of(old, 1)
    old.say(0, Leaving(reason="SIGTERM"))
    assert old.state.target == 1
    new = started_again(old)
    new.host(running=(0, 1))
    new.hello(1, generation=1, views=first)
    new.hello(0, generation=1, views=first)
    new.say(0, Leaving(reason="SIGTERM"))  # once more, as its word to another controller
    assert new.members == [1]
    assert new.state.target == 1


@pytest.mark.parametrize(("status", "how"), [(0, "finished"), (-9, "failed")])
def test_a_job_whose_members_have_ended_is_not_begun_again_with_those_who_wanted_to_join(
    status: int, how: str
) -> None:
    old = Job(2)
    old.feed(ResizeAsked(workers=4))
    new = started_again(old)
    for worker in (2, 3):
        new.hello(worker)
    new.host(running=(2, 3))
    for worker in (0, 1):
        new.end(worker, status=status)
    assert new.state.how_over is None, "others may still say hello"
    new.wait(10.0)
    assert new.state.how_over == how
    assert not new.state.chain


def test_one_that_was_on_its_way_out_does_not_go_on_where_the_others_have_finished() -> None:
    job = Job(3)
    job.say(2, Leaving(reason="SIGTERM"))
    job.enter(2, 1)
    job.lose(2)  # it had not heard of the view, and the others went on
    for worker in (1, 0):  # that 0 had entered the view was never heard
        job.say(worker, End(how="finished", sentence=""))
    assert job.state.how_over == "finished"
    assert job.newest.generation == 2
