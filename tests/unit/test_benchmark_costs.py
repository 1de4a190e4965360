"""Benchmarks of the cluster: a cost that was not measured is not charged as nothing, and raw files say how they came about."""

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """One of the benchmarks, as a module."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    for one in (name, "common"):
        monkeypatch.delitem(sys.modules, one, raising=False)
    return importlib.import_module(name)


@pytest.fixture
def live_cluster(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return script("live_cluster", monkeypatch)


@pytest.mark.parametrize(("workers", "at_s"), [((0,), 12.0), ((0, 1), 9.0)])
def test_a_growth_that_was_not_seen_is_not_charged_as_nothing(
    workers: tuple[int, ...], at_s: float, live_cluster: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [{"name": "grows", "run_dir": "runs/grows"}, {"name": "goes", "ended_s": 10.0}]
    event = SimpleNamespace(details={"workers": workers}, time_s=at_s)
    monkeypatch.setattr(live_cluster, "wait_for", lambda *_: jobs)
    monkeypatch.setattr(live_cluster, "read_run", lambda _: SimpleNamespace(events=(event,)))
    client = SimpleNamespace(submit=lambda _: None)
    with pytest.raises(SystemExit, match="never had two workers after"):
        live_cluster.measure_changes(client)
    event.details, event.time_s = {"workers": (0, 1)}, 12.5
    assert live_cluster.measure_changes(client) == {"grow_s": 2.5}


def test_the_simulators_raw_file_says_device_versions_and_date(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    simulator = script("simulator", monkeypatch)
    monkeypatch.setattr(simulator, "_crowded", lambda *_: {})
    monkeypatch.setattr(simulator, "parse_throughputs", lambda *_: {})
    (tmp_path / "gavel").mkdir()
    (tmp_path / "gavel/throughputs_isolated_simulation.json").write_text("{}")
    out = tmp_path / "raw.json"
    monkeypatch.setattr(
        "sys.argv", ["simulator.py", "--only-crowded", "--data", str(tmp_path), "--out", str(out)]
    )
    simulator.main()
    found = json.loads(out.read_text())
    assert found["command"].startswith("python benchmarks/simulator.py --only-crowded")
    assert {"device", "versions", "date", "threads"} <= set(found)
