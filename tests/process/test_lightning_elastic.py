"""A Lightning job that grows, shrinks and loses its main worker has the bits of one undisturbed worker after every step."""

import csv
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import Ended, holdtrue
from elastic_jobs import ElasticJob, kill_9, members_of, read_events, start_job, step_of

from holdtrue.record import compare_runs, read_run

pytestmark = [pytest.mark.process, pytest.mark.slow]

SCRIPT = str(Path(__file__).with_name("lightning_train.py"))
QUIET = {"PYTHONWARNINGS": "default"}
"""Warnings of Lightning and torch about one another are not ours."""
IN_EPOCH = 7


def run_alone(folder: Path, *arguments: str) -> Ended:
    """One undisturbed worker."""
    alone = folder / "alone"
    alone.mkdir()
    (alone / "go").touch()
    options = ("--device", "cpu", "--run-dir", "run", "--digest-every", "1")
    done = holdtrue("run", *options, SCRIPT, *arguments, cwd=alone, env=QUIET)
    assert done.status == 0, done.text
    return done


def start(folder: Path, workers: int, *arguments: str) -> ElasticJob:
    elastic = folder / "elastic"
    elastic.mkdir()
    options = ("--workers", str(workers), "--digest-every", "1")
    name = f"l{os.getpid()}-{abs(hash(folder)) % 10**6}"
    return start_job(elastic, SCRIPT, *options, name=name, arguments=arguments)


def end(job: ElasticJob) -> tuple[int, str, str]:
    """Let it go on at full speed; its status and words."""
    (job.folder / "go").touch()
    out, err = job.process.communicate(timeout=300)
    return job.process.returncode, out, err


def logged(folder: Path) -> list[dict[str, str]]:
    """Rows of Lightning's own logger."""
    (path,) = folder.glob("log/net/version_*/metrics.csv")
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def said(folder: Path) -> Any:
    return json.loads((folder / "said.json").read_text())


def hand_over(job: ElasticJob, *, step: int) -> str:
    """Let a second worker join at `step` or later, kill the first, and wait for what the job prints by its end."""
    try:
        job.wait_for_workers(1, step=step)
        assert job.command("resize", job.name, "2", "--wait").status == 0
        job.wait_for_workers(2)
        kill_9(job.pids()[0])
        job.wait_for_workers(1)
        status, out, err = end(job)
    finally:
        job.close()
    assert status == 0, out + err
    return out


def test_growth_shrinking_and_the_death_of_the_main_worker_change_no_bit(tmp_path: Path) -> None:
    alone = run_alone(tmp_path)
    job = start(tmp_path, 1)
    try:
        job.wait_for_workers(1, step=2)
        assert job.command("resize", job.name, "3", "--wait").status == 0
        grown = job.wait_for_workers(3)
        kill_9(job.pids()[0])  # who wrote the checkpoints
        job.wait_for_workers(2, step=step_of(grown) + 3)
        assert job.command("resize", job.name, "1", "--wait").status == 0
        job.wait_for_workers(1)
        status, out, err = end(job)
    finally:
        job.close()
    assert status == 0, out + err
    assert out == alone.out
    whole, elastic = read_run(tmp_path / "alone/run"), read_run(tmp_path / "elastic/run")
    assert len(whole.steps) == 40 * IN_EPOCH
    assert compare_runs(whole, elastic).equal
    assert {d.digest for d in elastic.digests.values()} == {d.digest for d in whole.digests.values()}
    sizes = [len(e["details"]["workers"]) for e in read_events(job.folder) if "workers" in e["details"]]
    assert sizes[-3:] == [3, 2, 1]
    # Who speaks at the end is a joiner: its hooks were called as those of the others, from the epoch that it joined in.
    whole_lines, joiner_lines = said(tmp_path / "alone"), said(job.folder)
    first = joiner_lines[1]
    assert first[0] == "batch"
    assert (first[1], first[2]) > (0, 0)
    assert joiner_lines[0][:2] == ["epoch", first[1]], "the hook of the epoch that it joined in was called"
    assert joiner_lines[1:] == whole_lines[whole_lines.index(first) :]
    rows, whole_rows = logged(job.folder), logged(tmp_path / "alone")
    assert len(whole_rows) > 40 * IN_EPOCH
    missing = [row for row in whole_rows if row not in rows]
    assert len(missing) <= 1, "the dead worker's last row, at most"
    assert [row for row in whole_rows if row not in missing] == rows, "each once, in order"
    for name in ("last.ckpt", out.split("best ")[1].split()[1]):
        mine, other = (
            torch.load(tmp_path / run / "out" / name, weights_only=True) for run in ("alone", "elastic")
        )
        assert mine["global_step"] == other["global_step"]
        assert mine["loops"] == other["loops"]
        assert all(torch.equal(mine["state_dict"][n], other["state_dict"][n]) for n in mine["state_dict"])


