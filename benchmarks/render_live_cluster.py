"""Writes docs/results/live-cluster.md from live_cluster.json in benchmarks/raw: no figure is typed.

python benchmarks/render_live_cluster.py
"""

from statistics import fmean
from typing import Any

from raw_pages import conditions, read, row, verdict, write

TARGET = 0.15


def costs(raw: dict[str, Any]) -> list[str]:
    """What was measured of single jobs."""
    lines = [
        "## What the simulator is given",
        "",
        "Single jobs, alone on the cluster, before and after the live schedules: a short and a long one on one device and on",
        "two. Their difference is steps alone; what is left of the short one is its start and end.",
        "",
        row("measured", "steps/s on 1", "steps/s on 2", "start and end on 1", "on 2", "growth"),
        row(*["---"] * 6),
    ]
    for when, found in zip(("before", "after"), raw["costs"], strict=True):
        rate, overhead = found["rate"], found["overhead_s"]
        lines.append(
            row(
                when,
                f"{rate['1']:.1f}",
                f"{rate['2']:.1f}",
                f"{overhead['1']:.1f} s",
                f"{overhead['2']:.1f} s",
                f"{found['grow_s']:.1f} s",
            )
        )
    return [*lines, ""]


def schedules(raw: dict[str, Any]) -> list[str]:
    """Live and simulated, by policy."""
    lines = [
        "## Mean job completion time",
        "",
        row(
            "policy",
            "jobs",
            "live",
            "simulated",
            "difference",
            f"target: {TARGET:.0%}",
            "decisions that replay otherwise",
        ),
        row(*["---"] * 7),
    ]
    for policy, found in raw["policies"].items():
        lines.append(
            row(
                f"`{policy}`",
                len(found["jobs"]),
                f"{found['mean_live_jct_s']:.1f} s",
                f"{found['mean_simulated_jct_s']:.1f} s",
                f"{found['simulated_over_live']:+.1%}",
                verdict(abs(found["simulated_over_live"]) <= TARGET),
                found["replay_differences"],
            )
        )
    return [*lines, ""]


def jobs(raw: dict[str, Any]) -> list[str]:
    """Each job: a mean can be right where no job is."""
    lines = ["## Job by job", ""]
    for policy, found in raw["policies"].items():
        off = fmean(abs(job["simulated_jct_s"] / job["live_jct_s"] - 1) for job in found["jobs"])
        lines += [
            f"`{policy}`: single jobs are off by {off:.0%} on average. A job that two schedules start in another order by a",
            "fraction of a second waits for a whole other job in one of them.",
            "",
            row("job", "epochs", "weight", "devices at most", "arrives", "live", "simulated"),
            row(*["---"] * 7),
        ]
        lines += [
            row(
                job["job"],
                job["epochs"],
                f"{job['weight']:g}",
                job["max_devices"],
                f"{job['arrival_s']:.1f} s",
                f"{job['live_jct_s']:.1f} s",
                f"{job['simulated_jct_s']:.1f} s",
            )
            for job in found["jobs"]
        ]
        lines.append("")
    return lines


def page() -> str:
    """The page."""
    raw = read("live_cluster")
    lines = [
        "# A live cluster against its simulation",
        "",
        "Written by `benchmarks/render_live_cluster.py`.",
        conditions(raw["conditions"]) + " [Raw](../../benchmarks/raw/live_cluster.json)",
        "",
        "Small real jobs (digits, a convolutional network) arrive at two CPU slots under the live scheduler, which grows and",
        "shrinks them; then the simulator, with the same policy code, is given their arrivals and the costs below, and nothing",
        "of the live schedule.",
        "",
        *schedules(raw),
        *costs(raw),
        *jobs(raw),
    ]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    write("live-cluster.md", page())
