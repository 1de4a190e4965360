"""Single rules of the membership, as a controller would feed them."""

from dataclasses import replace
from typing import Any

import pytest

from holdtrue.elastic import (
    Decision,
    Event,
    HostDropped,
    HostSaid,
    JobSettings,
    MappingAsked,
    Member,
    Refuse,
    ResizeAsked,
    State,
    StopAsked,
    Tell,
    TellHost,
    Ticked,
    View,
    WorkerDropped,
    WorkerSaid,
    decide,
    first_state,
    next_deadline_s,
    replay,
    view_from_text,
)
from holdtrue.errors import UsageError
from holdtrue.wire import (
    End,
    Ended,
    Entered,
    Finish,
    Hello,
    HostHello,
    Kill,
    Leaving,
    Lost,
    Over,
    PassPlace,
    Ready,
    Remap,
    Start,
    Stop,
    ViewSent,
    WorkerMessage,
)


class Job:
    """A controller in a test: feeds events, keeps the log and what was sent since the last look."""

    def __init__(self, workers: int = 2, *, is_founded: bool = True, **settings: Any) -> None:
        values = {"name": "test", "workers": workers, "least": workers} | settings
        self.state: State = first_state(JobSettings(**values))
        self.now = 10.0
        self.log: list[tuple[float, Event]] = []
        self.decisions: list[Decision] = []
        self.host()
        if is_founded:
            for number in range(workers):
                self.hello(number)
            for number in range(workers):
                self.say(number, Entered(generation=1, step=0, seconds=0.0))

    def feed(self, event: Event) -> Decision:
        """Decide on an event now."""
        self.log.append((self.now, event))
        decision = decide(self.state, event, self.now)
        self.state = decision.state
        self.decisions.append(decision)
        return decision

    def host(
        self, name: str = "here", *, slots: int = 8, adds: int = 0, running: tuple[int, ...] = ()
    ) -> Decision:
        """A host connects."""
        hello = HostHello(name=name, address="127.0.0.1", slots=slots, adds=adds, running=running)
        return self.feed(HostSaid(host=name, message=hello))

    def hello(self, worker: int, **changes: Any) -> Decision:
        """A worker connects."""
        hello = Hello(
            worker=worker,
            host="127.0.0.1",
            port=1000 + worker,
            device="cpu",
            pid=100 + worker,
            generation=0,
            step=0,
            total=None,
            is_joiner=False,
            views=(),
        )
        return self.feed(WorkerSaid(worker=worker, message=replace(hello, **changes)))

    def say(self, worker: int, message: WorkerMessage) -> Decision:
        """A worker says something."""
        return self.feed(WorkerSaid(worker=worker, message=message))

    def lose(self, worker: int, *, generation: int = 1, silent: bool = False) -> Decision:
        """A worker says that it lost the others."""
        return self.say(worker, Lost(generation=generation, step=3, waited_for="the reduce", silent=silent))

    def end(
        self, worker: int, *, status: int = -9, at: PassPlace | None = None, sentence: str = ""
    ) -> Decision:
        """The host says that a worker has ended."""
        ended = Ended(worker=worker, status=status, sentence=sentence, at=at)
        return self.feed(HostSaid(host="here", message=ended))

    def not_started(self, worker: int) -> Decision:
        """The host says that it gave a worker up before it had a process."""
        ended = Ended(worker=worker, status=0, sentence="no device is free", at=None, was_started=False)
        return self.feed(HostSaid(host="here", message=ended))

    def wait(self, seconds: float) -> Decision:
        """Time passes."""
        self.now += seconds
        return self.feed(Ticked())

    def join(self, worker: int) -> Decision:
        """A worker that was ordered comes up to its first collective call."""
        self.hello(worker)
        return self.say(worker, Ready(after=0))

    def enter(self, generation: int, *workers: int) -> None:
        """Workers say that they entered."""
        for worker in workers:
            self.say(worker, Entered(generation=generation, step=5, seconds=0.1))

    @property
    def newest(self) -> View:
        """The newest view."""
        assert self.state.newest is not None
        return self.state.newest

    @property
    def members(self) -> list[int]:
        """Numbers of the newest view's members, by rank."""
        return [member.worker for member in self.newest.members]


def sent_to(decision: Decision, worker: int) -> list[object]:
    """Messages of a decision to a worker."""
    return [a.message for a in decision.actions if isinstance(a, Tell) and a.worker == worker]


