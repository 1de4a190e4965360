"""An elastic job's processes, with workers that train nothing: what `holdtrue run` and its commands do to them."""

import os
import signal
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from elastic_jobs import WAIT_S, ElasticJob, kill_9, members_of, start_job, step_of

from holdtrue.elastic._state import GENERATIONS_OF_A_LIFE

pytestmark = pytest.mark.process
HERE = Path(__file__).parent
PREAMBLE = f"import sys; sys.path.append({str(HERE)!r})\nimport os, signal\nfrom fake_worker import *\n"
Start = Callable[..., ElasticJob]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    jobs: list[ElasticJob] = []

    def start_elastic(*options: str, body: str = "be_elastic()") -> ElasticJob:
        (tmp_path / "train.py").write_text(PREAMBLE + textwrap.dedent(body))
        name = f"j{os.getpid()}-{len(jobs)}"
        jobs.append(start_job(tmp_path, "train.py", *options, name=name))
        return jobs[-1]

    yield start_elastic
    for job in jobs:
        job.close()


def test_a_job_is_resized_looked_at_and_stopped_by_its_name(start: Start) -> None:
    job = start("--workers", "2")
    first = job.wait_for_workers(2, step=3)
    assert job.command("resize", job.name, "4", "--wait").status == 0
    assert len(members_of(job.wait_for_workers(4))) == 4
    shown = job.command("status", job.name).out
    assert "generation 2 of 4 workers" in shown
    assert job.command("resize", job.name, "1", "--wait").status == 0
    last = job.wait_for_workers(1)
    assert members_of(last)[0]["pid"] == members_of(first)[0]["pid"], "who stays is not restarted"
    refused = job.command("resize", job.name, "0")
    assert (refused.status, "at least 1 worker" in refused.err) == (2, True)
    stopped = job.command("stop", job.name)
    assert stopped.status == 0
    assert "runs no more. It was stopped after" in stopped.err
    ended = job.end()
    assert ended.status == 130, ended.text
    assert "generation 2: 4 workers, 2 more" in ended.err
    assert "stopped after" in ended.err
    assert "holdtrue run --resume --run-dir run" in ended.err
    again = job.command("status", job.name)
    assert (again.status, "It was stopped" in again.out) == (0, True)
    late = job.command("resize", job.name, "2")
    assert (late.status, "runs no more" in late.err) == (2, True)
    assert not Path(job.entry.token_file).exists()


def test_a_killed_worker_is_told_with_its_pass_and_the_job_finishes_without_it(start: Start) -> None:
    job = start("--workers", "3", body="be_elastic(steps=200)")
    pids = {member["worker"]: member["pid"] for member in members_of(job.wait_for_workers(3, step=3))}
    kill_9(pids[1])
    job.wait_for_workers(2)
    ended = job.end()
    assert ended.status == 0, ended.text
    assert "worker 1 was killed by SIGKILL" in ended.err
    assert "error" not in ended.err


def test_a_killed_worker_is_replaced_while_restarts_last(start: Start) -> None:
    job = start("--workers", "2", "--restart", "1")
    job.wait_for_workers(2, step=3)
    kill_9(job.pids()[0])
    facts = job.wait_until(
        lambda facts: [m["worker"] for m in members_of(facts)] == [1, 2], "worker 2 in the place of worker 0"
    )
    assert facts["restarts_left"] == 0
    kill_9(job.pids()[2])
    job.wait_until(lambda facts: [m["worker"] for m in members_of(facts)] == [1], "one worker")
    job.wait_for_workers(1)


def test_the_pass_that_kills_two_workers_in_a_row_ends_the_job(start: Start) -> None:
    body = """
    import fake_worker
    def write_at(flag, step, round_, virtual_node):
        os.pwrite(worker.at_fd, fake_worker.struct.pack("<4q", 1, 7, 0, 5), 0)
        if step == 20 + 20 * worker.worker:
            os.kill(os.getpid(), signal.SIGKILL)
    fake_worker.write_at = write_at
    be_elastic()
    """
    ended = start("--workers", "3", body=body).end()
    assert ended.status == 1
    assert "virtual node 5 of step 7 killed two workers in a row" in ended.err


def test_a_killed_controller_is_started_again_at_its_address_and_learns_the_job(start: Start) -> None:
    job = start("--workers", "2")
    before = job.wait_for_workers(2, step=3)
    controller, url = job.controller_pid(), job.entry.url
    kill_9(controller)
    job.wait_until(
        lambda facts: len(members_of(facts)) == 2 and step_of(facts) > step_of(before) + 3,
        "the job in the eyes of a new controller",
    )
    assert job.controller_pid() != controller
    assert job.entry.url == url
    assert job.pids() == {member["worker"]: member["pid"] for member in members_of(before)}
    assert job.command("resize", job.name, "3", "--wait").status == 0
    job.command("stop", job.name)
    ended = job.end()
    assert ended.status == 130
    assert "the controller ended with status -9; the job goes on" in ended.err


