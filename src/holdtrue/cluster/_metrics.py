"""What a schedule was like, in numbers."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

from ._jobs import Cluster
from ._outcome import JobOutcome, Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One schedule in numbers; times in seconds."""

    policy: str
    """Name of the policy."""
    jobs: int
    """Jobs done."""
    mean_jct_s: float
    """Mean job completion time, arrival to last step."""
    median_jct_s: float
    """Median of it."""
    p95_jct_s: float
    """95th percentile of it."""
    p99_jct_s: float
    """99th percentile of it."""
    mean_queuing_s: float
    """Mean time from arrival to first devices."""
    median_queuing_s: float
    """Median of it."""
    makespan_s: float
    """From the first arrival to the last step of all."""
    allocated: float
    """Part of all device time, first arrival to last step, that was held."""
    useful: float
    """Part of all device time that made steps."""
    mean_fairness: float
    """Mean finish-time fairness: completion time over completion time on an equal share; 1 is even."""
    worst_fairness: float
    """Largest of it."""
    jain: float
    """Jain's index of the inverse of finish-time fairness; 1 is even, 1/jobs is worst."""
    resizes: int
    """Changes of devices of running jobs."""
    stops: int
    """Times that a job lost all devices before it was done."""


def summarise_outcome(outcome: Outcome) -> Summary:
    """The schedule's numbers.

    Source:
        Finish-time fairness: Themis (Mahajan et al., NSDI 2020); Jain, Chiu and Hawe, DEC-TR-301 (1984).
    """
    jobs = outcome.jobs
    jcts = [job.jct_s for job in jobs]
    queuing = [job.queuing_s for job in jobs]
    fairness = [finish_time_fairness(job, outcome.cluster) for job in jobs]
    start_s = min(job.job.arrival_s for job in jobs)
    makespan_s = max(job.finished_s for job in jobs) - start_s
    device_s = makespan_s * outcome.cluster.total
    return Summary(
        policy=outcome.policy,
        jobs=len(jobs),
        mean_jct_s=_mean(jcts),
        median_jct_s=percentile(jcts, 50),
        p95_jct_s=percentile(jcts, 95),
        p99_jct_s=percentile(jcts, 99),
        mean_queuing_s=_mean(queuing),
        median_queuing_s=percentile(queuing, 50),
        makespan_s=makespan_s,
        allocated=math.fsum(job.held_device_s for job in jobs) / device_s,
        useful=math.fsum(job.useful_device_s for job in jobs) / device_s,
        mean_fairness=_mean(fairness),
        worst_fairness=max(fairness),
        jain=_jain([1 / rho for rho in fairness]),
        resizes=sum(job.resizes for job in jobs),
        stops=sum(job.stops for job in jobs),
    )


def finish_time_fairness(outcome: JobOutcome, cluster: Cluster) -> float:
    """Completion time over that on an equal share of the cluster among the jobs that were there, on average.

    The equal share is `devices / neighbours`; a job that asks for less than that would run at full demand, on the
    type that runs it fastest.
    """
    job = outcome.job
    rate = max(job.rates.at(kind, job.max_devices) for kind in cluster.kinds) * job.percent / 100
    wanted = job.max_devices * job.percent / 100
    alone_s = job.work / rate * max(1.0, wanted * outcome.neighbours / cluster.total)
    return outcome.jct_s / alone_s


def percentile(values: Sequence[float], per_cent: float) -> float:
    """Percentile with straight lines between ranks.

    >>> percentile([4.0, 1.0, 3.0, 2.0], 50)
    2.5
    """
    ranked = sorted(values)
    place = (len(ranked) - 1) * per_cent / 100
    low = math.floor(place)
    high = min(low + 1, len(ranked) - 1)
    return ranked[low] + (ranked[high] - ranked[low]) * (place - low)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _jain(values: Sequence[float]) -> float:
    return math.fsum(values) ** 2 / (len(values) * math.fsum(x * x for x in values))


JOB_COLUMNS = (
    *("policy", "job", "kind", "queue", "weight", "demand"),
    *("arrival_s", "started_s", "finished_s", "jct_s", "queuing_s", "held_device_s", "useful_device_s"),
    *("resizes", "stops", "finish_time_fairness"),
)


def format_jobs_csv(outcome: Outcome) -> str:
    """One line a job: times, devices, resizes, fairness; seconds and device-seconds."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(JOB_COLUMNS)
    for done in outcome.jobs:
        job = done.job
        times = (job.arrival_s, done.started_s, done.finished_s, done.jct_s, done.queuing_s)
        used = (done.held_device_s, done.useful_device_s)
        fairness = finish_time_fairness(done, outcome.cluster)
        writer.writerow(
            [outcome.policy, job.id, job.kind, job.queue, f"{job.weight:g}", job.max_devices]
            + [f"{x:.3f}" for x in (*times, *used)]
            + [done.resizes, done.stops, f"{fairness:.4f}"]
        )
    return text.getvalue()


def change_against(summary: Summary, base: Summary) -> dict[str, float]:
    """Relative change of every number against `base`, by field, where the base is not 0: -0.25 is a quarter less."""
    changes = {}
    for field in fields(Summary):
        now, before = getattr(summary, field.name), getattr(base, field.name)
        if isinstance(before, int | float) and before:
            changes[field.name] = now / before - 1
    return changes
