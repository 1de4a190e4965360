"""Examples that users copy are executed."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pages import ROOT, blocks_of

from holdtrue.record import read_run
from holdtrue.testing import run_in_process

README = next(b.text for b in blocks_of((ROOT / "README.md").read_text()) if b.language == "python")


def main_of(source: str) -> Callable[[], None]:
    """The `main` of a script."""
    names: dict[str, Callable[[], None]] = {}
    exec(compile(source, "README.md", "exec"), names)
    return names["main"]


def test_the_readmes_script_prints_one_digest_on_every_mapping(capfd: pytest.CaptureFixture[str]) -> None:
    digests = []
    for mapping in ("0-7", "0-3/4-7", "0-2/3-6/7"):
        run_in_process(main_of(README), mapping=mapping)
        printed = capfd.readouterr().out.split()
        assert len(printed) == 1, "printed once for the job"
        digests += printed
    assert len(digests[0]) == 64
    assert set(digests) == {digests[0]}


def run(*words: str, cwd: Path) -> str:
    """What a command prints; it must end well."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HOLDTRUE_")}
    done = subprocess.run(
        words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.process
def test_the_readmes_script_runs_alone_and_as_a_job_with_one_digest(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(README)
    holdtrue = str(Path(sys.executable).with_name("holdtrue"))
    alone = run(sys.executable, "train.py", cwd=tmp_path)
    job = run(
        holdtrue, "run", "--workers", "2", "--device", "cpu", "--run-dir", "first", "train.py", cwd=tmp_path
    )
    assert len(alone.strip()) == 64
    assert alone == job


@pytest.mark.process
def test_the_digits_script_learns_and_saves_its_model(tmp_path: Path) -> None:
    script = str(ROOT / "examples/digits/train.py")
    holdtrue = str(Path(sys.executable).with_name("holdtrue"))
    (tmp_path / "run.toml").write_text("max_steps = 30\n")
    run(
        holdtrue, "run", "--device", "cpu", "--config", "run.toml", "--run-dir", "first", script, cwd=tmp_path
    )
    losses = [record.loss for record in read_run(tmp_path / "first").steps.values()]
    assert len(losses) == 30
    assert max(losses[-5:]) < min(losses[:5]) / 2
    assert (tmp_path / "digits.safetensors").stat().st_size > 0
