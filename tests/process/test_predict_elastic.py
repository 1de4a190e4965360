"""`holdtrue predict` as a job: killed, resized and stopped in the middle, with the bits of the model alone."""

import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import HOLDTRUE, begin, holdtrue
from elastic_jobs import WAIT_S, ElasticJob, kill_9
from predict_files import MODEL, write_files

from holdtrue.run import Outputs

pytestmark = pytest.mark.process

ROWS = 4000
FILES = ROWS // 32


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "slow").touch()
    return write_files(tmp_path, ROWS)


def expected(folder: Path) -> torch.Tensor:
    names: dict[str, type[torch.nn.Module]] = {}
    exec(MODEL, names)
    x, net = torch.from_numpy(np.load(folder / "x.npy")).float(), names["Net"]()
    with torch.no_grad():
        return torch.cat([net(row.clone()) for row in x.split(1)])


def start(folder: Path, out: str, name: str, *options: str) -> ElasticJob:
    words = ["predict", "net.py:Slow", "x.npy", "--out", out, "--pass-size", "1", "--device", "cpu"]
    process = begin([HOLDTRUE, *words, "--name", name, *options], cwd=folder)
    return ElasticJob(folder=folder, process=process, name=name)


def files(folder: Path) -> int:
    return len(list(folder.glob("part-*")))


def wait_for_files(job: ElasticJob, out: str, count: int) -> None:
    job.wait_until(lambda _: files(job.folder / out) >= count, f"{count} files")


def test_a_prediction_outlives_a_kill_and_grows_with_the_bits_of_the_model(folder: Path) -> None:
    job = start(folder, "out", "predict-elastic", "--workers", "2", "--restart", "1")
    try:
        wait_for_files(job, "out", 2)
        job.wait_for_workers(2)
        victim = job.pids()[1]
        kill_9(victim)
        job.wait_until(lambda facts: facts["generation"] >= 2, "the view without it")
        mended = job.wait_for_workers(2)
        assert victim not in job.pids().values()
        assert mended["progress"]["predicted"] < ROWS
        assert job.command("resize", job.name, "3", "--wait").status == 0
        assert files(folder / "out") < FILES, "all of that came in the middle"
        (folder / "slow").unlink()
        ended = job.end()
        assert ended.status == 0, ended.text
    finally:
        job.close()
    assert ended.out == f"{ROWS} predictions in {folder}/out\n"
    assert torch.equal(Outputs(folder / "out").load(), expected(folder))


@pytest.mark.slow
def test_a_prediction_that_was_stopped_goes_on_by_the_command_that_it_prints(folder: Path) -> None:
    job = start(folder, "out.npy", "predict-stopped", "--workers", "2")
    try:
        wait_for_files(job, "out.npy.parts", 2)
        assert "examples" in job.command("status", job.name).out
        stopped = job.command("stop", job.name)
        assert stopped.status == 0, stopped.text
        ended = job.end()
    finally:
        job.close()
    assert ended.status == 130, ended.text
    assert "and the same call goes on from there" in ended.err
    kept = files(folder / "out.npy.parts")
    assert 2 <= kept < FILES
    (folder / "slow").unlink()
    command = ended.err.strip().splitlines()[-1].strip()
    again = holdtrue(*shlex.split(command)[1:], cwd=folder)
    assert again.status == 0, again.text
    assert torch.equal(torch.from_numpy(np.load(folder / "out.npy")), expected(folder))
    assert not (folder / "out.npy.parts").exists()


@pytest.mark.slow
def test_another_machines_worker_joins_a_prediction_and_takes_its_share(folder: Path) -> None:
    job = start(folder, "out", "predict-joined")
    try:
        wait_for_files(job, "out", 1)
        host = job.join()
        job.wait_for_workers(2)
        before = files(folder / "out")
        wait_for_files(job, "out", before + 20)  # rounds of both
        assert files(folder / "out") < FILES
        (folder / "slow").unlink()
        ended = job.end()
        assert ended.status == 0, ended.text
        assert host.wait(WAIT_S) == 0
    finally:
        job.close()
    assert torch.equal(Outputs(folder / "out").load(), expected(folder))