def orders(decision: Decision) -> list[object]:
    """Orders of a decision to hosts."""
    return [a.message for a in decision.actions if isinstance(a, TellHost)]


def refusals(decision: Decision) -> list[str]:
    """Sentences with which a decision refuses."""
    return [a.sentence for a in decision.actions if isinstance(a, Refuse)]


def test_founders_enter_together_when_all_are_here() -> None:
    job = Job(3, is_founded=False)
    assert job.hello(2).state.newest is None
    assert job.hello(0).state.newest is None
    last = job.hello(1)
    assert (job.members, job.newest.is_planned, job.newest.joiners) == ([0, 1, 2], False, ())
    assert isinstance(sent_to(last, 2)[-1], ViewSent)


def test_the_least_begin_when_the_grace_is_over_and_the_rest_join() -> None:
    job = Job(3, is_founded=False, least=1, starting_grace_s=5.0)
    job.hello(1)
    assert next_deadline_s(job.state, job.now) == 15.0
    assert job.wait(4.9).state.newest is None
    job.wait(0.1)
    assert job.members == [1]
    job.enter(1, 1)
    joined = job.join(0)
    assert sent_to(joined, 0) == []
    job.wait(2.0)
    assert (job.members, job.newest.joiners, job.newest.is_planned) == ([1, 0], (0,), True)


def test_founders_wait_longer_for_processes_that_start_but_not_for_ever() -> None:
    job = Job(3, is_founded=False, least=1, grace_s=5.0, starting_grace_s=30.0)
    job.host(running=(0, 1, 2))
    job.hello(1)
    assert next_deadline_s(job.state, job.now) == job.now + 30.0
    assert job.wait(20.0).state.newest is None
    job.hello(0)
    assert job.wait(9.9).state.newest is None
    job.wait(0.1)
    assert (job.members, job.newest.joiners) == ([0, 1], ())


def test_founders_wait_no_longer_for_processes_of_a_host_that_is_gone() -> None:
    job = Job(2, is_founded=False, least=1, grace_s=5.0)
    job.host(running=(0, 1))
    job.hello(1)
    assert job.wait(6.0).state.newest is None
    job.feed(HostDropped(host="here"))
    assert job.members == [1]


def test_workers_that_never_come_fail_the_job_by_name_of_the_wait() -> None:
    job = Job(2, is_founded=False, start_timeout_s=60.0)
    job.hello(0)
    job.wait(60.0)
    assert job.state.how_over == "failed"
    assert "1 of 2 workers said hello within 60 s" in job.state.over_reason


def test_growing_orders_workers_and_takes_them_in_together_when_they_are_ready() -> None:
    job = Job(2)
    asked = job.feed(ResizeAsked(workers=4))
    assert orders(asked) == [Start(worker=2, device=None), Start(worker=3, device=None)]
    job.join(3)
    assert job.members == [0, 1], "the other is on its way"
    job.join(2)
    assert (job.members, job.newest.joiners, job.newest.generation) == ([0, 1, 2, 3], (2, 3), 2)


def test_a_ready_joiner_waits_for_others_only_a_moment() -> None:
    job = Job(1, gather_s=2.0)
    job.feed(ResizeAsked(workers=3))
    job.join(1)
    job.wait(1.9)
    assert job.members == [0]
    job.wait(0.1)
    assert job.members == [0, 1]


def test_a_resize_to_the_present_size_says_so_and_changes_nothing() -> None:
    job = Job(2)
    before = job.state
    decision = job.feed(ResizeAsked(workers=2))
    assert (decision.state, decision.actions) == (before, ())
    assert "nothing to do" in decision.reason


def test_the_newest_target_wins_while_a_view_is_under_way() -> None:
    job = Job(1)
    job.feed(ResizeAsked(workers=2))
    job.join(1)
    assert job.members == [0, 1]
    job.feed(ResizeAsked(workers=3))
    again = job.feed(ResizeAsked(workers=1))
    assert Kill(worker=2, reason="the job needs fewer workers now") in orders(again)
    assert job.newest.generation == 2, "one view is under way at a time"
    job.enter(2, 0, 1)
    assert (job.members, job.newest.generation) == ([0], 3)


