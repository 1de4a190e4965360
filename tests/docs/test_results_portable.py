"""The figures of the page on portable numerics are those of the raw files."""

import json

from pages import ROOT

PAGE = (ROOT / "docs/results/portable.md").read_text()
RAW = ROOT / "benchmarks/raw"


def test_the_table_of_learning_is_that_of_the_raw_file() -> None:
    found = json.loads((RAW / "learning.json").read_text())
    assert found["seeds"] == 5
    for name, levels in found["trainings"].items():
        own, torchs = levels["portable"]["summary"], levels["float32"]["summary"]
        row = (
            f"| {name} | {levels['portable']['runs'][0]['steps']} "
            f"| {own['accuracy_mean']:.4f} ± {own['accuracy_deviation']:.4f} "
            f"| {torchs['accuracy_mean']:.4f} ± {torchs['accuracy_deviation']:.4f} "
            f"| {own['loss_mean']:.4f} | {torchs['loss_mean']:.4f} |"
        )
        assert row in PAGE
        apart = abs(own["accuracy_mean"] - torchs["accuracy_mean"])
        assert apart <= max(own["accuracy_deviation"], torchs["accuracy_deviation"])


def test_the_ratios_are_those_of_the_raw_file() -> None:
    found = json.loads((RAW / "numerics.json").read_text())
    for part in ("products", "elementwise", "steps"):
        for name, value in found[part].items():
            assert f"| {name} | {value['ratio']:.2f} |" in PAGE, name
