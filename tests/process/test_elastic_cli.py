"""Real training under `holdtrue run`: resized, killed and joined from outside, with the bits of an undisturbed run."""

import os
import signal
from pathlib import Path

import psutil
import pytest
from commands import holdtrue, write_script
from elastic_jobs import WAIT_S, kill_9, sentences_of, start_job, step_of

from holdtrue.record import RunRecord, read_run

pytestmark = pytest.mark.process
BODY = """
run = ht.init(virtual_nodes=4, global_batch_size=8)
model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Dropout(0.2), torch.nn.Linear(8, 1))
run.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
pace_s = float(sys.argv[1])
for step in run.steps(examples(240), epochs=10):
    take_step(step, model)
    if os.path.exists("slow"):
        time.sleep(pace_s)
run.print(run.digest())
"""


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    """The run of one worker that nobody disturbs."""
    folder = tmp_path_factory.mktemp("reference")
    write_script(folder, BODY)
    ended = holdtrue(
        "run", "--device", "cpu", "--run-dir", "one", "--digest-every", "1", "train.py", "0", cwd=folder
    )
    assert ended.status == 0, ended.text
    return read_run(folder / "one")


def test_grown_killed_joined_and_shrunk_a_run_has_the_bits_of_an_undisturbed_one(
    tmp_path: Path, reference: RunRecord
) -> None:
    write_script(tmp_path, BODY)
    (tmp_path / "slow").touch()  # until all changes are through
    job = start_job(
        tmp_path, "train.py", "--workers", "2", "--digest-every", "1", name="elastic-cli", arguments=("0.3",)
    )
    try:
        job.wait_for_workers(2, step=2)
        first = job.pids()[0]
        assert job.command("resize", job.name, "3", "--wait").status == 0
        grown = job.wait_for_workers(3)
        job.wait_for_workers(3, step=step_of(grown) + 3)  # steps of this generation, before a death ends it
        kill_9(job.pids()[1])
        job.wait_for_workers(2)
        host = job.join()
        job.wait_for_workers(3)
        everyone = [
            psutil.Process(job.process.pid),
            *psutil.Process(job.process.pid).children(recursive=True),
            *psutil.Process(host.pid).children(recursive=True),
        ]
        listening = {
            connection.laddr.ip
            for process in everyone
            for connection in process.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        }
        assert listening == {"127.0.0.1"}, "stores, gloo and the controller are on loopback"
        assert job.command("resize", job.name, "1", "--wait").status == 0
        assert job.pids() == {0: first}, "who stays is not restarted"
        (tmp_path / "slow").unlink()
        ended = job.end()
        assert ended.status == 0, ended.text
        assert host.wait(WAIT_S) == 0
    finally:
        job.close()
    run = read_run(tmp_path / "run")
    assert {step.generation for step in run.steps.values()} >= {1, 2, 3, 4, 5}, "no change came in mid-run"
    assert [run.digests[i].digest for i in run.steps] == [
        reference.digests[i].digest for i in reference.steps
    ]


def test_a_worker_that_is_sent_sigterm_twice_leaves_and_the_others_go_on(
    tmp_path: Path, reference: RunRecord
) -> None:
    """As under Slurm, where every process of a step gets the notice, and the host sends the worker its own."""
    write_script(tmp_path, BODY)
    (tmp_path / "slow").touch()
    job = start_job(
        tmp_path, "train.py", "--workers", "2", "--digest-every", "1", name="elastic-term", arguments=("0.5",)
    )
    try:
        job.wait_for_workers(2, step=1)
        leaver = job.pids()[1]
        job.wait_for_workers(2, step=step_of(job.facts()) + 1)  # the pause after this step has just begun
        os.kill(leaver, signal.SIGTERM)
        job.wait_until(
            lambda facts: any("wants to leave" in sentence for sentence in sentences_of(job.name)), "the wish"
        )
        os.kill(leaver, signal.SIGTERM)
        job.wait_for_workers(1)
        (tmp_path / "slow").unlink()
        ended = job.end()
        assert ended.status == 0, ended.text
    finally:
        job.close()
    run = read_run(tmp_path / "run")
    assert {step.generation for step in run.steps.values()} == {1, 2}
    assert [run.digests[i].digest for i in run.steps] == [
        reference.digests[i].digest for i in reference.steps
    ]
