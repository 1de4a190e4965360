"""A launcher whose controller hangs (SIGSTOP) when no worker is left to go on with."""

import os
import select
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import environment
from elastic_jobs import WAIT_S, ElasticJob, members_of

pytestmark = pytest.mark.process
HERE = Path(__file__).parent
SCRIPT = f"""
import sys; sys.path.append({str(HERE)!r})
import fake_worker
plain = fake_worker.write_at
def write_at(flag, *at):
    plain(flag, *at)
    if fake_worker.os.path.exists("now"):
        fake_worker.sender.send(fake_worker.wire.FinishedReport(rank=0, digest="ab" * 32, steps=at[0]))
        fake_worker.os._exit(0)
fake_worker.write_at = write_at
fake_worker.be_elastic()
"""
COMMAND = """
import sys
from holdtrue.cli import main
from holdtrue.launch import _controller, _elastic, _restarts
_elastic._ASK_WAIT_S = _elastic._LAST_WORDS_S = _controller._END_WAIT_S = 0.5
_restarts.HANG_WAIT_S = {hang_wait_s}
settings_of = _elastic.describe_settings
_elastic.describe_settings = lambda spec: settings_of(spec) | {{"settle_s": 0.2}}
main(sys.argv[1:])
"""


class Hanging:
    """A job of one worker whose controller is stopped, and whose worker ends well after that."""

    def __init__(self, folder: Path, *, hang_wait_s: float) -> None:
        name = f"hang-{os.getpid()}-{hang_wait_s:.0f}"
        (folder / "train.py").write_text(textwrap.dedent(SCRIPT))
        command = [sys.executable, "-c", COMMAND.format(hang_wait_s=hang_wait_s), "run", "--workers", "1"]
        process = subprocess.Popen(
            [*command, "--device", "cpu", "--name", name, "--run-dir", "run", "train.py"],
            cwd=folder,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.job = ElasticJob(folder=folder, process=process, name=name)

    def hang(self) -> None:
        """Stop the controller, and let the worker end."""
        (member,) = members_of(self.job.wait_for_workers(1, step=3))
        worker = os.pidfd_open(member["pid"])
        os.kill(self.job.controller_pid(), signal.SIGSTOP)
        (self.job.folder / "now").touch()
        assert select.select([worker], [], [], WAIT_S)[0], "the worker did not end"
        os.close(worker)


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[list[Hanging]]:
    started: list[Hanging] = []
    yield started
    for each in started:
        each.job.close()


def test_a_controller_that_hangs_when_no_worker_is_left_is_replaced_and_the_job_ends_well(
    tmp_path: Path, jobs: list[Hanging]
) -> None:
    jobs.append(Hanging(tmp_path, hang_wait_s=1.5))
    jobs[0].hang()
    ended = jobs[0].job.end()
    assert ended.status == 0, ended.text
    assert "no worker lives here, and the controller has not answered for" in ended.err
    assert "the controller ended with status -9" in ended.err


def test_one_interrupt_ends_a_job_without_workers_whose_controller_hangs(
    tmp_path: Path, jobs: list[Hanging]
) -> None:
    jobs.append(Hanging(tmp_path, hang_wait_s=1000.0))
    jobs[0].hang()
    jobs[0].job.process.send_signal(signal.SIGINT)
    ended = jobs[0].job.end()
    assert ended.status == 130, ended.text
