"""The reference trainings have their published digests, and a difference is named by step and tensor."""

import importlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from holdtrue.cli import main
from holdtrue.cli._reference import describe_hardware, judge_reference_run
from holdtrue.errors import UsageError
from holdtrue.launch import JobResult, JobSpec
from holdtrue.record import RunRecord, compare_runs, parse_expectation, read_expectation, read_run
from holdtrue.reference import REFERENCES, STEPS, Reference, published
from holdtrue.testing import run_in_process

FEW = 2


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunRecord]:
    """The first steps of each training, in this process."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        for reference in REFERENCES:
            folder = tmp_path_factory.mktemp("reference") / reference.name
            settings = {"run_dir": str(folder), "max_steps": str(FEW), "digest_every": "1", "trace": "1"}
            for name, value in {**settings, "checkpoint_every": "0"}.items():
                patch.setenv(f"HOLDTRUE_{name.upper()}", value)
            run_in_process(importlib.import_module(reference.module).main)
            found[reference.name] = read_run(folder)
    return found


def by_name(reference: Reference) -> str:
    return reference.name


@pytest.mark.parametrize("reference", REFERENCES, ids=by_name)
def test_the_first_steps_of_a_reference_training_have_the_published_digests(
    reference: Reference, runs: dict[str, RunRecord]
) -> None:
    found = judge_reference_run(reference, runs[reference.name])
    assert found.equal, found.sentences
    assert (found.steps_compared, found.digests_compared) == (FEW, FEW)
    assert not found.plan_differences


@pytest.mark.parametrize("reference", REFERENCES, ids=by_name)
def test_what_is_published_is_whole(reference: Reference) -> None:
    run = published(reference)
    assert sorted(run.steps) == list(range(STEPS))
    assert sorted(run.digests) == list(range(-1, STEPS))
    assert run.plan.numerics == "portable"
    losses = [run.steps[step].loss for step in sorted(run.steps)]
    assert losses[-1] < losses[0]


def test_a_difference_is_named_by_step_and_tensor(runs: dict[str, RunRecord]) -> None:
    run, step = runs["cnn"], FEW - 1
    name = next(name for name in run.digests[step].entries if name.endswith("4.weight"))
    record = run.digests[step]
    other = replace(record, digest="0" * 64, entries={**record.entries, name: "0" * 16})
    found = judge_reference_run(REFERENCES[0], replace(run, digests={**run.digests, step: other}))
    assert not found.equal
    assert found.first_step == step
    assert found.entries == (name,)


def test_the_digest_of_a_run_goes_to_a_colleague_and_back(
    runs: dict[str, RunRecord], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs["lstm"]
    expected = tmp_path / "expected.json"

    def call(*words: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main(["digest", run.name, *words])
        assert isinstance(ended.value.code, int)
        return ended.value.code, capsys.readouterr().out

    status, text = call()
    assert status == 0
    assert run.digests[FEW - 1].digest in text
    assert "CUDA: not yet measured" in text
    status, text = call("--json")
    expected.write_text(text)
    assert compare_runs(read_expectation(expected), run).equal
    assert call("--against", str(expected))[0] == 0
    values = json.loads(text)
    name = next(name for name in values["entries"] if "lstm.weight_hh_l1" in name)
    values["digests"][-1][1] = "0" * 64
    values["entries"][name] = values["entries"][name][:-16] + "0" * 16
    expected.write_text(json.dumps(values))
    status, text = call("--against", str(expected))
    assert status == 1
    assert f"after step {FEW - 1}: {name}" in text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no JSON", "is not JSON"),
        ("{}", "not an expectation of format 1"),
        ('{"format": 1}', "is damaged"),
        ('{"format": 1, "digests": [[0]], "losses": [], "entries": {}, "plan": {}}', "is damaged"),
    ],
)
def test_a_file_that_is_no_expectation_is_refused(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "expected.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=words):
        read_expectation(path)
    with pytest.raises(UsageError, match="cannot be read"):
        read_expectation(tmp_path / "absent.json")


def test_a_loss_that_is_not_finite_survives() -> None:
    plan = published(REFERENCES[0]).plan.to_dict()
    values = {"format": 1, "plan": plan, "losses": [[0, "nan"], [1, None]], "digests": [], "entries": {}}
    run = parse_expectation(values, name="a file")
    assert repr(run.steps[0].loss) == "nan"
    assert run.steps[1].loss is None


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["verify"], "takes a script, or --reference and no script"),
        (["verify", "--reference", "train.py"], "Leave one out"),
        (["verify", "--reference", "--seed", "3"], "given with --seed; the reference trainings have plans"),
        (["verify", "--reference", "--steps", "3"], "given with --steps; the reference trainings have"),
        (["verify", "--reference", "--no-changes"], "given with --changes or --no-changes"),
    ],
)
def test_wrong_use_of_the_reference_is_refused(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err


def test_an_interrupted_training_is_no_failure_and_ends_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    launched = []

    def interrupt(spec: JobSpec, *_: object) -> JobResult:
        launched.append(spec.name)
        return JobResult(
            exit_code=130, failures=(), was_interrupted=True, ends=(), steps=None, digest=None, loss=None,
            checkpoint_step=None, seconds=0.1,
        )  # fmt: skip

    monkeypatch.setattr("holdtrue.cli._reference.launch_job", interrupt)
    monkeypatch.setattr("tempfile.mkdtemp", lambda prefix: str(tmp_path / "runs"))
    (tmp_path / "runs").mkdir()
    with pytest.raises(SystemExit) as ended:
        main(["verify", "--reference"])
    assert ended.value.code == 130
    text = capsys.readouterr().out
    assert "INTERRUPTED" in text
    assert "FAIL" not in text
    assert launched == [REFERENCES[0].name]
    assert not (tmp_path / "runs").exists()


def test_the_hardware_is_described(runs: dict[str, RunRecord]) -> None:
    line = describe_hardware(runs["cnn"])
    assert "torch " in line
    assert "engine " in line
    assert "unknown" not in line