def test_a_host_adds_its_device_and_its_sigterm_takes_it_away_politely(start: Start) -> None:
    job = start("--workers", "1")
    job.wait_for_workers(1, step=3)
    host = job.join()
    members = members_of(job.wait_for_workers(2))
    assert members[1]["host"] != members[0]["host"]
    host.send_signal(signal.SIGTERM)
    out, err = host.communicate(timeout=WAIT_S)
    assert host.returncode == 0, out + err
    assert "left the job after" in err
    job.wait_for_workers(1)
    other = job.join()
    job.wait_for_workers(2)
    assert job.command("stop", job.name).status == 0
    assert other.wait(WAIT_S) == 130
    assert job.end().status == 130


def test_a_host_ends_with_the_job_although_its_launcher_was_killed(start: Start) -> None:
    job = start("--workers", "1")
    job.wait_for_workers(1, step=3)
    host = job.join()
    job.wait_for_workers(2)
    (worker,) = [
        child for child in psutil.Process(host.pid).children() if "train.py" in " ".join(child.cmdline())
    ]
    job.process.kill()
    worker.send_signal(signal.SIGKILL)
    assert host.wait(WAIT_S) == 1


def test_a_guest_whose_worker_dies_while_there_is_no_controller_tells_the_next_one(start: Start) -> None:
    job = start("--workers", "1")
    job.wait_for_workers(1, step=3)
    host = job.join()
    members = members_of(job.wait_for_workers(2))
    controller = job.controller_pid()
    job.process.send_signal(signal.SIGSTOP)  # nobody starts the controller again
    kill_9(controller)
    kill_9(members[1]["pid"])
    assert host.stderr is not None
    assert any("waiting for the controller" in line for line in host.stderr), "it ended without a word"
    job.process.send_signal(signal.SIGCONT)
    assert host.wait(WAIT_S) == 1
    job.wait_until(
        lambda facts: facts["generation"] > GENERATIONS_OF_A_LIFE,
        "a view without the guest's worker, long before the time-out of 300 s",
    )
    assert [member["worker"] for member in members_of(job.facts())] == [members[0]["worker"]]
    assert job.command("stop", job.name).status == 0


def test_two_living_jobs_of_one_name_are_refused_and_unnamed_ones_are_numbered(
    start: Start, tmp_path: Path
) -> None:
    job = start("--workers", "1")
    job.wait_for_workers(1)
    second = job.command("run", "--name", job.name, "--run-dir", "other", "train.py")
    assert second.status == 2
    assert f"a job called '{job.name}' is running" in second.err
    assert not (tmp_path / "other" / "plan.json").exists()


def test_no_token_is_in_arguments_logs_or_what_is_printed(start: Start, tmp_path: Path) -> None:
    job = start("--workers", "2", "--listen", "127.0.0.1")
    job.wait_for_workers(2, step=3)
    tokens = [Path(job.entry.join_file).read_text(), *_tokens_of(job)]
    processes = [psutil.Process(job.process.pid), *psutil.Process(job.process.pid).children(recursive=True)]
    seen = [*(word for process in processes for word in process.cmdline())]
    seen += [f"{name}={value}" for process in processes[1:] for name, value in process.environ().items()]
    seen += [path.read_text() for path in (tmp_path / "run").rglob("*") if path.is_file()]
    seen.append(Path(job.entry.run_dir, "logs", "controller.log").read_text())
    job.command("stop", job.name)
    seen.append(job.end().text)
    assert len(tokens) == 4
    assert not [text for text in seen if any(token in text for token in tokens)]


def _tokens_of(job: ElasticJob) -> list[str]:
    import json

    return list(json.loads(Path(job.entry.token_file).read_text()).values())


def test_an_exception_of_one_worker_ends_the_job_at_once_on_every_host(start: Start) -> None:
    body = """
    import fake_worker
    def write_at(flag, step, round_, virtual_node):
        if worker.worker == 1 and os.path.exists("now"):
            sender.send(wire.FailedReport(rank=1, kind="ValueError", sentence="ValueError: boom"))
            raise ValueError("boom")
    fake_worker.write_at = write_at
    be_elastic()
    """
    job = start("--workers", "2", body=body)
    job.wait_for_workers(2, step=3)
    host = job.join()
    job.wait_for_workers(3)
    (job.folder / "now").touch()
    ended = job.end()
    assert ended.status == 1
    assert ended.err.count("ValueError: boom") == 1, ended.err
    assert ended.seconds < 20
    assert host.wait(WAIT_S) == 1
    assert "boom" in host.communicate()[1]
