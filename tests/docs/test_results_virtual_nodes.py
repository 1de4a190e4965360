"""The page of the paper's first experiment is what its script makes of the raw files, with and without the last."""

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
from pages import ROOT

Raw = dict[str, Any]  # Any: JSON values


@pytest.fixture(scope="module")
def render() -> Any:  # Any: the script as a module
    folder = str(ROOT / "benchmarks/paper")
    before = set(sys.modules)
    sys.path.insert(0, folder)
    try:
        import render

        yield render
    finally:
        sys.path.remove(folder)
        for name in set(sys.modules) - before:  # such as `tables`: names that other scripts may have too
            if str(getattr(sys.modules[name], "__file__", None)).startswith(folder):
                del sys.modules[name]


@pytest.fixture
def raw(render: Any) -> dict[str, Raw]:
    return copy.deepcopy(render.read_raw())


def spread(value: float) -> Raw:
    return {"min": value, "median": value, "max": value, "values": [value]}


def cost() -> Raw:
    row = {"throughput_ratio": spread(1.2345), "peak_bytes": spread(300 * 2**20), "memory_ratio": 1.5}
    plain = {"round_s": spread(1.0), "peak_bytes": spread(200 * 2**20)}
    rows = [{"virtual_nodes": V, **row} for V in (1, 2)]
    result = {"model": "network", "virtual_node_batch": 32, "rounds": 9, "plain": plain, "rows": rows}
    return {"results": [result]}


def test_the_page_and_its_picture_are_what_the_script_makes_of_the_raw_files(render: Any) -> None:
    raw = render.read_raw()
    assert render.build_page(raw) == render.PAGE.read_text(), "run python benchmarks/paper/render.py"
    assert render.draw_picture(raw["hardware"], raw["batches"]) == render.PICTURE.read_text()


def test_without_its_raw_file_the_cost_is_said_to_be_not_yet_measured(
    render: Any, raw: dict[str, Raw]
) -> None:
    raw.pop("cost", None)
    page = render.build_page(raw)
    assert "not yet measured" in page
    assert "paper-cost.json)" not in page


def test_with_its_raw_file_the_cost_is_shown(render: Any, raw: dict[str, Raw]) -> None:
    page = render.build_page(raw | {"cost": cost()})
    assert "not yet measured" not in page
    assert "| 2 | 1.234 (1.234..1.234) | 1.500 | 300 |" in page


def test_another_figure_in_a_raw_file_makes_another_page(render: Any, raw: dict[str, Raw]) -> None:
    before = render.build_page(raw)
    raw["batches"]["results"][0]["accuracy"] -= 0.1
    assert render.build_page(raw) != before


@pytest.mark.parametrize("what", ["digest", "sha256"])
def test_one_unlike_digest_takes_the_claim_off_the_page(render: Any, raw: dict[str, Raw], what: str) -> None:
    claim = "are equal after every one of"
    assert claim in " ".join(render.build_page(raw).split())
    run = next(run for run in raw["hardware"]["results"] if run["way"] == "ours" and run["workers"] == 8)
    changed = run if what == "digest" else run["digests"]
    changed[what] = "0" * 64
    page = " ".join(render.build_page(raw).split())
    assert claim not in page
    assert (
        f"**The promise is broken**: the digests on 1, 2, 4 and 8 workers differ for seed {run['seed']}."
        in page
    )


def test_raw_files_hold_the_runs_that_they_name(raw: dict[str, Raw]) -> None:
    hardware, batches = raw["hardware"], raw["batches"]
    done = {(run["way"], run["stands_for_workers"], run["seed"]) for run in hardware["results"]}
    assert done == {(way, w, s) for way in ("ours", "naive") for w in (1, 2, 4, 8) for s in range(5)}
    assert all(run["lr"] == raw["tuning"]["lr"] for run in hardware["results"])
    assert all(len(run["peak_bytes"]) == run["workers"] for run in hardware["results"])
    done_batches = {(run["global_batch_size"], run["seed"]) for run in batches["results"]}
    assert done_batches == {(32 * 2**i, s) for i in range(7) for s in range(3)}


def test_the_scripts_of_the_page_exist() -> None:
    for name in ("tune", "hardware", "batches", "cost", "render"):
        assert Path(ROOT, "benchmarks/paper", f"{name}.py").is_file()
