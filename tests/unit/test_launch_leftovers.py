"""When an ended worker is cleaned up, and that the guard sees to every worker whatever happens to one."""

import io
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from holdtrue.launch import _guard
from holdtrue.launch._leftovers import LEFTOVER_WAIT_S, OUTPUT_WAIT_S, Remains, next_rite

WAIT_S = 20.0
FRESH = Remains(ended_s=100.0)
KILLED = Remains(ended_s=100.0, killed_s=102.0)


@pytest.mark.parametrize(
    ("remains", "is_output_open", "has_leftovers", "now_s", "rite"),
    [
        (FRESH, False, False, 100.0, "reap"),
        (FRESH, True, False, 100.0, "wait"),  # its last words are still in the pipe
        (FRESH, False, True, 100.0, "wait"),  # what it started may clean up
        (FRESH, False, True, 100.0 + LEFTOVER_WAIT_S, "kill"),
        (FRESH, True, False, 100.0 + LEFTOVER_WAIT_S, "kill"),
        (KILLED, True, True, 102.0, "wait"),
        (KILLED, False, True, 102.0, "reap"),
        (
            KILLED,
            True,
            False,
            102.0 + OUTPUT_WAIT_S,
            "reap",
        ),  # something that left its session holds the pipe
    ],
)
def test_an_ended_worker_is_let_go_in_bounded_time(
    remains: Remains, is_output_open: bool, has_leftovers: bool, now_s: float, rite: str
) -> None:
    found = next_rite(remains, is_output_open=is_output_open, has_leftovers=has_leftovers, now_s=now_s)
    assert found == rite


@pytest.fixture
def sleepers() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Three processes that lead sessions and wait for ever."""
    started = [subprocess.Popen(["sleep", "1000"], start_new_session=True) for _ in range(3)]
    yield started
    for process in started:
        process.kill()
        process.wait(WAIT_S)


def watch(monkeypatch: pytest.MonkeyPatch, *pids: int) -> None:
    """What a guard does that is told of these processes and then loses its launcher."""
    lines = "".join(f"{pid}\n" for pid in pids).encode()
    monkeypatch.setattr(sys, "argv", ["_guard.py", "0"])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
    _guard.main()


def test_a_worker_that_ends_just_before_it_is_killed_does_not_save_the_others(
    sleepers: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = sleepers[0].pid
    killpg = os.killpg

    def kill_a_moment_too_late(pid: int, number: int) -> None:
        if pid == gone:
            raise ProcessLookupError
        killpg(pid, number)

    monkeypatch.setattr(os, "killpg", kill_a_moment_too_late)
    watch(monkeypatch, *(process.pid for process in sleepers))
    assert [process.wait(WAIT_S) for process in sleepers[1:]] == [-signal.SIGKILL] * 2


def test_workers_beyond_the_guards_descriptors_do_not_end_it(sleepers: list[subprocess.Popen[bytes]]) -> None:
    guard = subprocess.Popen(
        [sys.executable, "-I", "-S", _guard.__file__, "0"],
        stdin=subprocess.PIPE,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (5, 5)),  # two beside the standard ones
    )
    guard.communicate("".join(f"{process.pid}\n" for process in sleepers).encode(), timeout=WAIT_S)
    assert guard.returncode == 0
    assert [process.wait(WAIT_S) for process in sleepers] == [-signal.SIGKILL] * 3


def test_a_number_that_was_given_back_is_not_the_guards_any_more(
    sleepers: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = (process.pid for process in sleepers)
    watch(monkeypatch, first, second, third, -second, -999_999_999)
    assert [sleepers[at].wait(WAIT_S) for at in (0, 2)] == [-signal.SIGKILL] * 2
    assert sleepers[1].poll() is None, "its number may be another process's by now"
