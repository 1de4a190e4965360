"""`holdtrue predict`: what it makes of its words, and what those who look are told. Nothing is started here."""

import math
import shlex
import subprocess
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import typer

from holdtrue.cli._options import read_worker_range
from holdtrue.cli._predict import PredictRequest, export, spec_of
from holdtrue.cli._progress import Progress
from holdtrue.cli._status_view import describe_entry, describe_job
from holdtrue.errors import UsageError
from holdtrue.inference.__main__ import parser
from holdtrue.launch import JobEntry
from holdtrue.launch._launch import INTERRUPT_NOTE
from holdtrue.wire import PredictedReport, StepReport

NOW = datetime(2026, 1, 2, 3, 4, 5)


def request(**given: Any) -> PredictRequest:
    return PredictRequest(
        **{"model": "net.py:Net", "data": Path("x.npy"), "out": Path("o u t"), "settings": {}} | given
    )


def test_the_command_that_goes_on_has_every_option_that_was_given() -> None:
    asked = request(
        weights=Path("w.safetensors"),
        pad_value=0.5,
        pass_size=7,
        workers=read_worker_range("1:4"),
        restarts=2,
        name="mine",
        settings={"numerics": "portable", "timeout_s": 60.0, "threads": 2, "device": "cpu"},
    )
    assert shlex.split(asked.command()) == shlex.split(
        "holdtrue predict net.py:Net x.npy --out 'o u t' --pass-size 7 --weights w.safetensors --pad-value=0.5 "
        "--workers 1:4 --restart 2 --name mine --numerics portable --timeout 60.0 --threads 2 --device cpu"
    )


@pytest.mark.parametrize("pad_value", [-math.inf, -1e-5, -1.0, math.nan, 0.5])
def test_workers_read_the_numbers_and_names_that_were_given(pad_value: float) -> None:
    asked = request(
        model="-m.py:Net",
        data=Path("-x.npy"),
        out=Path("-o"),
        weights=Path("-w.safetensors"),
        pad_value=pad_value,
        pass_size=7,
    )
    read = parser.parse_args(asked.words())
    assert (read.command, repr(read.pad_value), read.pass_size) == ("predict", repr(pad_value), 7)
    here = Path.cwd()
    assert (read.model, read.data) == (f"{here}/-m.py:Net", f"{here}/-x.npy"), "wherever a worker works"
    assert (read.out, read.weights) == (f"{here}/-o", f"{here}/-w.safetensors")


def test_the_command_that_goes_on_has_no_name_that_looks_like_an_option() -> None:
    asked = request(model="-m.py", data=Path("-x.npy"), out=Path("-o"), pad_value=-math.inf)
    assert shlex.split(asked.command()) == shlex.split(
        "holdtrue predict ./-m.py ./-x.npy --out ./-o --pass-size 32 --pad-value=-inf"
    )


def test_a_model_in_a_folder_with_a_colon_keeps_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a:b").mkdir()
    monkeypatch.chdir(tmp_path / "a:b")
    assert parser.parse_args(request().words()).model == "net.py:Net"


@pytest.mark.parametrize("examples", [-5, 5])
def test_an_export_reads_names_that_begin_with_a_hyphen(
    examples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []

    def run(words: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        started.append(words)
        return subprocess.CompletedProcess(words, 3)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(typer.Exit):
        export("-m.py", Path("-x.npy"), to="-t", out=Path("-o"), weights=Path("-w"), examples=examples)
    read = parser.parse_args(started[0][3:])
    assert (read.model, read.data, read.to, read.out) == ("-m.py", "-x.npy", "-t", "-o")
    assert (read.weights, read.examples) == ("-w", examples)


def test_a_prediction_is_an_elastic_job_with_records_of_its_own() -> None:
    spec = spec_of(request(workers=read_worker_range("2"), restarts=3), env={}, now=NOW)
    assert (spec.script, spec.is_module, spec.name, spec.is_name_given) == (
        "holdtrue.inference",
        True,
        "predict",
        False,
    )
    assert (spec.workers, spec.least_workers, spec.restarts, spec.group_timeout_s) == (2, 1, 3, 300.0)
    assert spec.settings["run_dir"] == str(spec.run_dir) == "runs/predict-20260102-030405"
    assert spec.resume_command == request(workers=read_worker_range("2"), restarts=3).command()


def test_devices_are_named_by_kind() -> None:
    spec = spec_of(request(devices="cpu:3"), env={}, now=NOW)
    assert (spec.devices, spec.workers) == (("cpu", "cpu", "cpu"), 3)
    with pytest.raises(UsageError, match="--devices is cpu:3 and --device is cpu"):
        spec_of(request(devices="cpu:3", settings={"device": "cpu"}), env={}, now=NOW)


ENTRY = JobEntry(
    name="p",
    url="",
    pid=1,
    run_dir="r",
    token_file="",
    join_file="",
    script="s",
    started_s=0.0,
    resume_command="",
)


def test_who_looks_is_told_examples_and_after_them_steps_again() -> None:
    before = Progress(workers=2, started_s=0.0)
    predicted = before.after(PredictedReport(done=64, examples=500), 1.0)
    assert (before.part, predicted.part, predicted.has_begun) == (None, (64, 500), True)
    trained = predicted.after(StepReport(step=4, epoch=0, loss=None, total_steps=10), 2.0)
    assert trained.part == (5, 10)
    facts: dict[str, Any] = {"phase": "running", "generation": 1, "target": 0, "unplaced": 0, "step": 0}
    facts |= {"workers": [], "reason": "", "cause": "", "progress": {"predicted": 64, "examples": 500}}
    assert describe_job(ENTRY, facts)[0] == "p: running · predicted 64 of 500 examples"


def test_status_says_where_devices_join_and_where_the_token_is() -> None:
    facts: dict[str, Any] = {"phase": "running", "generation": 1, "target": 0, "unplaced": 0, "step": 0}
    facts |= {"workers": [], "reason": "", "cause": "", "progress": {}}
    entry = replace(ENTRY, url="http://10.1.0.1:4100", join_file="jobs/p.join")
    place = "  devices join at http://10.1.0.1:4100 with the token in jobs/p.join"
    assert describe_job(entry, facts)[-1] == place
    server = facts | {"progress": {"serves": "m", "passes": "", "waiting": 0}}
    assert place not in describe_job(entry, server)


def test_what_trainings_and_predictions_are_told_alike_is_true_for_both() -> None:
    said = [*describe_entry(ENTRY, "lost"), INTERRUPT_NOTE]
    assert "ended at a boundary, where what is done is kept" in said[0]
    assert "what is done is kept" in INTERRUPT_NOTE
    assert not any("step" in sentence or "checkpoint" in sentence for sentence in said)
