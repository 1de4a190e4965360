"""How an elastic job of real workers ends when it is stopped at an awkward moment, and what does not end it."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from commands import LIMIT_S, Ended, holdtrue, write_script
from elastic_jobs import ElasticJob, kill_9, read_events, start_job, step_of

from holdtrue.record import read_run

pytestmark = pytest.mark.process
Begin = Callable[..., ElasticJob]

BODY = """
run = ht.init(virtual_nodes=4, global_batch_size=8)
if int(os.environ["HOLDTRUE_WORKER_WORKER"]) > 1 and os.path.exists("refuse"):
    raise RuntimeError("this worker cannot take part")
model = Net()
run.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
data = examples(8)
longer = int(os.environ["HOLDTRUE_WORKER_WORKER"]) > 0 and os.path.exists("longer")
for step in run.steps(examples(80), epochs=int(sys.argv[1]) + longer):
    take_step(step, model)
    run.evaluate(lambda x, y: {"loss": F.mse_loss(model(x), y)}, data)
    if os.path.exists("slow"):
        time.sleep(0.1)
"""


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    jobs: list[ElasticJob] = []

    def begin_job(*options: str, epochs: int = 100_000) -> ElasticJob:
        write_script(tmp_path, BODY)
        jobs.append(
            start_job(
                tmp_path,
                "train.py",
                "--checkpoint-every",
                "100000",
                *options,
                name=f"ends-{os.getpid()}",
                arguments=(str(epochs),),
            )
        )
        return jobs[-1]

    yield begin_job
    for job in jobs:
        job.close()


def check_stopped(job: ElasticJob, *, asked: str | None = "") -> Ended:
    """The job ended in order, with a checkpoint of the very step that it names, and says who asked: None for a signal.

    Of a signal to one worker the others may hear first from the controller.
    """
    ended = job.end()
    assert ended.status == 130, ended.text
    (interrupted,) = [event for event in read_events(job.folder) if event["kind"] == "interrupted"]
    by_signal = "a signal asked the run to end", "the job was asked to end: worker "
    assert interrupted["reason"].startswith(
        by_signal if asked is None else f"the job was asked to end: {asked}"
    )
    kept = sorted((job.folder / "run" / "checkpoints").iterdir())
    assert kept[-1].name == f"step-{interrupted['step']:08}", ended.text
    assert "error" not in ended.text
    return ended


def test_a_stop_of_a_script_that_evaluates_in_every_step_keeps_a_checkpoint(begin: Begin) -> None:
    job = begin("--workers", "2")
    job.wait_for_workers(2, step=3)
    job.client().stop("a test asks")
    check_stopped(job, asked="a test asks")


def test_a_stop_that_a_killed_controller_had_accepted_still_ends_the_job(begin: Begin) -> None:
    job = begin("--workers", "2", "--restart", "2")
    job.wait_for_workers(2, step=1)
    sleeper = job.pids()[1]
    os.kill(sleeper, signal.SIGSTOP)  # no boundary is reached before the controller is gone
    try:
        job.client().stop("a test asks")
        kill_9(job.controller_pid())
    finally:
        os.kill(sleeper, signal.SIGCONT)
    check_stopped(job)
    log = (job.folder / "run" / "logs" / "controller.log").read_text()
    assert "is started on host" not in log, "nobody was started in the place of those who stopped"


def test_the_launcher_killed_leaves_a_checkpoint_from_which_the_bits_go_on(begin: Begin) -> None:
    job = begin("--workers", "2", "--digest-every", "1", epochs=3)
    (job.folder / "slow").touch()  # else its 30 steps might be over before the launcher is dead
    job.wait_for_workers(2, step=2)
    workers = [psutil.Process(pid) for pid in job.pids().values()]
    kill_9(job.process.pid)
    gone, alive = psutil.wait_procs(workers, timeout=LIMIT_S)
    assert not alive
    assert len(gone) == 2
    (kept,) = (job.folder / "run" / "checkpoints").iterdir()
    assert 2 <= int(kept.name.removeprefix("step-")) < 30
    (job.folder / "slow").unlink()
    words = "run", "--device", "cpu", "--digest-every", "1"
    again = holdtrue(*words, "--run-dir", "run", "--resume", "train.py", "3", cwd=job.folder)
    assert again.status == 0, again.text
    assert str(kept.name) in again.text
    alone = holdtrue(*words, "--run-dir", "alone", "train.py", "3", cwd=job.folder)
    assert alone.status == 0, alone.text
    digests = [read_run(job.folder / name).digests for name in ("run", "alone")]
    assert {i: found.digest for i, found in digests[0].items()} == {
        i: found.digest for i, found in digests[1].items()
    }


def test_an_interrupt_of_one_worker_ends_the_job_in_order(begin: Begin) -> None:
    job = begin("--workers", "2", "--restart", "2")
    job.wait_for_workers(2, step=1)
    os.kill(job.pids()[1], signal.SIGINT)
    check_stopped(job, asked=None)


@pytest.mark.slow
def test_a_worker_that_is_told_twice_to_leave_leaves_alone(begin: Begin) -> None:
    job = begin("--workers", "2")
    job.wait_for_workers(2, step=1)
    first, second = job.pids()[0], job.pids()[1]
    os.kill(first, signal.SIGSTOP)  # the other one waits for its boundary
    try:
        os.kill(second, signal.SIGTERM)
        job.wait_until(lambda facts: leaves(facts, 1), "the controller's word that worker 1 leaves")
        os.kill(second, signal.SIGTERM)
    finally:
        os.kill(first, signal.SIGCONT)
    job.wait_for_workers(1)
    assert job.pids() == {0: first}
    job.client().stop("a test asks")
    check_stopped(job)


def leaves(facts: dict[str, Any], worker: int) -> bool:
    return any(each["phase"] == "leaving" for each in facts["workers"] if each["worker"] == worker)


@pytest.mark.slow
def test_an_interrupt_while_the_controller_hangs_is_told_to_the_workers(begin: Begin) -> None:
    job = begin("--workers", "2")
    job.wait_for_workers(2, step=1)
    os.kill(job.controller_pid(), signal.SIGSTOP)
    os.kill(job.process.pid, signal.SIGINT)
    check_stopped(job, asked=None)


def test_a_device_whose_script_takes_other_steps_is_refused_and_does_the_job_no_harm(begin: Begin) -> None:
    job = begin("--workers", "1", epochs=5000)
    job.wait_for_workers(1, step=1)
    pids = job.pids()
    (job.folder / "longer").touch()
    guest = job.join()
    _, err = guest.communicate(timeout=LIMIT_S)
    assert guest.returncode == 2, err
    assert "differs from the job that it came to in steps (50000 and 50010)" in " ".join(err.split())
    facts = job.wait_until(lambda facts: facts["target"] == 1, "the controller's word that it is refused")
    job.wait_for_workers(1, step=step_of(facts) + 1)
    assert job.pids() == pids
    job.client().stop("a test asks")
    check_stopped(job, asked="a test asks")


def test_an_error_of_a_worker_that_was_joining_is_told_and_does_the_job_no_harm(begin: Begin) -> None:
    job = begin("--workers", "2")
    job.wait_for_workers(2, step=1)
    pids = job.pids()
    (job.folder / "refuse").touch()
    job.client().resize(3)
    job.wait_until(lambda facts: facts["target"] == 2, "the controller's word that worker 2 failed")
    job.wait_for_workers(2, step=3)
    assert job.pids() == pids
    job.client().stop("a test asks")
    ended = job.end()
    assert ended.status == 130, ended.text
    assert "this worker cannot take part" in ended.err
    assert "goes on without it" in ended.err
    assert json.loads((job.folder / "run" / "events.jsonl").read_text().splitlines()[-1])["kind"]