@pytest.mark.parametrize("workers", [0, -1, 4097, 7])
def test_a_target_out_of_range_is_refused(workers: int) -> None:
    job = Job(2, most=6)
    decision = job.feed(ResizeAsked(workers=workers))
    assert f"{workers} workers are asked for; this job has from 1 to 6" in refusals(decision)[0]
    assert decision.state.target == 2


def test_a_death_leads_to_one_view_whoever_says_it_first() -> None:
    for host_first in (True, False):
        job = Job(3)
        if host_first:
            job.end(0)
        job.lose(1)
        job.lose(2)
        if not host_first:
            assert job.newest.generation == 1, "who is missing is not known yet"
            job.end(0)
        assert (job.members, job.newest.lost, job.newest.generation) == ([1, 2], (0,), 2)
        job.enter(2, 1, 2)
        assert (job.state.chain, job.state.target) == ((job.newest,), 2)


def test_two_deaths_at_once_and_one_while_the_next_group_forms() -> None:
    job = Job(4)
    job.end(0)
    job.end(3)
    assert (job.members, job.newest.generation) == ([1, 2], 3)
    job.lose(1)
    job.end(2)
    assert (job.members, job.newest.generation) == ([1], 4)


def test_a_broken_connection_to_the_controller_is_no_death() -> None:
    job = Job(2)
    job.feed(WorkerDropped(worker=0))
    job.wait(1000.0)
    assert (job.members, job.newest.generation, job.state.phase) == ([0, 1], 1, "running")


def test_members_that_lost_one_another_without_a_death_form_again() -> None:
    job = Job(2)
    job.lose(0)
    job.lose(1)
    assert (job.members, job.newest.generation, job.newest.lost) == ([0, 1], 2, ())


def test_a_silent_worker_is_killed_after_the_groups_timeout_and_not_before() -> None:
    job = Job(2, group_timeout_s=30.0, kill_wait_s=2.0)
    job.lose(0)
    assert next_deadline_s(job.state, job.now) == job.now + 30.0
    assert orders(job.wait(29.9)) == []
    assert orders(job.wait(0.1)) == [Kill(worker=1, reason="it is silent and the others have lost it")]
    assert job.members == [0, 1]
    job.end(1)
    assert job.members == [0]


def test_one_that_waited_out_the_timeout_has_seen_the_silence_already() -> None:
    job = Job(2, group_timeout_s=30.0, silence_grace_s=5.0)
    job.lose(0, silent=True)
    assert orders(job.wait(4.9)) == []
    assert len(orders(job.wait(0.1))) == 1


def test_a_silent_worker_that_nobody_can_kill_is_expelled_and_told_when_it_wakes() -> None:
    job = Job(2, group_timeout_s=30.0)
    job.feed(HostDropped(host="here"))
    job.lose(0)
    expelled = job.wait(30.0)
    assert job.members == [0]
    assert [type(m) for m in sent_to(expelled, 1)] == [Over]
    woken = job.lose(1, generation=1)
    assert (woken.actions, job.members) == ((), [0])
    assert "no member" in refusals(job.hello(1, generation=1))[0]


def job_with_a_member_elsewhere() -> Job:
    """Two workers here and worker 2 on a host of its own."""
    job = Job(2, group_timeout_s=300.0, lost_host_s=10.0)
    job.host("away", slots=1, adds=1)
    job.join(2)
    job.enter(2, 0, 1, 2)
    assert job.members == [0, 1, 2]
    return job


def test_a_member_whose_machine_is_gone_is_waited_for_some_seconds_and_not_for_the_timeout() -> None:
    job = job_with_a_member_elsewhere()
    job.feed(WorkerDropped(worker=2))
    job.now += 1.0
    job.feed(HostDropped(host="away"))
    job.lose(0, generation=2)
    assert next_deadline_s(job.state, job.now) == job.now + 10.0
    job.wait(9.9)
    assert job.members == [0, 1, 2]
    gone = job.wait(0.1)
    assert (job.members, job.newest.lost, job.state.target) == ([0, 1], (2,), 2)
    assert "neither it nor its host can be reached" in gone.reason
    assert "no member" in refusals(job.hello(2, generation=2))[0], "it was cut off, and is back"


