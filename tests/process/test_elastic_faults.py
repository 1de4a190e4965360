"""SIGKILL in every phase of a real job, of rank 0 and of others, two at once, and a worker that sleeps through its group.

After each: the digests of all steps are those of one undisturbed worker, every step is recorded once, survivors are the
processes that began, and their code after update ran once per step.
"""

import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from elastic_jobs import ElasticJob, kill_9, members_of
from faulty_jobs import Undisturbed, differences, mark, read_undisturbed, start, wait_for_mark
from faulty_train import PHASES

from holdtrue.elastic._state import NUMBERS_OF_A_LIFE

pytestmark = pytest.mark.process
Begin = Callable[..., ElasticJob]


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    folder = tmp_path_factory.mktemp("undisturbed")
    job = start(folder, "--workers", "1")
    ended = job.end()
    assert ended.status == 0, ended.text
    return read_undisturbed(folder)


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    jobs: list[ElasticJob] = []

    def begin_job(*options: str, **arguments: Any) -> ElasticJob:
        jobs.append(start(tmp_path, *options, **arguments))
        return jobs[-1]

    yield begin_job
    for job in jobs:
        job.close()


def check(job: ElasticJob, base: Undisturbed, faults: str) -> None:
    """The job's end: every fault fired where it was to, and nothing differs."""
    ended = job.end()
    dead = set()
    for text in faults.split(";"):
        worker, step, phase, *_ = text.split(":")
        fired = mark(job.folder, f"fired-{worker}")
        assert fired is not None, f"{text} never fired; {ended.text}"
        assert fired["phase"] == phase
        assert int(step) in (-1, fired["step"])
        dead.add(int(worker))
    assert differences(job.folder, ended, base, dead=dead) == [], ended.text


PAIRS = [
    pytest.param("1:3:load;0:7:forward", marks=pytest.mark.slow),
    pytest.param("0:3:backward;1:7:first-bucket", marks=pytest.mark.slow),
    "1:3:last-bucket;0:7:exchanged",
    pytest.param("1:3:ledger-sent;0:7:ledger", marks=pytest.mark.slow),
    pytest.param("0:3:update;1:7:after", marks=pytest.mark.slow),
    "0:5:checkpoint;1:7:evaluate",
]
"""Two faults in one job of three workers: each phase once, of rank 0 and of others by turns."""


@pytest.mark.parametrize("faults", PAIRS)
def test_a_worker_killed_in_any_phase_of_a_step_changes_no_bit(
    faults: str, begin: Begin, undisturbed: Undisturbed
) -> None:
    job = begin("--workers", "3", "--checkpoint-every", "3", faults=faults)
    check(job, undisturbed, faults)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("phase", PHASES)
def test_each_worker_of_two_killed_in_each_phase_changes_no_bit(
    phase: str, victim: int, begin: Begin, undisturbed: Undisturbed
) -> None:
    if phase == "checkpoint" and victim:
        pytest.skip("the main worker writes checkpoints")
    step = {"evaluate": 7, "checkpoint": 5}.get(phase, 6)
    faults = f"{victim}:{step}:{phase}"
    check(begin("--workers", "2", "--checkpoint-every", "3", faults=faults), undisturbed, faults)


@pytest.mark.slow
@pytest.mark.parametrize("nth", range(6))
def test_a_kill_at_every_point_of_a_checkpoint_changes_no_bit(
    nth: int, begin: Begin, undisturbed: Undisturbed
) -> None:
    faults = f"0:5:checkpoint:{nth}"
    check(begin("--workers", "2", "--checkpoint-every", "3", faults=faults), undisturbed, faults)


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param("0:5:first-bucket;1:5:first-bucket", marks=pytest.mark.slow),
        "0:5:update;1:5:backward",
        pytest.param("1:5:backward;2:5:backward", marks=pytest.mark.slow),
        pytest.param("0:5:ledger-sent;2:5:ledger", marks=pytest.mark.slow),
    ],
)
def test_two_workers_killed_at_once_change_no_bit(
    faults: str, begin: Begin, undisturbed: Undisturbed
) -> None:
    check(begin("--workers", "3", faults=faults), undisturbed, faults)


@pytest.mark.parametrize(
    "faults",
    [
        "1:5:last-bucket;0:5:form",
        pytest.param("0:5:last-bucket;1:5:form", marks=pytest.mark.slow),
        pytest.param("0:5:ledger;1:-1:formed:1", marks=pytest.mark.slow),
        pytest.param("2:5:update;1:-1:formed:1", marks=pytest.mark.slow),
    ],
)
def test_a_worker_killed_while_the_survivors_form_their_group_changes_no_bit(
    faults: str, begin: Begin, undisturbed: Undisturbed
) -> None:
    check(begin("--workers", "3", faults=faults), undisturbed, faults)


