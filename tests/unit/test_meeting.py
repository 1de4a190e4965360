"""Forming a group where the worker that is to hold the store is stopped: it accepts connections and never answers."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest
import torch

from holdtrue.elastic import Agent, Member, View
from holdtrue.errors import WaitTimeoutError, WorkerLostError
from holdtrue.run._meeting import Meeting

TIMEOUT_S = 0.6


class FakeAgent(Agent):
    """Knows one worker's number and the newest unplanned view; nothing else is asked while a group is formed."""

    worker = 1
    is_joiner = False
    newest_planned = 0
    stop_reason = None
    forced = 0

    def newest_forced(self) -> int:
        return self.forced

    def view(self, generation: int) -> View:
        raise NotImplementedError

    def wait_for_view(self, after: int, *, timeout_s: float, what: str) -> View:
        raise NotImplementedError

    def wait_for_news(self, generation: int, *, timeout_s: float) -> bool:
        raise NotImplementedError

    def say_ready(self) -> None: ...
    def say_entered(self, generation: int, step: int, *, seconds: float) -> None: ...
    def say_lost(self, generation: int, step: int, *, waited_for: str, silent: bool) -> None: ...
    def say_remap(self, generation: int, mapping: str, reason: str) -> None: ...
    def say_progress(self, facts: object) -> None: ...
    def say_leaving(self, reason: str) -> None: ...
    def say_end(self, **_: object) -> None: ...


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """What is left of a stopped process for those who call: the kernel accepts for it."""
    monkeypatch.setattr("holdtrue.run._meeting.REACH_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener
    for (
        thread
    ) in threading.enumerate():  # left alone by the meeting; at the interpreter's end torch would abort
        if thread.name in ("holdtrue-form", "holdtrue-give-up"):
            thread.join(20.0)
            assert not thread.is_alive()


def meeting_and_view(stopped: socket.socket) -> tuple[Meeting, FakeAgent, View]:
    agent = FakeAgent()
    own = socket.create_server(("127.0.0.1", 0))
    port = own.getsockname()[1]
    meeting = Meeting(
        agent,
        host="127.0.0.1",
        port=port,
        store_fd=own.detach(),
        device=torch.device("cpu"),
        timeout_s=TIMEOUT_S,
    )
    members = (
        Member(worker=0, host="127.0.0.1", port=stopped.getsockname()[1], device="cpu"),
        Member(worker=1, host="127.0.0.1", port=port, device="cpu"),
    )
    return meeting, agent, View(generation=7, members=members, mapping=None, cause="a test")


def test_a_store_that_never_answers_is_waited_for_no_longer_than_the_time_out(stopped: socket.socket) -> None:
    meeting, _, view = meeting_and_view(stopped)
    with pytest.raises(WaitTimeoutError, match="the store of worker 0, where generation 7 meets"):
        meeting.form(view, 1)


def test_a_view_that_becomes_void_is_left_while_its_store_does_not_answer(stopped: socket.socket) -> None:
    meeting, agent, view = meeting_and_view(stopped)
    meeting._timeout_s = 60.0  # the void ends it, not the time-out
    threading.Timer(0.1, lambda: setattr(agent, "forced", 8)).start()
    with pytest.raises(WorkerLostError, match="generation 7 is void"):
        meeting.form(view, 1)


def test_giving_up_does_not_wait_for_a_store_that_never_answers(stopped: socket.socket) -> None:
    meeting, _, view = meeting_and_view(stopped)
    given_up = threading.Thread(target=meeting.give_up, args=(view,), daemon=True)
    given_up.start()
    given_up.join(20.0)
    assert not given_up.is_alive()


def test_a_store_that_is_gone_is_a_lost_worker(
    stopped: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdtrue.run._meeting.REACH_S", 0.2)
    meeting, _, view = meeting_and_view(stopped)
    meeting._timeout_s = 60.0
    stopped.close()
    started = time.monotonic()
    with pytest.raises(WorkerLostError, match="could not be reached"):
        meeting.form(view, 1)
    assert time.monotonic() - started < 50.0
