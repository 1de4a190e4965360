"""A host that joined a job and is killed, with its worker or without: the job goes on with the same bits.

Every wait here is far below the group's time-out of 300 s.
"""

import os
import signal
from pathlib import Path

import psutil
import pytest
from cluster_jobs import digests_of
from commands import HOLDTRUE, begin, holdtrue, write_script
from elastic_jobs import WAIT_S, ElasticJob, step_of

pytestmark = [pytest.mark.process, pytest.mark.slow]
BODY = """
run = ht.init(virtual_nodes=4, global_batch_size=8)
model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Dropout(0.2), torch.nn.Linear(8, 1))
run.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
for step in run.steps(examples(240), epochs=20):
    take_step(step, model)
    if pathlib.Path("slow").exists():
        time.sleep(0.02)
"""
OPTIONS = ("--device", "cpu", "--digest-every", "1")


@pytest.mark.parametrize("victims", ["host", "host and worker"])
def test_a_killed_host_takes_its_worker_away_and_the_job_goes_on(victims: str, tmp_path: Path) -> None:
    write_script(tmp_path, BODY)
    (tmp_path / "slow").touch()
    name = f"guest-{os.getpid()}"
    process = begin([HOLDTRUE, "run", *OPTIONS, "--name", name, "--run-dir", "run", "train.py"], cwd=tmp_path)
    job = ElasticJob(folder=tmp_path, process=process, name=name)
    try:
        job.wait_for_workers(1, step=3)
        host = job.join()
        job.wait_for_workers(2)
        (worker,) = [c for c in psutil.Process(host.pid).children() if "train.py" in " ".join(c.cmdline())]
        host.send_signal(signal.SIGKILL)
        if "worker" in victims:
            worker.kill()
        step = step_of(job.wait_for_workers(1))
        job.wait_for_workers(1, step=step + 5)
        _, alive = psutil.wait_procs([worker], timeout=WAIT_S)
        assert alive == []
        (tmp_path / "slow").unlink()
        ended = job.end()
        assert ended.status == 0, ended.text
        one = holdtrue("run", *OPTIONS, "--run-dir", "one", "train.py", cwd=tmp_path)
        assert one.status == 0, one.text
        digests = digests_of(tmp_path / "run")
        assert digests == digests_of(tmp_path / "one")
        assert len(digests) == 1 + 600
    finally:
        job.close()
