"""`holdtrue predict`: what it makes of its words, and what those who look are told. Nothing is started here."""

import shlex
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from holdtrue.cli._options import read_worker_range
from holdtrue.cli._predict import PredictRequest, spec_of
from holdtrue.cli._progress import Progress
from holdtrue.cli._status_view import describe_job
from holdtrue.errors import UsageError
from holdtrue.launch import JobEntry
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
        "holdtrue predict net.py:Net x.npy --out 'o u t' --pass-size 7 --weights w.safetensors --pad-value 0.5 "
        "--workers 1:4 --restart 2 --name mine --numerics portable --timeout 60.0 --threads 2 --device cpu"
    )


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


def test_who_looks_is_told_examples_and_after_them_steps_again() -> None:
    before = Progress(workers=2, started_s=0.0)
    predicted = before.after(PredictedReport(done=64, examples=500), 1.0)
    assert (before.part, predicted.part, predicted.has_begun) == (None, (64, 500), True)
    trained = predicted.after(StepReport(step=4, epoch=0, loss=None, total_steps=10), 2.0)
    assert trained.part == (5, 10)
    entry = JobEntry(
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
    facts: dict[str, Any] = {"phase": "running", "generation": 1, "target": 0, "unplaced": 0, "step": 0}
    facts |= {"workers": [], "reason": "", "cause": "", "progress": {"predicted": 64, "examples": 500}}
    assert describe_job(entry, facts)[0] == "p: running · predicted 64 of 500 examples"
