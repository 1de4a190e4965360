"""`holdtrue verify --reference` passes under unlike settings, and fails by step and tensor where a digest is another."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from holdtrue.cli._reference import verify_references
from holdtrue.numerics import engines
from holdtrue.numerics._check import unlike_settings
from holdtrue.reference import REFERENCES, Reference

pytestmark = pytest.mark.process


def verify(**variables: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "holdtrue", "verify", "--reference"],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=590,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("variables", [{}, *unlike_settings()], ids=["as it is", "generic", "reference"])
def test_the_reference_trainings_pass_as_on_unlike_processors(variables: dict[str, str]) -> None:
    status, text = verify(**variables)
    assert status == 0, text
    assert f"engine {variables.get('HOLDTRUE_NUMERICS_ENGINE', engines()[-1])}" in text
    assert text.count("PASS") == 4


def test_another_digest_than_the_published_one_is_a_failure_named_by_step_and_tensor(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The control: the training is as published, and one entry of what is published is another."""
    (cnn,) = (reference for reference in REFERENCES if reference.name == "cnn")
    changed = tmp_path / "cnn.json"
    shutil.copy(cnn.file, changed)
    values = json.loads(changed.read_text())
    name = next(name for name in values["entries"] if name.endswith("4.weight"))
    last_step = values["digests"][-1][0]
    values["digests"][-1][1] = "0" * 64
    values["entries"][name] = values["entries"][name][:-16] + "0" * 16
    changed.write_text(json.dumps(values))
    monkeypatch.setattr("holdtrue.cli._reference.REFERENCES", (cnn,))
    assert verify_references({}, tmp_path / "as published") == 0
    assert "PASS" in capsys.readouterr().out
    monkeypatch.setattr(Reference, "file", changed)
    assert verify_references({}, tmp_path / "changed") == 1
    text = capsys.readouterr().out
    assert "FAIL" in text
    assert f"after step {last_step}: {name}" in text
    assert "1 of 1 reference trainings have other bits here" in text