@pytest.mark.parametrize("what", ["its host is there", "it is there", "it is back", "nobody lost it"])
def test_it_is_waited_for_as_ever_where_there_is_another_explanation(what: str) -> None:
    job = job_with_a_member_elsewhere()
    if what != "it is there":
        job.feed(WorkerDropped(worker=2))
    if what != "its host is there":
        job.feed(HostDropped(host="away"))
    if what != "nobody lost it":
        job.lose(0, generation=2)
    if what == "it is back":
        job.hello(2, generation=2)
    job.wait(299.0)
    assert job.members == [0, 1, 2]


def test_a_host_that_comes_after_all_members_went_with_theirs_does_not_keep_the_job_alive() -> None:
    job = Job(1, dark_s=120.0)
    job.host("there", slots=1, running=(0,))
    job.feed(WorkerDropped(worker=0))
    job.feed(HostDropped(host="there"))
    job.host("new", slots=1)
    assert next_deadline_s(job.state, job.now) == job.now + 120.0
    job.wait(119.9)
    assert job.state.how_over is None
    job.wait(0.1)
    assert job.state.how_over == "failed"


def test_a_joiner_that_dies_while_joining_leads_to_a_view_without_it() -> None:
    job = Job(2)
    job.feed(ResizeAsked(workers=3))
    job.join(2)
    assert job.members == [0, 1, 2]
    job.end(2)
    assert (job.members, job.newest.is_planned, job.state.target) == ([0, 1], False, 2)


def test_a_joiner_that_is_left_out_comes_in_by_the_next_planned_view() -> None:
    job = Job(3)
    job.feed(ResizeAsked(workers=4))
    job.join(3)
    job.end(0)
    job.wait(1.0)
    assert job.members == [1, 2]
    job.enter(3, 1, 2)
    assert job.members == [1, 2], "it has not said that it gave up the view before"
    job.say(3, Ready(after=3))
    assert (job.members, job.newest.joiners, job.newest.is_planned) == ([1, 2, 3], (3,), True)


def test_a_joiner_that_had_entered_what_the_others_gave_up_is_expelled_and_replaced() -> None:
    job = Job(3)
    job.feed(ResizeAsked(workers=4))
    job.join(3)
    job.end(0)
    job.wait(1.0)
    late = job.say(3, Entered(generation=2, step=5, seconds=0.0))
    assert [type(m) for m in sent_to(late, 3)] == [Over]
    assert orders(late) == [Start(worker=4, device=None)]


def test_restarts_replace_the_dead_as_often_as_they_were_given() -> None:
    job = Job(2, restarts=1)
    assert orders(job.end(1)) == [Start(worker=2, device=None)]
    job.enter(2, 0)
    job.join(2)
    job.enter(3, 0, 2)
    assert orders(job.end(2)) == []
    assert (job.state.target, job.state.restarts_left) == (1, 0)


def test_a_worker_that_was_not_started_is_no_death_and_another_is_started() -> None:
    job = Job(2, restarts=1)
    job.feed(ResizeAsked(workers=3))
    again = job.not_started(2)
    assert orders(again) == [Start(worker=3, device=None)]
    assert "worker 2 was not started on host here: no device is free" in again.reason
    assert (job.state.target, job.state.restarts_left, job.members) == (3, 1, [0, 1])


def test_a_place_that_a_host_brought_is_that_hosts_again_when_its_worker_was_not_started() -> None:
    job = Job(2)
    assert orders(job.host("more", slots=1, adds=1)) == [Start(worker=2, device=None)]
    ended = Ended(worker=2, status=0, sentence="no device is free", at=None, was_started=False)
    again = job.feed(HostSaid(host="more", message=ended))
    assert again.actions == (TellHost(host="more", message=Start(worker=3, device=None)),)
    assert job.state.target == 3
    job.feed(HostDropped(host="more"))
    job.wait(15.0)
    assert job.state.target == 2, "it goes with its host"


def test_a_job_whose_founders_never_get_a_device_fails_after_their_time_and_says_why() -> None:
    job = Job(2, is_founded=False, start_timeout_s=300.0)
    job.host(running=(0, 1))
    begin_s, starts = job.now, 0
    while job.state.phase == "founding":
        job.now += 15.0
        for worker in [worker.number for worker in job.state.workers if worker.phase == "starting"]:
            starts += sum(isinstance(order, Start) for order in orders(job.not_started(worker)))
    assert (job.now - begin_s, starts) == (300.0, 2 * 19), (
        "each is started again when it was given up, no more"
    )
    assert job.state.how_over == "failed"
    assert job.state.over_reason == (
        "0 of 2 workers said hello within 300 s; the job needs 2 to begin. The last was not started: no device is free"
    )