def test_a_taker_and_then_the_giver_killed_in_the_middle_of_the_states_copy_change_no_bit(
    begin: Begin, undisturbed: Undisturbed
) -> None:
    faults = "2:-1:take;0:-1:give:1"
    job = begin("--workers", "2", faults=faults, holds="4:2;8:4")
    job.wait_for_workers(2)
    job.client().resize(3)
    wait_for_mark(job, "fired-2")
    job.wait_for_workers(2)
    job.client().resize(3)
    wait_for_mark(job, "fired-0")
    check(job, undisturbed, faults)


def test_a_joiner_that_is_not_needed_any_more_ends_and_does_the_job_no_harm(
    begin: Begin, undisturbed: Undisturbed
) -> None:
    job = begin("--workers", "1", holds="4:2")
    job.wait_for_workers(1)
    kill_9(job.controller_pid())  # the next one learns who is there, and resizes without waiting for more
    job.wait_until(lambda facts: bool(members_of(facts)), "the job in the eyes of a new controller")
    job.client().resize(3)
    ready, late = NUMBERS_OF_A_LIFE, NUMBERS_OF_A_LIFE + 1
    late_pid = wait_for_mark(job, f"born-{late}")["pid"]
    os.kill(late_pid, signal.SIGSTOP)  # the other joiner waits for it a moment
    job.wait_until(lambda facts: phase_of(facts, ready) == "ready", "a joiner ready to enter")
    job.client().resize(1)
    os.kill(late_pid, signal.SIGCONT)
    job.wait_until(
        lambda facts: phase_of(facts, ready) == phase_of(facts, late) == "gone", "the end of both joiners"
    )
    job.client().resize(2)
    ended = job.end()
    assert differences(job.folder, ended, undisturbed, dead={ready, late}) == [], ended.text
    assert "error" not in ended.text
    events = (job.folder / "run" / "events.jsonl").read_text().splitlines()
    kinds = [json.loads(line)["kind"] for line in events]
    assert kinds.count("controller") == 1, "its restart is in the record, once"


def phase_of(facts: dict[str, Any], worker: int) -> str:
    return next((each["phase"] for each in facts.get("workers", []) if each["worker"] == worker), "gone")


def test_the_main_worker_killed_while_it_saves_is_replaced_by_another(
    begin: Begin, undisturbed: Undisturbed
) -> None:
    faults = "0:-1:save"
    check(begin("--workers", "2", faults=faults), undisturbed, faults)


def test_a_worker_that_sleeps_past_the_time_out_does_the_run_no_harm_when_it_wakes(
    begin: Begin, undisturbed: Undisturbed
) -> None:
    faults = "1:5:forward:0:STOP"
    job = begin("--workers", "3", "--timeout", "4", faults=faults)
    pid = wait_for_mark(job, "fired-1")["pid"]
    wait_for_mark(job, "end-0")
    with contextlib.suppress(ProcessLookupError):  # its host may have killed it
        os.kill(pid, signal.SIGCONT)
    check(job, undisturbed, faults)
    assert "worker 1 is killed: it is silent" in (job.folder / "run" / "logs" / "controller.log").read_text()
    assert mark(job.folder, "end-1") is None


@pytest.mark.slow
def test_a_sleeper_whose_host_sleeps_too_wakes_outside_the_membership_and_leaves(
    begin: Begin, undisturbed: Undisturbed
) -> None:
    faults = "1:8:forward:0:STOP"
    job = begin("--workers", "1", "--timeout", "4", faults=faults, holds="4:2;10:4")
    job.wait_for_workers(1)
    host = job.join("--device", "cpu")
    sleeper = psutil.Process(wait_for_mark(job, "fired-1")["pid"])
    os.kill(host.pid, signal.SIGSTOP)  # nobody can kill the sleeper
    log = job.folder / "run" / "logs" / "controller.log"
    job.wait_until(lambda _: "it is expelled" in log.read_text(), "the sleeper's expulsion")
    for pid in (sleeper.pid, host.pid):
        os.kill(pid, signal.SIGCONT)
    gone, _ = psutil.wait_procs([sleeper], timeout=30)
    assert gone, "the sleeper woke, and is still there"
    job.client().resize(2)
    check(job, undisturbed, faults)
    assert mark(job.folder, "end-1") is None
