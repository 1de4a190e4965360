"""How a host that joined with one worker ends: what it says last, and with which status."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from holdtrue.launch import _remote
from holdtrue.launch._job import WorkerEnd
from holdtrue.launch._judge import INTERRUPTED, HowOver, judge_guest
from holdtrue.launch._remote import _Guest
from holdtrue.launch._stopping import StopState


class Line:
    """A line to a controller that answers as scripted, and then not at all."""

    def __init__(self, *answers: bool, is_refused: bool = False) -> None:
        self.answers = list(answers)
        self.is_connected = False
        self.is_refused = is_refused
        self.trouble = "it is down"

    def flush(self, timeout_s: float) -> bool:
        return self.answers.pop(0) if self.answers else False


class Machine:
    """A host whose one worker has ended; its loop does `in_turn` and counts."""

    def __init__(self, in_turn: Callable[["Machine"], None] = lambda machine: None) -> None:
        self.crew = self
        self.workers, self.alive, self.ends = {1: None}, [], [end(-9)]
        self.finish, self.stop, self.starts_nobody = None, StopState(), False
        self.turns, self.notes = 0, list[str]()
        self.in_turn = in_turn

    def turn(self) -> None:
        self.turns += 1
        self.in_turn(self)

    def drain(self, *, waits: bool) -> None:
        assert self.starts_nobody, "it would start another worker and leave it"

    def show_note(self, text: str) -> None:
        self.notes.append(text)


def run(machine: Machine, line: Line) -> None:
    _Guest(cast(Any, machine), cast(Any, line), cast(Any, machine)).run()


def end(status: int, **changes: Any) -> WorkerEnd:
    values: dict[str, Any] = {"worker": 1, "status": status, "joined": True, "log": Path("worker-1.log")}
    return WorkerEnd(**values | changes)


def test_a_guest_ends_when_the_controller_knows_that_its_worker_has_ended_and_not_before() -> None:
    machine, line = Machine(), Line(False, False, False, True)
    run(machine, line)
    assert (line.answers, machine.turns) == ([], 3)
    assert len(machine.notes) == 1
    assert "waiting for the controller" in machine.notes[0]


def test_a_guest_waits_with_a_bound_and_says_what_it_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_remote, "LAST_WORDS_WAIT_S", 0.0)
    machine = Machine()
    run(machine, Line())
    (note,) = machine.notes
    assert "could not be told within 0 s how the worker ended (it is down)" in note


def test_a_guest_does_not_wait_where_nobody_listens_nor_against_a_further_interrupt() -> None:
    refused = Machine()
    run(refused, Line(is_refused=True))

    def interrupt(machine: Machine) -> None:
        machine.stop = StopState(interrupts=1)

    interrupted = Machine(interrupt)
    run(interrupted, Line())
    assert (refused.turns, interrupted.turns) == (0, 1)


@pytest.mark.parametrize(
    ("ended", "was_asked", "how_over", "status"),
    [
        (end(0), True, None, 0),
        (end(0), True, "stopped", 0),
        (end(0), False, "finished", 0),
        (end(0), False, None, 0),
        (end(-9, was_stopped=True), True, None, 1),
        (end(-9, was_stopped=True), True, "finished", 1),
        (end(-9), False, "finished", 1),
        (end(1, kind="ExpelledError"), True, None, 0),
        (end(1, kind="JobOverError"), False, "finished", 0),
        (end(1, kind="ExpelledError"), False, None, 1),
        (end(-15, was_stopped=True, joined=False), True, None, 0),
        (end(-15, was_stopped=True), True, None, 1),
        (end(130), True, "stopped", INTERRUPTED),
        (end(3, kind="ValueError", sentence="boom"), True, None, 3),
    ],
)
def test_a_guest_ended_well_only_if_its_worker_did(
    ended: WorkerEnd, was_asked: bool, how_over: HowOver | None, status: int
) -> None:
    verdict = judge_guest([ended], script="train.py", was_asked_to_leave=was_asked, how_over=how_over)
    assert verdict.exit_code == status