@pytest.mark.parametrize(
    ("words", "steps", "grows_at"),
    [
        (("--epochs", "30"), 30 * IN_EPOCH, 9),
        (("--epochs", "30", "--cut", "0.6"), 30 * 4, 9),
        # By then there were more epochs of 2 steps than the 15 whole ones that 100 steps are.
        (("--max-steps", "100", "--cut", "0.3"), 100, 2 * 15 + 3),
        (("--max-steps", "100"), 100, 9),  # ends in the middle of an epoch
        (("--epochs", "20", "--check", "0.5"), 20 * IN_EPOCH, 9),  # after batches 3 and 6 of 7
        (("--max-steps", "100", "--check", "5"), 100, 9),  # anywhere in an epoch
    ],
    ids=[
        "whole",
        "cut",
        "cut, counted in steps",
        "counted in steps",
        "validates twice",
        "validates by steps",
    ],
)
def test_a_joiner_goes_on_alone(tmp_path: Path, words: tuple[str, ...], steps: int, grows_at: int) -> None:
    alone = run_alone(tmp_path, *words)
    job = start(tmp_path, 1, *words, "--slow-from", str(grows_at))
    out = hand_over(job, step=grows_at - 1)
    assert out == alone.out
    elastic = read_run(tmp_path / "elastic/run")
    assert len(elastic.steps) == steps
    assert compare_runs(read_run(tmp_path / "alone/run"), elastic).equal
    whole_lines, joiner_lines = said(tmp_path / "alone"), said(job.folder)
    heard = whole_lines[whole_lines.index(joiner_lines[1]) :]
    assert joiner_lines[1:] == heard, "its hooks, from its first batch"


@pytest.mark.parametrize(
    "last", [2, 3, IN_EPOCH - 1], ids=["after a validation", "between two", "between epochs"]
)
def test_a_joiner_comes_at_each_kind_of_boundary(tmp_path: Path, last: int) -> None:
    """The others are held after batch `last - 1` until it is ready; in the next one they agree, and it joins."""
    words = ("--epochs", "10", "--check", "0.5")
    run_alone(tmp_path, *words)
    job = start(tmp_path, 1, *words, "--hold", str(last - 1))
    hand_over(job, step=1)
    assert compare_runs(read_run(tmp_path / "alone/run"), read_run(job.folder / "run")).equal
    whole_lines, joiner_lines = said(tmp_path / "alone"), said(job.folder)
    assert joiner_lines[1][2] == (last + 1) % IN_EPOCH, "it joined at that boundary"
    assert joiner_lines[1:] == whole_lines[whole_lines.index(joiner_lines[1]) :]
    mine, other = (
        torch.load(tmp_path / run / "out/last.ckpt", weights_only=True) for run in ("alone", "elastic")
    )
    assert mine["loops"] == other["loops"]


def test_sigterm_to_a_worker_is_its_leave_and_not_a_death(tmp_path: Path) -> None:
    run_alone(tmp_path, "--epochs", "10")
    job = start(tmp_path, 2, "--epochs", "10")
    try:
        job.wait_for_workers(2, step=5)
        os.kill(job.pids()[1], signal.SIGTERM)
        job.wait_until(lambda facts: len(members_of(facts)) == 1, "the leave of worker 1")
        status, out, err = end(job)
    finally:
        job.close()
    assert status == 0, out + err
    kinds = [e["kind"] for e in read_events(job.folder) if "workers" in e["details"]]
    assert kinds[-1] == "resize", "a loss is a death"
    assert compare_runs(read_run(tmp_path / "alone/run"), read_run(job.folder / "run")).equal


def test_a_joiner_that_is_not_given_what_was_logged_is_found_out(tmp_path: Path) -> None:
    """The control: the learning rate follows the mean loss of an epoch, which a joiner has seen a part of."""
    # It is ready while the others are held after batch 3, and joins after batch 4 of an epoch.
    job = start(tmp_path, 1, "--forget", "results", "--hold", "3")
    try:
        job.wait_for_workers(1, step=2)
        assert job.command("resize", job.name, "2").status == 0
        out, err = job.process.communicate(timeout=300)
    finally:
        job.close()
    assert job.process.returncode != 0, out
    assert "the training state of worker 1 differs from worker 0" in err, err


def test_a_run_that_was_stopped_goes_on_with_resume(tmp_path: Path) -> None:
    alone = run_alone(tmp_path, "--epochs", "20")
    job = start(tmp_path, 1, "--epochs", "20")
    try:
        job.wait_for_workers(1, step=10)
        assert job.command("stop", job.name).status == 0
        job.process.communicate(timeout=120)
        assert job.process.returncode == 130
    finally:
        job.close()
    (job.folder / "go").touch()
    options = ("--device", "cpu", "--run-dir", "run", "--digest-every", "1", "--resume", "--workers", "2")
    done = holdtrue("run", *options, SCRIPT, "--epochs", "20", cwd=job.folder, env=QUIET)
    assert done.status == 0, done.text
    assert done.out == alone.out
    assert compare_runs(read_run(tmp_path / "alone/run"), read_run(job.folder / "run")).equal
    assert logged(job.folder) == logged(tmp_path / "alone"), "one log, in which both wrote"
