"""The diffs of the migration guide apply, are short, and lead to scripts that hold true."""

import os
import re
import subprocess
import sys
from typing import Any

import pytest
import torch
from pages import ROOT, blocks_of

from holdtrue.testing import run_in_process

GUIDE = (ROOT / "docs/guide/migration.md").read_text()
SECTIONS = {
    title.strip(): blocks_of(body)
    for title, body in re.findall(r"^## (.+?)$(.*?)(?=^## |\Z)", GUIDE, re.M | re.S)
}
MIGRATIONS = {
    title: blocks for title, blocks in SECTIONS.items() if any(b.language == "diff" for b in blocks)
}
MOST_LINES = 6

migrations = pytest.mark.parametrize("title", MIGRATIONS)


def sides_of(title: str) -> tuple[str, str, list[str]]:
    """The script before, the diff's own idea of it, and the lines that the diff adds."""
    before, diff = MIGRATIONS[title][:2]
    lines = diff.text.splitlines()
    old = "\n".join(line[1:] for line in lines if not line.startswith("+"))
    return before.text.rstrip("\n"), old, [line[1:] for line in lines if line.startswith("+")]


def after(title: str) -> str:
    return "\n".join(line[1:] for line in MIGRATIONS[title][1].text.splitlines() if not line.startswith("-"))


def norm_of(script: str, capsys: pytest.CaptureFixture[str]) -> float:
    exec(compile(script, "before.py", "exec"), {"__name__": "__main__"})
    return float(capsys.readouterr().out.split()[-1])


def norm_in_own_process(script: str) -> float:
    """As `norm_of`, where torch's distributed groups are never taken down.

    Taking DDP down joins a thread of gloo with the interpreter's lock held, which that thread may wait for: it hung here.
    """
    script += "\nimport os, sys\nsys.stdout.flush()\nos._exit(0)"
    env = os.environ | {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return float(done.stdout.split()[-1])


def test_there_are_three() -> None:
    assert list(MIGRATIONS) == ["A plain loop", "DistributedDataParallel", "Accelerate"]


@migrations
def test_a_diff_applies_to_its_script_and_adds_six_lines_at_most(title: str) -> None:
    before, old, added = sides_of(title)
    assert old == before
    assert 0 < len(added) <= MOST_LINES


@migrations
def test_a_script_trains_the_same_model_before_and_after_and_the_same_bits_on_every_mapping(
    title: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = MIGRATIONS[title][0].text
    expected = norm_in_own_process(before) if title == "DistributedDataParallel" else norm_of(before, capsys)

    def main() -> tuple[str, float]:
        names: dict[str, Any] = {"__name__": "__main__"}
        exec(compile(after(title), "after.py", "exec"), names)
        found = names["run"].digest(), torch.nn.utils.get_total_norm(names["model"].parameters()).item()
        names["run"].close()
        return found

    results = [
        r for mapping in ("0-7", "0-3/4-7", "0-2/3,5-7/4") for r in run_in_process(main, mapping=mapping)
    ]
    assert len(set(results)) == 1
    assert results[0][1] == pytest.approx(expected, rel=1e-6)
