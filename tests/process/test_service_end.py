"""How services end: what they leave behind at SIGTERM."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import LIMIT_S, environment

from holdtrue.scheduler import ClusterClient
from holdtrue.scheduler._records import Place
from holdtrue.scheduler._serve import read_address

pytestmark = pytest.mark.process


def wait_until(is_so: Callable[[], bool]) -> None:
    until_s = time.monotonic() + LIMIT_S
    while not is_so():
        assert time.monotonic() < until_s
        time.sleep(0.02)


def test_a_scheduler_that_gets_sigterm_leaves_no_token_and_no_address(tmp_path: Path) -> None:
    folder = tmp_path / "cluster"
    place = Place(folder=folder)
    command = [sys.executable, "-m", "holdtrue.scheduler", str(folder), "cpu:1", "", "", "", ""]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment(), stderr=log)
    try:
        wait_until(lambda: read_address(place) is not None or process.poll() is not None)
        assert process.poll() is None, (tmp_path / "log").read_text()
        ClusterClient(folder).queue()  # it serves
        left = {path.name for path in folder.iterdir()}
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT_S) == 0, (tmp_path / "log").read_text()
    finally:
        process.kill()
        process.wait()
    gone = left - {path.name for path in folder.iterdir()}
    assert {place.address.name, place.tokens.name} <= gone, (left, gone)
