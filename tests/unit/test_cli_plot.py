"""`holdtrue plot` draws what the records say."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from holdtrue.cli import main
from holdtrue.cli._plot_view import curves_of
from holdtrue.plan import Plan
from holdtrue.record import EventRecord, RunRecord, StepRecord

PLAN = Plan(virtual_nodes=2, global_batch_size=8)


def record(seconds: list[float], generations: list[int]) -> RunRecord:
    steps = {
        i: StepRecord(step=i, epoch=0, loss=None if i == 1 else 1.0 / (i + 1), seconds=s, generation=g)
        for i, (s, g) in enumerate(zip(seconds, generations, strict=True))
    }
    return RunRecord(name="a", plan=PLAN, environment={}, steps=steps, digests={})


def test_curves_are_the_losses_the_median_throughput_and_the_changes_of_membership() -> None:
    curves = curves_of(record([1.0, 2.0, 9.0, 2.0, 4.0], [0, 0, 1, 1, 3]), smooth=3)
    assert curves.steps == (0, 1, 2, 3, 4)
    assert curves.losses[0] == 1.0
    assert curves.losses[1] != curves.losses[1]
    assert curves.examples_per_s == (8 / 1.5, 4.0, 4.0, 2.0, 8 / 3)
    assert curves.changes == (2, 4)


def event(kind: str, step: int | None, workers: int | None, **details: object) -> EventRecord:
    known = {"workers": list(range(workers))} if workers is not None else {}
    return EventRecord(kind=kind, step=step, reason="", details=known | details, time_s=0.0, generation=1)


def test_the_workers_of_a_run_are_those_of_its_beginning_its_changes_and_its_resume() -> None:
    events = (
        event("started", None, 1),
        event("resize", 3, 2),
        event("remap", 4, 2),
        event("checkpoint", 4, None),
        event("loss", 6, 1),
        event("resumed", None, 3),  # from the checkpoint: what was after it is computed again
    )
    curves = curves_of(replace(record([1.0] * 8, [0] * 8), events=events), smooth=1)
    assert curves.workers == ((0, 1), (3, 2), (4, 3))
    assert curves.moves == (4,)


def call(*words: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(["plot", *words])
    assert isinstance(end.value.code, int)
    return end.value.code


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from holdtrue.record import RunDirectory

    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        folder = RunDirectory.create(name, plan=PLAN, environment={}, generation=0, resume=False)
        for i in range(12):
            folder.append_step(step=i, epoch=0, loss=1 / (i + 1), seconds=0.5, digest=None)
        folder.close()
    return tmp_path


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_a_picture_of_two_runs_is_written(runs: Path, ending: str) -> None:
    assert call("one", "two", "--out", f"both.{ending}") == 0
    drawn = (runs / f"both.{ending}").read_bytes()
    if ending == "png":
        assert drawn.startswith(b"\x89PNG")
        assert len(drawn) > 10_000
    else:
        comments = re.findall(rb"<!-- (.*?) -->", drawn)
        assert b"loss" in comments
        assert b"workers" in comments
        assert b"one" in comments
        assert b"two" in comments


def test_wrong_use_is_a_sentence(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("one", "--out", "both.gif") == 2
    assert "ends in .png or .svg" in capsys.readouterr().err
    assert call("one", "--out", "nodir/both.png") == 2
    assert (
        "nodir/both.png cannot be written (there is no such folder). Name a file" in capsys.readouterr().err
    )
    (runs / "folder.png").mkdir()
    assert call("one", "--out", "folder.png") == 2
    assert "folder.png cannot be written (it is a folder)" in capsys.readouterr().err
    assert call("three") == 2
    assert "holds no run" in capsys.readouterr().err
    assert call("one", "--smooth", "0") == 2
