"""Max-min fairness on one type at a time against several at once, over loads of 1 to 12 jobs an hour.

    python benchmarks/mixed_loads.py [--data ../shared/data] [--seeds 3] [--out benchmarks/raw/mixed_loads.json]

The 100 jobs of Gavel's single100 trace with arrivals redrawn, on 4 V100, 8 P100 and 16 K80 in rounds of 360 s.
Progress counts from start. `mixed` may give a job up to --elastic devices, of several types; resizes are charged.
"""

import argparse
import json
import math
import platform
import random
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

import holdtrue
from holdtrue.cluster import POLICIES, Costs, Job, Rounds, parse_cluster, run_simulation, summarise_outcome
from holdtrue.cluster.traces import adapt_jobs, read_trace

CLUSTER = "v100:4,p100:8,k80:16"


def main() -> None:
    """Run all loads and write the raw file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--elastic", type=int, default=8)
    parser.add_argument("--cost", type=float, default=2.5, help="seconds of each grow; shrinking takes 0.13")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    trace = read_trace(arguments.data / "gavel/traces/single100.trace")
    costs = Costs(start_s=arguments.cost, resume_s=arguments.cost, grow_s=arguments.cost, shrink_s=0.13)
    results = []
    for load in range(1, 13):
        for seed in range(arguments.seeds):
            began = time.perf_counter()
            row = _compare(_redraw(trace, load, seed), arguments.elastic, costs)
            results.append({"jobs_per_hour": load, "seed": seed, **row})
            print(
                load,
                seed,
                {k: round(v, 3) for k, v in row.items()},
                f"{time.perf_counter() - began:.1f} s",
                flush=True,
            )
    changes = [row["mean_jct_change"] for row in results]
    by_load = {
        load: statistics.mean(r["mean_jct_change"] for r in results if r["jobs_per_hour"] == load)
        for load in range(1, 13)
    }
    spread = {
        "mean": statistics.mean(changes),
        "least": max(changes),
        "most": min(changes),
        "by_load": by_load,
    }
    print(spread)
    record = {
        "command": f"python {' '.join(sys.argv)}",
        "versions": {"python": platform.python_version(), "holdtrue": holdtrue.__version__},
        "mean_jct_change": spread,
        "results": results,
    }
    if arguments.out:
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")


def _redraw(trace: tuple[Job, ...], load: float, seed: int) -> list[Job]:
    source = random.Random(1000 * seed + round(load))
    now_s, jobs = 0.0, []
    for job in trace:
        jobs.append(replace(job, arrival_s=now_s))
        now_s -= math.log(1.0 - source.random()) * 3600.0 / load
    return jobs


def _compare(jobs: list[Job], elastic: int, costs: Costs) -> dict[str, float]:
    cluster = parse_cluster(CLUSTER)
    grown = adapt_jobs(jobs, cluster.kinds, {}, elastic)
    row = {}
    for name, these in (("max-min-aware", jobs), ("max-min-aware-mixed", grown)):
        outcome = run_simulation(these, cluster, POLICIES[name], costs=costs, rounds=Rounds())
        summary = summarise_outcome(outcome)
        row |= {f"{name} mean_jct_s": summary.mean_jct_s, f"{name} makespan_s": summary.makespan_s}
        row |= {f"{name} useful": summary.useful, f"{name} resizes": float(summary.resizes)}
    row["mean_jct_change"] = row["max-min-aware-mixed mean_jct_s"] / row["max-min-aware mean_jct_s"] - 1
    return row


if __name__ == "__main__":
    main()
