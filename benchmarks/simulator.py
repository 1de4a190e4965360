"""How fast the simulator is: Philly's jobs on 2,048 devices, time-sharing policies on made traces, single decisions.

    python benchmarks/simulator.py [--data ../shared/data] [--jobs 10000] [--repeats 3]
        [--out benchmarks/raw/simulator.json]

One thread (set OMP_NUM_THREADS=1), and its processor time: nothing here waits, and others may use the machine. All values
are in the file.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import describe
from holdtrue.cluster import (
    POLICIES,
    Cluster,
    ClusterState,
    Grant,
    Job,
    JobView,
    Rounds,
    parse_cluster,
    run_simulation,
)
from holdtrue.cluster.traces import (
    GeneratorOptions,
    TraceOptions,
    adapt_jobs,
    generate_trace,
    parse_throughputs,
    read_trace,
)

PHILLY = "v100:1024,p100:512,k80:512"
SPEEDS = {"p100": 0.5, "k80": 0.25}
SMALL, LARGE = "v100:8,p100:8,k80:8", "v100:200,p100:200,k80:200"


def main() -> None:
    """Measure all and write the raw file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--jobs", type=int, default=10000)
    parser.add_argument(
        "--compress", type=float, default=8.0, help="arrivals this many times as dense as Philly's"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--only-crowded", action="store_true", help="only the part of 512 running jobs")
    part.add_argument("--without-crowded", action="store_true", help="all but that part")
    a = parser.parse_args()
    record: dict[str, Any] = {**describe("python benchmarks/simulator.py"), "cluster of philly": PHILLY}
    table = parse_throughputs((a.data / "gavel/throughputs_isolated_simulation.json").read_text(), "table")
    if not a.without_crowded:
        record["crowded"] = _crowded(table, a.repeats)
    if a.only_crowded:
        if a.out:
            a.out.write_text(json.dumps(record, indent=1) + "\n")
        return
    record["philly"] = _philly(a.data, a.jobs, a.compress, a.repeats)
    made = generate_trace(GeneratorOptions(jobs=600, seed=1, demands=((1, 1.0),)), table)
    record["time-sharing"] = _time_sharing(a.data, a.repeats)
    record["decisions of 512 running jobs, ms"] = _decisions(made[:512], parse_cluster(LARGE), a.repeats)
    record["decisions of 20 running jobs, ms"] = _decisions(made[:20], parse_cluster(SMALL), a.repeats)
    if a.out:
        a.out.write_text(json.dumps(record, indent=1) + "\n")


def _timed(what: str, jobs: int, repeats: int, run: Callable[[], object]) -> dict[str, float]:
    seconds = []
    for _ in range(repeats):
        began = time.process_time()
        run()
        seconds.append(time.process_time() - began)
    row = {"jobs_per_s": jobs / statistics.median(seconds), "least_s": min(seconds), "most_s": max(seconds)}
    print(what, {key: round(value, 2) for key, value in row.items()}, flush=True)
    return row


def _philly(data: Path, count: int, compress: float, repeats: int) -> dict[str, Any]:
    cluster = parse_cluster(PHILLY)
    jobs = adapt_jobs(
        read_trace(data / "philly/philly_jobs.csv.gz", TraceOptions(limit=count)), cluster.kinds, SPEEDS
    )
    dense = [replace(job, arrival_s=job.arrival_s / compress) for job in jobs]
    rows = {}
    for name in ("fifo", "priority", "wfs", "wfs-any", "srtf"):
        for label, these in (("as logged", jobs), (f"{compress:g} x as dense", dense)):
            if these is dense and name not in ("fifo", "wfs"):
                continue
            row = _timed(
                f"philly {count} {label} {name}",
                len(these),
                repeats,
                lambda these=these, name=name: run_simulation(these, cluster, POLICIES[name]),
            )
            rows[f"{name}, {label}"] = row
    return rows


def _time_sharing(data: Path, repeats: int) -> dict[str, Any]:
    jobs = read_trace(data / "gavel/traces/single100.trace")
    rows = {}
    for name in ("max-min", "max-min-aware", "finish-time", "makespan"):
        for gate_s in (0, 1920):
            rows[f"{name}, decisions at most every {gate_s} s"] = _timed(
                f"single100 {name} gate {gate_s}",
                len(jobs),
                repeats,
                lambda name=name, gate_s=gate_s: run_simulation(
                    jobs, parse_cluster(SMALL), POLICIES[name], rounds=Rounds(decide_every_s=gate_s)
                ),
            )
    return rows


def _crowded(table: Any, repeats: int) -> dict[str, Any]:  # Any: Gavel's table, as it was parsed
    """Policies that share time, with about 512 jobs on 600 devices: arrivals keep up with ends."""
    jobs = generate_trace(GeneratorOptions(jobs=1024, per_hour=120, seed=1, demands=((1, 1.0),)), table)
    first = tuple(replace(job, arrival_s=0.0) if i < 512 else job for i, job in enumerate(jobs))
    rows = {}
    for name in (policy.name for policy in POLICIES.values() if policy.answers == "time"):
        for gate_s in (0, 1920):
            rows[f"{name}, decisions at most every {gate_s} s"] = _timed(
                f"512 running {name} gate {gate_s}",
                len(first),
                repeats,
                lambda name=name, gate_s=gate_s: run_simulation(
                    first, parse_cluster(LARGE), POLICIES[name], rounds=Rounds(decide_every_s=gate_s)
                ),
            )
    return rows


def _decisions(jobs: tuple[Job, ...], cluster: Cluster, repeats: int) -> dict[str, list[float]]:
    """Milliseconds of one decision when as many jobs run as fit."""
    state = ClusterState(now_s=1e6, cluster=cluster, jobs=tuple(JobView(job=job) for job in jobs))
    running = POLICIES["wfs-any"].decide(state).grants
    views = tuple(_running(job, running.get(job.id)) for job in jobs)
    state = ClusterState(now_s=1e6, cluster=cluster, jobs=views)
    rows: dict[str, list[float]] = {}
    for name, policy in POLICIES.items():
        rows[name] = []
        for _ in range(repeats + 1):
            began = time.process_time()
            policy.decide(state)
            rows[name].append(1000 * (time.process_time() - began))
        rows[name] = rows[name][1:]
        print(len(jobs), "running jobs,", name, [round(x, 1) for x in rows[name]], "ms", flush=True)
    return rows


def _running(job: Job, grant: Grant | None) -> JobView:
    rate = job.rate(grant) if grant is not None else 0.0
    return JobView(job=job, grant=grant, started=grant is not None, as_of_s=1e6, rate=rate)


if __name__ == "__main__":
    main()
