"""Programs for transformers with nothing changed but the Trainer's import, as jobs of 1, 2 and 3 workers."""

import os
import re
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from commands import call, holdtrue
from elastic_jobs import kill_9, start_job, step_of

from holdtrue.record import compare_runs, read_run

pytestmark = [pytest.mark.process, pytest.mark.slow]

PROGRAMS = Path(__file__).resolve().parents[2] / "examples/huggingface"
IMPORT = "from holdtrue.integrations.transformers import Trainer\n"
QUIET = {"PYTHONWARNINGS": "default"}
"""Warnings of transformers and torch about one another are not ours."""


@pytest.mark.parametrize("program", ["classify", "causal", "masked"])
def test_a_program_has_the_same_bits_on_1_2_and_3_workers_after_every_step(
    program: str, tmp_path: Path
) -> None:
    script = str(PROGRAMS / f"{program}.py")
    said = []
    for workers in ("1", "2", "3"):
        options = f"--device cpu --workers {workers} --run-dir run-{workers} --digest-every 1".split()
        words = ("run", *options, script, "--output-dir", f"out-{workers}")
        done = holdtrue(*words, cwd=tmp_path, env=QUIET)
        assert done.status == 0, done.text
        assert "= global batch" in done.err
        said.append(re.sub(r"\{.*\}\n", "", done.out))
    assert said[0] == said[1] == said[2]
    first = read_run(tmp_path / "run-1")
    assert len(first.digests) > 20
    for workers in ("2", "3"):
        assert compare_runs(first, read_run(tmp_path / f"run-{workers}")).equal
    saved = [safetensors.torch.load_file(tmp_path / f"out-{w}/model.safetensors") for w in (1, 2, 3)]
    assert all(torch.equal(saved[0][n], s[n]) for s in saved[1:] for n in saved[0])


@pytest.mark.parametrize("program", ["classify", "causal", "masked"])
def test_a_program_is_one_for_transformers_but_for_its_import(program: str, tmp_path: Path) -> None:
    text = (PROGRAMS / f"{program}.py").read_text()
    assert text.count("holdtrue") == 1
    (tmp_path / "plain.py").write_text(text.replace(IMPORT, "from transformers import Trainer\n"))
    done = call([sys.executable, "plain.py"], cwd=tmp_path, env=QUIET)
    assert done.status == 0, done.text


@pytest.mark.parametrize(
    ("program", "long"),
    [("causal", ("--epochs", "240")), ("classify", ("--steps", "700")), ("masked", ("--epochs", "60"))],
)
def test_a_program_has_the_same_bits_through_a_growth_and_a_kill(
    program: str, long: tuple[str, str], tmp_path: Path
) -> None:
    text = (PROGRAMS / f"{program}.py").read_text()
    # It must last until a joiner is there.
    text = text.replace("early_stopping_patience=4", "early_stopping_patience=1000")
    (tmp_path / "train.py").write_text(f"import warnings\nwarnings.simplefilter('ignore')\n{text}")
    options = ("--device", "cpu", "--run-dir", "alone", "--digest-every", "1")
    alone = holdtrue("run", *options, "train.py", *long, cwd=tmp_path, env=QUIET)
    assert alone.status == 0, alone.text
    options = ("--workers", "2", "--digest-every", "1")
    job = start_job(tmp_path, "train.py", *options, name=f"t{os.getpid()}-{program}", arguments=long)
    try:
        job.wait_for_workers(2, step=2)
        assert job.command("resize", job.name, "3", "--wait").status == 0
        grown = job.wait_for_workers(3)
        job.wait_for_workers(3, step=step_of(grown) + 3)  # steps of this generation, before a death ends it
        kill_9(job.pids()[0])
        job.wait_for_workers(2)
        out, err = job.process.communicate(timeout=300)
    finally:
        job.close()
    assert job.process.returncode == 0, out + err
    whole, elastic = read_run(tmp_path / "alone"), read_run(tmp_path / "run")
    assert len(whole.steps) > 500
    assert len({record.generation for record in elastic.steps.values()}) >= 3
    assert compare_runs(whole, elastic).equal