def test_founders_that_found_no_device_do_not_fail_their_job() -> None:
    for is_heard_of in (True, False):
        job = Job(2, is_founded=False, start_timeout_s=300.0)
        if is_heard_of:
            job.host(running=(0, 1))
            assert orders(job.not_started(0)) == [Start(worker=2, device=None)]
        else:  # their ends came with the first words of their host
            job.feed(HostDropped(host="here"))
            job.not_started(0)
            job.not_started(1)
            assert orders(job.host()) == [Start(worker=2, device=None), Start(worker=3, device=None)]
        assert (job.state.phase, job.state.target) == ("founding", 2)
        job.hello(2)
        job.hello(1 if is_heard_of else 3)
        assert job.members == ([1, 2] if is_heard_of else [2, 3])


def test_a_virtual_node_that_kills_two_workers_in_a_row_stops_the_job() -> None:
    job = Job(3)
    job.end(0, at=PassPlace(step=7, round=0, virtual_node=4))
    decision = job.end(1, at=PassPlace(step=7, round=0, virtual_node=4))
    assert "virtual node 4 of step 7 killed two workers in a row" in job.state.over_reason
    assert [type(order) for order in orders(decision)] == [Finish]


@pytest.mark.parametrize(
    "second", [PassPlace(step=8, round=0, virtual_node=4), PassPlace(step=7, round=0, virtual_node=3), None]
)
def test_two_deaths_in_other_passes_do_not(second: PassPlace | None) -> None:
    job = Job(3)
    job.end(0, at=PassPlace(step=7, round=0, virtual_node=4))
    job.end(1, at=second)
    assert (job.state.phase, job.members) == ("running", [2])


def test_an_error_in_the_script_fails_the_job_and_names_its_place() -> None:
    job = Job(2)
    end = End(how="failed", sentence="examples 3-5: division by zero", virtual_node=2, step=9)
    decision = job.say(1, end)
    assert (
        job.state.over_reason == "worker 1 failed in virtual node 2 of step 9: examples 3-5: division by zero"
    )
    assert [type(m) for m in sent_to(decision, 0)] == [Over]
    job = Job(2)
    job.end(0, status=1, sentence="division by zero")
    assert job.state.how_over == "failed"


def test_an_error_of_a_joiner_does_not_fail_a_job_that_trains() -> None:
    job = Job(2)
    job.feed(ResizeAsked(workers=3))
    job.hello(2)
    job.say(2, End(how="failed", sentence="no module named foo"))
    assert (job.state.phase, job.state.target, job.members) == ("running", 2, [0, 1])


def test_a_worker_that_wants_to_leave_is_left_out_at_the_next_boundary() -> None:
    job = Job(2)
    job.say(0, Leaving(reason="SIGTERM"))
    assert (job.members, job.newest.is_planned, job.state.target) == ([1], True, 1)
    job.say(0, End(how="left", sentence=""))
    job.enter(2, 1)
    assert (job.members, job.state.phase) == ([1], "running")


def test_the_last_worker_that_leaves_stops_the_job_with_a_checkpoint() -> None:
    job = Job(1)
    decision = job.say(0, Leaving(reason="SIGTERM"))
    assert sent_to(decision, 0) == [Stop(reason="its last worker leaves")]
    job.say(0, End(how="finished", sentence=""))
    assert job.state.how_over == "stopped"


def test_the_only_worker_with_the_state_stays_until_a_joiner_has_it() -> None:
    job = Job(1)
    job.feed(ResizeAsked(workers=2))
    job.say(0, Leaving(reason="SIGTERM"))
    job.join(1)
    assert (job.members, job.newest.joiners) == ([0, 1], (1,))
    job.enter(2, 0, 1)
    assert job.members == [1]


def test_a_stop_is_said_to_all_and_ends_the_job_when_they_have_ended() -> None:
    job = Job(2)
    job.feed(ResizeAsked(workers=3))
    decision = job.feed(StopAsked(reason="enough"))
    assert [sent_to(decision, n) for n in (0, 1)] == [[Stop(reason="enough")]] * 2
    assert decision.reason == "the job stops at the next boundary, and what is done is kept: enough"
    assert "ending" in refusals(job.feed(ResizeAsked(workers=5)))[0]
    job.say(0, End(how="finished", sentence=""))
    job.say(1, End(how="finished", sentence=""))
    assert (job.state.how_over, job.state.over_reason) == ("stopped", "enough")


