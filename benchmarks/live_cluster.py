"""Live against simulated: small real jobs on two CPU slots, and the same jobs in the simulator with measured costs.

    python benchmarks/live_cluster.py --out benchmarks/raw/live_cluster.json

Single jobs are measured before and after: a short and a long one on one device and on two, which gives the steps per
second and what a start and an end take; and what a growth takes. In between the jobs are submitted to a live cluster at
fixed times, once for each policy. Then the simulator is given their arrivals and those measurements, and nothing of the
live schedule. What is compared is the mean JCT. On a machine with other load the rates of the parts differ, and the
comparison says nothing: run it alone. It takes about eleven minutes.
"""

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from common import describe
from holdtrue.cluster import POLICIES, Costs, Job, Rates, parse_cluster, replay_schedule, run_simulation
from holdtrue.record import read_run
from holdtrue.scheduler import ClusterClient, JobRequest, start_cluster

SCRIPT = Path(__file__).resolve().parents[1] / "examples" / "cluster" / "train.py"
STEPS_PER_EPOCH = 7
SEED, JOBS, MEAN_GAP_S = 3, 12, 9.0
SHORT, LONG = 24, 84
"""Epochs of the two single jobs: their difference in time is steps alone, what is left is start and end."""
WAIT_S = 400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One job before it is submitted."""

    name: str
    at_s: float
    epochs: int
    weight: float
    most: int


def plan_jobs() -> list[Planned]:
    """The jobs, by a seed."""
    draw = random.Random(SEED)
    at_s, jobs = 0.0, []
    for i in range(JOBS):
        jobs.append(
            Planned(
                name=f"job-{i}", at_s=at_s, epochs=draw.randint(36, 90),
                weight=draw.choice([1.0, 5.0, 10.0]), most=draw.choice([1, 2, 2]),
            )
        )  # fmt: skip
        at_s += draw.expovariate(1 / MEAN_GAP_S)
    return jobs


def request_of(job: Planned) -> JobRequest:
    """What is submitted."""
    return JobRequest(
        name=job.name, script=str(SCRIPT), folder=str(SCRIPT.parent), arguments=(str(job.epochs),),
        max_devices=job.most, weight=job.weight, digest_every=0, checkpoint_every=0,
    )  # fmt: skip


def wait_for(client: ClusterClient, count: int) -> list[dict[str, Any]]:
    """All jobs, once so many have finished."""
    until_s = time.monotonic() + WAIT_S
    while time.monotonic() < until_s:
        jobs: list[dict[str, Any]] = client.queue()["jobs"]
        if sum(job["ended_s"] is not None for job in jobs) >= count:
            assert all(job["state"] in ("finished",) for job in jobs), jobs
            return jobs
        time.sleep(0.2)
    raise SystemExit(f"not over after {WAIT_S} s: {client.queue()}")


def measure_costs(folder: Path) -> dict[str, Any]:
    """Steps per second by devices, seconds of a start and an end, seconds of a growth; each job alone on the cluster."""
    client = start_cluster(folder, devices="cpu:2", queues="", policy="wfs")
    found: dict[str, Any] = {"alone": [], "rate": {}, "overhead_s": {}}
    try:
        for most in (1, 2):
            took_s = {}
            for epochs in (SHORT, LONG):
                name = f"alone-{most}-{epochs}"
                client.submit([request_of(Planned(name=name, at_s=0, epochs=epochs, weight=1, most=most))])
                job = wait_for(client, len(found["alone"]) + 1)[-1]
                took_s[epochs] = job["ended_s"] - job["submitted_s"]
                found["alone"].append({"devices": most, "epochs": epochs, "jct_s": took_s[epochs]})
            step_s = (took_s[LONG] - took_s[SHORT]) / ((LONG - SHORT) * STEPS_PER_EPOCH)
            found["rate"][str(most)] = 1 / step_s
            found["overhead_s"][str(most)] = took_s[SHORT] - SHORT * STEPS_PER_EPOCH * step_s
        found |= measure_changes(client)
    finally:
        client.stop(ends_jobs=True, wait_s=60)
    return found


def measure_changes(client: ClusterClient) -> dict[str, Any]:
    """Seconds from a decision to a job's growth, as a second job ends; the pause of a shrink is within one step."""
    client.submit([request_of(Planned(name="grows", at_s=0, epochs=180, weight=1, most=2))])
    client.submit([request_of(Planned(name="goes", at_s=0, epochs=24, weight=1, most=1))])
    jobs = {job["name"]: job for job in wait_for(client, 6)}
    went_s = jobs["goes"]["ended_s"]
    events = read_run(Path(jobs["grows"]["run_dir"])).events
    grown = [e.time_s for e in events if len(e.details.get("workers", ())) == 2 and e.time_s > went_s]
    if not grown:
        raise SystemExit(
            "the job 'grows' never had two workers after the job 'goes' ended, so the cost of growing is not known and the "
            "simulator would charge nothing for it. Run again on a quieter machine, or give 'grows' more epochs."
        )
    return {"grow_s": grown[0] - went_s}


