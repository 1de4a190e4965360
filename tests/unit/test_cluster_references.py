"""The policies and the simulator against systems that we did not write (skipped where the data is absent)."""

import csv
import json
import os
from functools import cache
from pathlib import Path

import pytest

from holdtrue.cluster import (
    POLICIES,
    Costs,
    Outcome,
    Rounds,
    parse_cluster,
    run_simulation,
    summarise_outcome,
)
from holdtrue.cluster.policies import divide_power_of_two
from holdtrue.cluster.traces import TraceOptions, read_trace

DATA = Path(os.environ.get("HOLDTRUE_REFERENCE_DATA", Path(__file__).parents[2] / "../shared/data")).resolve()
pytestmark = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"no reference data at {DATA}; set HOLDTRUE_REFERENCE_DATA to its folder"
)
THREE_TYPES = "v100:8,p100:8,k80:8"
# Seconds at full demand as logged, and the costs seen in those runs: data/README.md.
LOGGED_DURATIONS = (
    *(656.0, 1440.0, 793.0, 1336.0, 833.0, 965.0, 828.0, 911.0, 950.0, 438.0),
    *(1415.0, 1156.0, 757.0, 520.0, 682.0, 733.0, 605.0, 1334.0, 606.0, 1093.0),
)
LOGGED_COSTS = Costs(start_s=63, resume_s=63, grow_s=67, shrink_s=0.7)


def test_every_published_decision_of_weighted_fair_sharing_is_reproduced() -> None:
    decisions = json.loads((DATA / "virtualflow/wfs_decisions.json").read_text())
    assert len(decisions) == 165
    for decision in decisions:
        jobs = decision["jobs"]
        given = divide_power_of_two(decision["devices"], [(job["weight"], job["demand"]) for job in jobs])
        assert given == [decision["allocation"][str(job["id"])] for job in jobs]


def _reference(name: str) -> dict[str, tuple[float, float]]:
    with (DATA / f"gavel/results/{name}.csv").open() as file:
        return {row["job"]: (float(row["completion_s"]), float(row["jct_s"])) for row in csv.DictReader(file)}


@cache
def _gavel(policy: str, cluster: str, gate_s: float) -> Outcome:
    jobs = read_trace(DATA / "gavel/traces/single100.trace")
    rounds = Rounds(length_s=360, decide_every_s=gate_s)
    return run_simulation(jobs, parse_cluster(cluster), POLICIES[policy], rounds=rounds)


@pytest.mark.parametrize("gate_s", [0, 1920])
def test_every_job_of_gavels_fifo_ends_within_a_second(gate_s: int) -> None:
    reference = _reference(f"gate{gate_s}_single100_16v100_fifo")
    outcome = _gavel("fifo", "v100:16", gate_s)
    assert len(outcome.jobs) == len(reference) == 100
    for done in outcome.jobs:
        assert abs(done.finished_s - reference[done.job.id][0]) <= 1.0


@pytest.mark.parametrize(
    ("policy", "file"),
    [("max-min", "max_min"), ("max-min-aware", "max_min_aware"), ("finish-time", "ftf_aware")],
)
def test_gavels_fair_schedules_are_met_in_jct_and_makespan(policy: str, file: str) -> None:
    reference = _reference(f"gate0_single100_8_8_8_{file}")
    summary = summarise_outcome(_gavel(policy, THREE_TYPES, 0))
    mean_jct_s = sum(jct for _, jct in reference.values()) / len(reference)
    assert summary.mean_jct_s == pytest.approx(mean_jct_s, rel=0.05)
    assert summary.makespan_s == pytest.approx(max(end for end, _ in reference.values()), rel=0.02)


@pytest.mark.parametrize("policy", ["fifo", "max-min", "max-min-aware", "finish-time"])
def test_work_is_conserved_on_gavels_trace(policy: str) -> None:
    for done in _gavel(policy, "v100:16" if policy == "fifo" else THREE_TYPES, 0).jobs:
        assert abs(done.done - done.job.work) <= 1e-6 * done.job.work


def _changes(
    trace: str, cluster: str, durations: tuple[float, ...], costs: Costs
) -> tuple[dict[str, float], ...]:
    jobs = read_trace(
        DATA / f"virtualflow/traces/{trace}.json", TraceOptions(durations=durations, start_s=costs.start_s)
    )
    found = []
    for policy in ("priority", "wfs"):
        outcome = run_simulation(jobs, parse_cluster(cluster), POLICIES[policy], costs=costs)
        summary = summarise_outcome(outcome)
        found.append(
            {
                "makespan": summary.makespan_s,
                "median": summary.median_jct_s,
                "mean": summary.mean_jct_s,
                "queuing": summary.median_queuing_s,
                "heaviest": max(outcome.jobs, key=lambda done: done.job.weight).jct_s,
            }
        )
    before, after = found
    return before, {key: 100 * (after[key] / before[key] - 1) for key in before if before[key]}


def test_the_papers_20_job_experiment_changes_as_logged_within_10_points() -> None:
    before, changes = _changes("medium20_12jph", "v100:8", LOGGED_DURATIONS, LOGGED_COSTS)
    assert before["makespan"] == pytest.approx(11929, rel=0.05)
    assert before["mean"] == pytest.approx(4005, rel=0.05)
    logged = {"makespan": -45.6, "median": -47.6, "mean": -57.3, "queuing": -99.3}
    for key, change in logged.items():
        assert abs(changes[key] - change) <= 10, key


def test_the_papers_3_job_experiment_changes_as_logged_within_10_points() -> None:
    _, changes = _changes("3jobs_4gpus_v1", "v100:4", (), LOGGED_COSTS)
    assert abs(changes["makespan"] + 38.4) <= 10
    assert abs(changes["heaviest"] + 44.9) <= 10


@pytest.mark.parametrize(
    "path",
    ["gavel/traces/single100.trace", "gavel/traces/multi1000.trace", "gavel/traces/small_test.trace"],
)
def test_gavels_traces_are_read_whole(path: str) -> None:
    jobs = read_trace(DATA / path)
    assert len(jobs) == len((DATA / path).read_text().splitlines())
    assert all(job.rates.at("v100", job.max_devices) > 0 for job in jobs)


def test_phillys_job_list_is_read() -> None:
    jobs = read_trace(DATA / "philly/philly_jobs.csv.gz", TraceOptions(limit=500))
    assert len(jobs) == 500
    assert jobs[0].arrival_s == 0
    assert [job.arrival_s for job in jobs] == sorted(job.arrival_s for job in jobs)