def test_all_dead_fails_the_job_and_names_the_way_out() -> None:
    job = Job(2)
    job.end(0)
    job.end(1)
    assert job.state.how_over == "failed"
    assert "--resume" in job.state.over_reason


def test_what_the_main_worker_finds_is_a_planned_view_with_its_reason_and_anything_stale_is_nothing() -> None:
    job = Job(2)
    found = Remap(generation=1, mapping="0-5/6", reason="a step takes 0.4 s")
    for worker, message in (
        (1, found),  # not the main worker
        (0, replace(found, generation=7)),
        (0, replace(found, mapping="0/1/2-6")),
    ):
        assert job.say(worker, message).actions == ()
        assert (job.newest.generation, job.state.mapping) == (1, None)
    job.say(0, found)
    assert (job.members, job.newest.mapping, job.newest.is_planned) == ([0, 1], "0-5/6", True)
    assert job.newest.cause == "mapping 0-5/6, since a step takes 0.4 s"
    job.say(0, replace(found, mapping="0-4/5-6"))
    assert job.newest.mapping == "0-5/6", "one view is under way at a time"
    job.enter(2, 0, 1)
    job.feed(ResizeAsked(workers=1))
    assert (job.members, job.newest.mapping) == ([0], None), "a mapping belongs to its members"


def test_another_mapping_is_a_planned_view_of_the_same_members() -> None:
    job = Job(2)
    assert "is for 3 workers" in refusals(job.feed(MappingAsked(mapping="0/1/2")))[0]
    job.feed(MappingAsked(mapping="0-5/6"))
    assert (job.members, job.newest.mapping, job.newest.joiners, job.newest.is_planned) == (
        [0, 1],
        "0-5/6",
        (),
        True,
    )
    job.enter(2, 0, 1)
    job.end(1)
    assert (job.newest.mapping, job.state.mapping) == (None, None)


def test_hosts_that_bring_devices_enlarge_the_job_once() -> None:
    job = Job(1)
    assert orders(job.host("spot", slots=1, adds=1)) == [Start(worker=1, device=None)]
    assert job.state.target == 2
    job.feed(HostDropped(host="spot"))
    assert orders(job.host("spot", slots=1, adds=0, running=(1,))) == []
    assert job.state.target == 2


def test_an_order_that_was_lost_with_a_connection_is_said_again_and_raises_the_target_once() -> None:
    job = Job(1, start_timeout_s=300.0)
    job.host("spot", slots=1, adds=1)
    job.now += 100.0
    job.feed(HostDropped(host="spot"))
    back = job.host("spot", slots=1, adds=1)
    assert orders(back) == [Start(worker=1, device=None)]
    assert (job.state.target, job.state.host("spot").free) == (2, 0)
    assert not orders(job.wait(299.0)), "its time begins anew"
    job.join(1)
    assert (job.members, job.state.target) == ([0, 1], 2)
    job.feed(HostDropped(host="spot"))
    assert orders(job.host("spot", slots=1, running=(1,))) == []


def test_a_host_that_vanishes_while_its_worker_starts_takes_its_place_away_and_no_restart() -> None:
    job = Job(1, restarts=1, start_timeout_s=300.0, host_wait_s=15.0)
    job.host("spot", slots=1, adds=1)
    job.feed(HostDropped(host="spot"))
    assert next_deadline_s(job.state, job.now) == job.now + 15.0
    job.wait(14.9)
    assert job.state.target == 2
    given_up = job.wait(0.1)
    assert "worker 1 is given up" in given_up.reason
    assert (job.state.target, job.state.restarts_left, orders(given_up)) == (1, 1, [])
    late = job.host("spot", slots=1, running=(1,))
    assert orders(late) == [Kill(worker=1, reason="it is no member any more")]


def test_the_place_of_a_worker_that_a_user_asked_for_stays_when_its_host_vanishes() -> None:
    job = Job(1, is_founded=False, host_wait_s=15.0)
    job.host(slots=1, running=(0,))
    job.hello(0)
    job.enter(1, 0)
    job.host("spot", slots=1, adds=1)
    job.host("other", slots=2)
    job.feed(ResizeAsked(workers=3))
    job.feed(HostDropped(host="spot"))
    assert orders(job.wait(15.0)) == [Start(worker=3, device=None)], "another host has room"
    assert job.state.target == 3


