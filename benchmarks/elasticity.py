"""The paper's elasticity experiments, simulated: static priority, weighted fair sharing, and better baselines.

    python benchmarks/elasticity.py [--data ../shared/data] [--out benchmarks/raw/elasticity.json]

The simulator is deterministic: there is nothing to repeat.
"""

import argparse
import dataclasses
import json
import platform
import sys
from pathlib import Path

import holdtrue
from holdtrue.cluster import (
    Costs,
    JobOutcome,
    find_policies,
    parse_cluster,
    run_simulation,
    summarise_outcome,
)
from holdtrue.cluster.traces import TraceOptions, read_trace

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
    }
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")


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
