"""The paper's elasticity experiments, simulated: static priority, weighted fair sharing, and better baselines.

Also how close the simulator comes to what others' systems logged: Gavel's schedules, and the paper's own decisions.

    python benchmarks/elasticity.py [--data ../shared/data] [--out benchmarks/raw/elasticity.json]

The simulator is deterministic: there is nothing to repeat.
"""

import argparse
import csv
import dataclasses
import json
import platform
import sys
from pathlib import Path
from typing import Any

import holdtrue
from fit_paper_speeds import fit_workloads
from holdtrue.cluster import (
    POLICIES as BY_NAME,
)
from holdtrue.cluster import (
    Costs,
    Job,
    JobOutcome,
    Rates,
    Rounds,
    find_policies,
    parse_cluster,
    run_simulation,
    summarise_outcome,
)
from holdtrue.cluster.policies import divide_power_of_two
from holdtrue.cluster.traces import TraceOptions, read_trace
from holdtrue.cluster.traces._speeds import MODELS

DURATIONS = (
    *(656.0, 1440.0, 793.0, 1336.0, 833.0, 965.0, 828.0, 911.0, 950.0, 438.0),
    *(1415.0, 1156.0, 757.0, 520.0, 682.0, 733.0, 605.0, 1334.0, 606.0, 1093.0),
)
COSTS = {
    # Seen in the authors' logs.
    "logged": Costs(start_s=63, resume_s=63, grow_s=67, shrink_s=0.7),
    # Measured on two CPU cores: a new process and its imports; a group of 8 re-formed.
    "holdtrue on CPU": Costs(start_s=2.5, resume_s=2.5, grow_s=2.5, shrink_s=0.13),
    # As slow as stopping, checkpointing and starting again (Sia, SOSP'23: 25 to 250 s by model).
    "slow resizes": Costs(start_s=63, resume_s=63, grow_s=100, shrink_s=100, checkpoint_s=37),
}
RUNS = (
    ("medium20_12jph", "v100:8", DURATIONS, 63.0),
    ("medium20_10jph", "v100:8", (), 0.0),
    ("3jobs_4gpus_v1", "v100:4", (), 0.0),
    ("3jobs_4gpus_v2", "v100:4", (), 0.0),
    ("3jobs_4gpus_v3", "v100:4", (), 0.0),
)
POLICIES = "priority,wfs,wfs-any,fifo,srtf"
THREE_TYPES = "v100:8,p100:8,k80:8"
GAVEL = (
    ("fifo", "v100:16", 0, "gate0_single100_16v100_fifo"),
    ("fifo", "v100:16", 1920, "gate1920_single100_16v100_fifo"),
    ("max-min", THREE_TYPES, 0, "gate0_single100_8_8_8_max_min"),
    ("max-min-aware", THREE_TYPES, 0, "gate0_single100_8_8_8_max_min_aware"),
    ("finish-time", THREE_TYPES, 0, "gate0_single100_8_8_8_ftf_aware"),
)
"""Policy, cluster, seconds between decisions, and Gavel's schedule of the same."""
ROUND_S = 360.0