def test_a_host_without_room_leaves_the_wish_open_until_another_comes() -> None:
    job = Job(1, is_founded=False)
    job.host(slots=1, running=(0,))
    job.hello(0)
    job.enter(1, 0)
    assert orders(job.feed(ResizeAsked(workers=2))) == []
    assert orders(job.host("other", slots=1)) == [Start(worker=1, device=None)]


def test_a_controller_without_memory_learns_views_numbers_and_size() -> None:
    old = Job(2)
    old.feed(ResizeAsked(workers=3))
    old.join(2)
    views = tuple(sent.view for sent in sent_to(old.decisions[-1], 0) if isinstance(sent, ViewSent))
    first = tuple(
        m.view
        for d in old.decisions
        for m in sent_to(d, 0)
        if isinstance(m, ViewSent) and m.view.generation == 1
    )
    new = Job(2, is_founded=False, life=1, settle_s=10.0)
    new.host(running=(0, 1, 2))
    new.hello(2, is_joiner=True, views=views)
    new.hello(0, generation=1, views=first + views)
    told = new.hello(1, generation=1, views=first)
    assert [m.view.generation for m in sent_to(told, 1) if isinstance(m, ViewSent)] == [2]
    new.enter(2, 0, 1, 2)
    assert (new.members, new.state.target, new.state.next_worker) == ([0, 1, 2], 3, 3)
    new.now += 20.0
    new.feed(ResizeAsked(workers=2))
    assert new.newest.generation == 100_001, "never a number that the controller before may have given"
    assert view_from_text(views[0]).joiners == (2,)


def test_a_new_controller_resizes_as_soon_as_every_member_and_a_host_are_back() -> None:
    old = Job(2)
    views = tuple(
        m.view
        for d in old.decisions
        for m in sent_to(d, 0)
        if isinstance(m, ViewSent) and m.view.generation == 1
    )
    new = Job(2, is_founded=False, life=1, settle_s=10.0)
    new.host(running=(0, 1), slots=4)
    new.hello(0, generation=1, views=views)
    asked = new.feed(ResizeAsked(workers=3))
    assert not orders(asked), "worker 1 may live or not: nobody is started yet"
    told = new.hello(1, generation=1, views=views)
    assert [type(order) for order in orders(told)] == [Start], "now it is known who is there"
    assert told.state.settings.settle_s == 10.0


def test_a_controller_that_comes_too_late_does_not_begin_the_job_again() -> None:
    left = Ended(worker=0, status=0, sentence="", at=None, has_left=True)
    cases = ((0, 0), "finished"), ((0, -9), "failed"), ((left, 0), "finished"), ((left, left), "failed")
    for ends, how in cases:
        job = Job(2, is_founded=False, life=1, settle_s=10.0)
        for worker, end in enumerate(ends):
            if isinstance(end, Ended):
                job.feed(HostSaid(host="here", message=replace(end, worker=worker)))
            else:
                job.end(worker, status=end)
        assert orders(job.wait(10.0)) == [Finish(how=how, reason=job.state.over_reason)]
        assert job.state.how_over == how


def test_the_log_of_events_replays_to_the_same_decisions() -> None:
    job = Job(3, restarts=1)
    job.feed(ResizeAsked(workers=4))
    job.end(0)
    job.lose(1)
    job.join(3)
    job.wait(3.0)
    job.feed(StopAsked(reason="enough"))
    assert replay(first_state(job.state.settings), job.log) == job.decisions


@pytest.mark.parametrize(
    "wrong",
    [{"workers": 0}, {"least": 3}, {"most": 1}, {"restarts": -1}, {"group_timeout_s": 0.0}, {"life": -1}],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    values: dict[str, Any] = {"name": "test", "workers": 2, "least": 2} | wrong
    with pytest.raises(UsageError, match="Give such numbers"):
        JobSettings(**values)


def test_views_name_each_worker_once() -> None:
    me = Member(worker=0, host="127.0.0.1", port=1)
    with pytest.raises(UsageError, match="each once"):
        View(generation=1, members=(me, me))
