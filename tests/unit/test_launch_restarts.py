"""When a controller counts as hanging, and that this has an end."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from holdtrue.launch._controller import ControllerProcess
from holdtrue.launch._restarts import HANG_WAIT_S, MOST_DEATHS, hangs, next_start_s


def test_a_controller_hangs_once_it_has_answered_nothing_since_its_start_or_its_last_answer() -> None:
    assert not hangs(started_s=100.0, answered_s=None, now_s=100.0 + HANG_WAIT_S - 0.1)
    assert hangs(started_s=100.0, answered_s=None, now_s=100.0 + HANG_WAIT_S)
    assert not hangs(started_s=100.0, answered_s=105.0, now_s=105.0 + HANG_WAIT_S - 0.1)
    assert hangs(started_s=100.0, answered_s=105.0, now_s=105.0 + HANG_WAIT_S)
    assert not hangs(started_s=100.0, answered_s=50.0, now_s=105.0), "the answer was another one's"


def test_controllers_that_all_hang_are_given_up() -> None:
    started_s: float | None = 100.0
    deaths_s: list[float] = []
    while started_s is not None:
        assert len(deaths_s) < MOST_DEATHS
        deaths_s.append(started_s + HANG_WAIT_S)
        started_s = next_start_s(deaths_s)
    assert deaths_s[-1] - 100.0 < 60.0


def test_a_controller_that_there_is_no_room_for_is_tried_again_as_one_that_died(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        gone = tmp_path / "gone"
        controller = ControllerProcess(
            **{name: gone / name for name in ("tokens", "job", "description", "memory", "log")},
            listener=listener,
        )
        for _ in range(MOST_DEATHS):
            assert not controller.is_given_up
            with pytest.raises(OSError, match="No such file") as refused:
                controller.start({})
            said = controller.see_failed_start(refused.value)
            assert "the controller cannot be started (No such file or directory)" in said
        assert controller.is_given_up


def test_time_in_which_nobody_asked_is_no_silence(tmp_path: Path) -> None:
    """A launcher that was stopped itself for a while must not kill a controller that is well."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        controller = ControllerProcess(
            **dict.fromkeys(("tokens", "job", "description", "memory", "log"), tmp_path / "f"),
            listener=listener,
        )
        controller._process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        try:
            now_s = time.monotonic()
            controller.forgive(now_s + 2 * HANG_WAIT_S)
            assert not controller.end_if_it_hangs(now_s, now_s + 2 * HANG_WAIT_S + 1.0)
            assert controller.end_if_it_hangs(now_s, now_s + 3 * HANG_WAIT_S)
            assert controller._process.wait(30) == -signal.SIGKILL
        finally:
            controller._process.kill()
            controller._process.communicate()