def main() -> None:
    """Run all and write the raw file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    results = []
    for trace, cluster, durations, start_s in RUNS:
        options = TraceOptions(durations=durations, start_s=start_s)
        jobs = read_trace(arguments.data / f"virtualflow/traces/{trace}.json", options)
        for name, costs in COSTS.items():
            base = None
            for policy in find_policies(POLICIES):
                outcome = run_simulation(jobs, parse_cluster(cluster), policy, costs=costs)
                summary = dataclasses.asdict(summarise_outcome(outcome))
                summary["heaviest_jct_s"] = _heaviest(outcome.jobs)
                base = base or summary
                results.append({"trace": trace, "costs": name, **summary})
                print(_line(trace, name, summary, base))
    record = {
        "command": f"python {' '.join(sys.argv)}",
        "versions": {"python": platform.python_version(), "holdtrue": holdtrue.__version__},
        "costs": {name: dataclasses.asdict(costs) for name, costs in COSTS.items()},
        "results": results,
        "in proportion": _in_proportion(arguments.data),
        "fit": _fit(arguments.data),
        "gavel": _against_gavel(arguments.data),
        "published decisions": _decided_again(arguments.data),
    }
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")


def _in_proportion(data: Path) -> list[dict[str, Any]]:
    """The 20 jobs under WFS and static priority, if twice the devices were twice as fast."""
    trace, cluster, durations, start_s = RUNS[0]
    options = TraceOptions(durations=durations, start_s=start_s)
    jobs = [_scaled(job) for job in read_trace(data / f"virtualflow/traces/{trace}.json", options)]
    return [
        dataclasses.asdict(
            summarise_outcome(run_simulation(jobs, parse_cluster(cluster), policy, costs=COSTS["logged"]))
        )
        for policy in find_policies("priority,wfs")
    ]


def _scaled(job: Job) -> Job:
    """The job as fast as it is at its full demand, and in proportion below."""
    n = job.max_devices
    return dataclasses.replace(job, rates=Rates(by_type=(("*", ((n, job.rates.at("v100", n)),)),)))


def _fit(data: Path) -> dict[str, Any]:
    """How the jobs' speeds were fitted, and what the fit says of BERT."""
    fits = list(fit_workloads(data))
    errors = [fitted / logged - 1 for fit in fits for logged, fitted in fit.jobs.values()]
    bert = MODELS["bert"]
    return {
        "jobs": len(errors),
        "furthest": max(map(abs, errors)),
        "bert_batch_64_on_4_to_8": bert.seconds(8, 64, 0.0) / bert.seconds(4, 64, 0.0),
    }


def _against_gavel(data: Path) -> list[dict[str, Any]]:
    """Gavel's schedules of `single100`, and ours."""
    jobs, found = read_trace(data / "gavel/traces/single100.trace"), []
    for policy, cluster, gate_s, name in GAVEL:
        with (data / f"gavel/results/{name}.csv").open() as file:
            reference = {row["job"]: row for row in csv.DictReader(file)}
        rounds = Rounds(length_s=ROUND_S, decide_every_s=gate_s)
        outcome = run_simulation(jobs, parse_cluster(cluster), BY_NAME[policy], rounds=rounds)
        summary = summarise_outcome(outcome)
        ends_s = {job: float(row["completion_s"]) for job, row in reference.items()}
        found.append(
            {
                "policy": policy,
                "cluster": cluster,
                "decide_every_s": gate_s,
                "jobs": len(outcome.jobs),
                "gavel_mean_jct_s": sum(float(row["jct_s"]) for row in reference.values()) / len(reference),
                "mean_jct_s": summary.mean_jct_s,
                "gavel_makespan_s": max(ends_s.values()),
                "makespan_s": summary.makespan_s,
                "furthest_end_s": max(abs(done.finished_s - ends_s[done.job.id]) for done in outcome.jobs),
                "furthest_work": max(abs(done.done / done.job.work - 1) for done in outcome.jobs),
            }
        )
        print(found[-1])
    return found


def _decided_again(data: Path) -> dict[str, int]:
    """Logged decisions of the original weighted fair sharing, and how many of them ours are."""
    logged = json.loads((data / "virtualflow/wfs_decisions.json").read_text())
    same = 0
    for decision in logged:
        jobs = decision["jobs"]
        given = divide_power_of_two(decision["devices"], [(job["weight"], job["demand"]) for job in jobs])
        same += given == [decision["allocation"][str(job["id"])] for job in jobs]
    return {"logged": len(logged), "same": same}


def _heaviest(jobs: tuple[JobOutcome, ...]) -> float:
    return max(jobs, key=lambda done: done.job.weight).jct_s


def _line(trace: str, costs: str, summary: dict[str, float], base: dict[str, float]) -> str:
    """One line of a Markdown table."""
    cells = [trace, costs, str(summary["policy"])]
    for key in ("makespan_s", "median_jct_s", "mean_jct_s", "median_queuing_s", "heaviest_jct_s"):
        change = "" if summary is base or not base[key] else f" ({summary[key] / base[key] - 1:+.1%})"
        cells.append(f"{summary[key]:.0f}{change}")
    return "| " + " | ".join([*cells, str(summary["resizes"])]) + " |"


if __name__ == "__main__":
    main()