def run_live(folder: Path, policy: str, jobs: list[Planned]) -> tuple[list[dict[str, Any]], int]:
    """The jobs on a live cluster; and the decisions of its log that replay otherwise."""
    client = start_cluster(folder, devices="cpu:2", queues="", policy=policy)
    try:
        begin_s = time.time()
        for job in jobs:
            time.sleep(max(0.0, begin_s + job.at_s - time.time()))
            client.submit([request_of(job)])
        ended = wait_for(client, len(jobs))
        return ended, len(replay_schedule(client.log()).differences)
    finally:
        client.stop(ends_jobs=True, wait_s=60)


def simulate(
    policy: str, jobs: list[Planned], live: list[dict[str, Any]], costs: list[dict[str, Any]]
) -> dict[str, float]:
    """JCT of each job in the simulator, with the mean of what was measured before and after."""
    rates = Rates(
        by_type=(("*", tuple((n, fmean(found["rate"][str(n)] for found in costs)) for n in (1, 2))),)
    )
    first_s = live[0]["submitted_s"]
    trace = [
        Job(
            id=job.name, arrival_s=facts["submitted_s"] - first_s, work=job.epochs * STEPS_PER_EPOCH, rates=rates,
            max_devices=job.most, weight=job.weight,
        )
        for job, facts in zip(jobs, live, strict=True)
    ]  # fmt: skip
    charged = Costs(
        start_s=fmean(seconds for found in costs for seconds in found["overhead_s"].values()),
        grow_s=fmean(found["grow_s"] for found in costs),
    )
    outcome = run_simulation(trace, parse_cluster("cpu:2"), POLICIES[policy], costs=charged)
    return {job.job.id: job.jct_s for job in outcome.jobs}


def main() -> int:
    """Measure, run, simulate, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--policies", default="wfs,priority")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # a time limit leaves no scheduler behind
    folder = Path(tempfile.mkdtemp(prefix="holdtrue-live-"))
    result: dict[str, Any] = {"conditions": describe("python benchmarks/live_cluster.py")}
    try:
        jobs = plan_jobs()
        costs = result["costs"] = [measure_costs(folder / "before")]
        lives = {policy: run_live(folder / policy, policy, jobs) for policy in options.policies.split(",")}
        costs.append(measure_costs(folder / "after"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    result["policies"] = {}
    for policy, (live, differences) in lives.items():
        simulated = simulate(policy, jobs, live, costs)
        rows = [
            {
                "job": job.name, "epochs": job.epochs, "weight": job.weight, "max_devices": job.most,
                "arrival_s": facts["submitted_s"] - live[0]["submitted_s"],
                "live_jct_s": facts["ended_s"] - facts["submitted_s"], "simulated_jct_s": simulated[job.name],
            }
            for job, facts in zip(jobs, live, strict=True)
        ]  # fmt: skip
        mean_live, mean_simulated = (
            fmean(row[key] for row in rows) for key in ("live_jct_s", "simulated_jct_s")
        )
        result["policies"][policy] = {
            "mean_live_jct_s": mean_live, "mean_simulated_jct_s": mean_simulated,
            "simulated_over_live": mean_simulated / mean_live - 1, "replay_differences": differences, "jobs": rows,
        }  # fmt: skip
        print(
            f"{policy}: live {mean_live:.1f} s, simulated {mean_simulated:.1f} s ({mean_simulated / mean_live - 1:+.1%})"
        )
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
