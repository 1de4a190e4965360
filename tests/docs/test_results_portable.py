"""What the guide to portable numerics says in words is what the raw files say in figures."""

import json
import runpy

import pytest
from pages import ROOT

GUIDE = (ROOT / "docs/guide/portable.md").read_text()
SPEED = [
    json.loads((ROOT / f"benchmarks/raw/{name}.json").read_text()) for name in ("numerics", "numerics_avx2")
]
EVERY_INPUT = json.loads((ROOT / "benchmarks/raw/exhaustive.json").read_text())
LEARNING = json.loads((ROOT / "benchmarks/raw/learning.json").read_text())


def test_learning_is_as_good_within_the_spread_of_five_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    script = runpy.run_path(str(ROOT / "benchmarks/render_portable.py"))
    assert LEARNING["seeds"] == 5
    assert all(script["is_within_spread"](levels) for levels in LEARNING["trainings"].values())
    worse = json.loads(json.dumps(LEARNING))
    worse["trainings"]["lstm"]["portable"]["summary"]["accuracy_mean"] -= 0.1
    assert "## Learning is harmed" in script["learning"](worse)


def test_the_times_in_the_guide_are_those_of_the_raw_file() -> None:
    for speed in SPEED:
        for start, shown in (("transformer, width 64", "transformer"), ("cnn", "CNN"), ("lstm", "LSTM")):
            (ratio,) = [step["ratio"] for name, step in speed["steps"].items() if name.startswith(start)]
            assert f"{ratio:.1f} ({shown})" in GUIDE


def test_every_test_over_all_inputs_passed() -> None:
    assert EVERY_INPUT["failed"] == []
    assert EVERY_INPUT["passed"] == EVERY_INPUT["selected"] == len(EVERY_INPUT["tests"]) > 0
    assert f"repeats it in {EVERY_INPUT['wall_s'] / 60:.0f} minutes" in GUIDE
