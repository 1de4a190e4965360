"""`make demo-cluster`: three real jobs of different weight on two devices, under static priority and under weighted fair sharing.

A light job comes first and takes both devices. Then two heavier ones arrive. Static priority (the baseline of the
paper: whole demand or nothing, nobody is stopped) lets them wait; weighted fair sharing shrinks the light job while it
trains. What it computes does not change: each job's digest is compared with a run of its own that nobody disturbed.
"""

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from holdtrue.cluster import LogRecord
from holdtrue.record import read_run
from holdtrue.scheduler import ClusterClient, read_job_file, start_cluster

HERE = Path(__file__).resolve().parent
FOLDER = (Path("runs") / "demo-cluster").absolute()
POLICIES = ("priority", "wfs")
WAIT_S = 300.0
"""Bound of every wait."""
LOOK_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoJob:
    """One of the three."""

    name: str
    weight: int
    demand: int
    """Most devices."""
    epochs: int


JOBS = (
    DemoJob(name="light", weight=1, demand=2, epochs=45),
    DemoJob(name="heavy", weight=10, demand=1, epochs=15),
    DemoJob(name="middle", weight=5, demand=1, epochs=18),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What became of one job under one policy."""

    queuing_s: float
    jct_s: float
    resizes: int
    digest: str


def write_job(job: DemoJob, policy: str) -> Path:
    """The file of a job."""
    path = FOLDER / policy / f"{job.name}.toml"
    path.write_text(
        f'name = "demo-{policy}-{job.name}"\nscript = "{HERE / "train.py"}"\narguments = ["{job.epochs}"]\n'
        f"max_devices = {job.demand}\nweight = {job.weight}\ndigest_every = 50\n"
    )
    return path


def wait_until_it_trains(client: ClusterClient, name: str) -> None:
    """Until a job has made a step."""
    until_s = time.monotonic() + WAIT_S
    while time.monotonic() < until_s:
        job = next(job for job in client.queue()["jobs"] if job["name"] == name)
        if job["step"]:
            return
        if job["ended_s"] is not None:
            raise SystemExit(f"The job {name} ended before the others came: {job['ending']}")
        time.sleep(LOOK_S)
    raise SystemExit(f"The job {name} made no step within {WAIT_S:g} s.")


def wait_for_all(client: ClusterClient) -> list[dict[str, Any]]:
    """The jobs, once all are over."""
    until_s = time.monotonic() + WAIT_S
    while time.monotonic() < until_s:
        jobs: list[dict[str, Any]] = client.queue()["jobs"]
        if all(job["ended_s"] is not None for job in jobs):
            for job in jobs:
                if job["state"] != "finished":
                    raise SystemExit(
                        f"The job {job['name']} is {job['state']}: {job['ending']} See {job['output']}."
                    )
            return jobs
        time.sleep(LOOK_S)
    raise SystemExit(f"The jobs were not over within {WAIT_S:g} s.")


def last_digest(run_dir: Path) -> str:
    """Digest of the training state after the last step."""
    digests = read_run(run_dir).digests
    return digests[max(digests)].digest


def count_resizes(log: list[LogRecord], number: int) -> int:
    """Changes of the devices of a job that held some, from the cluster's log."""
    held = [record.grants.get(str(number)) for record in log if record.grants is not None]
    counts = [grant.devices for grant in held if grant is not None]
    return sum(1 for before, after in pairwise(counts) if before != after)


def share_cluster(console: Console, policy: str) -> dict[str, Shown]:
    """The three jobs on a cluster of two devices under a policy."""
    (FOLDER / policy).mkdir(parents=True)
    console.print(f"[dim]$[/dim] [bold]holdtrue cluster start --devices cpu:2 --policy {policy}[/bold]")
    client = start_cluster(FOLDER / policy / "cluster", devices="cpu:2", queues="", policy=policy)
    try:
        for job in JOBS:
            console.print(f"[dim]$[/dim] [bold]holdtrue submit {job.name}.toml[/bold]")
            (name,) = client.submit([read_job_file(write_job(job, policy))])
            if job is JOBS[0]:
                wait_until_it_trains(client, name)
        with console.status("three jobs on two devices"):
            ended = wait_for_all(client)
        log = client.log()
    finally:
        client.stop(ends_jobs=True, wait_s=WAIT_S)
    return {
        job.name: Shown(
            queuing_s=facts["started_s"] - facts["submitted_s"],
            jct_s=facts["ended_s"] - facts["submitted_s"],
            resizes=count_resizes(log, facts["number"]),
            digest=last_digest(Path(facts["run_dir"])),
        )
        for job, facts in zip(JOBS, ended, strict=True)
    }


def train_undisturbed(console: Console) -> dict[str, str]:
    """The digest of each job run alone by one worker, two at a time."""
    found: dict[str, str] = {}
    own = {name: value for name, value in os.environ.items() if not name.startswith("HOLDTRUE_")}
    with console.status("the same jobs alone, undisturbed"):
        running = {}
        for job in JOBS:
            command = [
                str(Path(sys.executable).with_name("holdtrue")), "run", "--device", "cpu", "--digest-every", "50",
                "--run-dir", str(FOLDER / "alone" / job.name), str(HERE / "train.py"), str(job.epochs),
            ]  # fmt: skip
            running[job.name] = subprocess.Popen(
                command, env=own, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            if job is JOBS[1]:
                running.pop(job.name).wait(WAIT_S)
        for process in running.values():
            process.wait(WAIT_S)
    for job in JOBS:
        found[job.name] = last_digest(FOLDER / "alone" / job.name)
    return found


def draw_table(shown: dict[str, dict[str, Shown]], alone: dict[str, str]) -> Table:
    """One row for each job, and their mean weighted by weight."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for name in ("\njob", "\nweight"):
        table.add_column(name, no_wrap=True)
    for policy in POLICIES:  # narrow: it is to fit in 80 columns
        for name in (f"{policy}\nwaited", "\ndone", "re-\nsized"):
            table.add_column(name, justify="right", no_wrap=True)
    table.add_column("digest; as\nundisturbed?", no_wrap=True)
    for job in JOBS:
        row = [shown[policy][job.name] for policy in POLICIES]
        cells = [cell for s in row for cell in (f"{s.queuing_s:.1f}", f"{s.jct_s:.1f}", str(s.resizes))]
        is_equal = {s.digest for s in row} == {alone[job.name]}
        mark = Text(
            f"{alone[job.name][:8]} {'yes' if is_equal else 'NO'}", style="green" if is_equal else "bold red"
        )
        table.add_row(job.name, str(job.weight), *cells, mark)
    weights = sum(job.weight for job in JOBS)
    means = [sum(job.weight * shown[policy][job.name].jct_s for job in JOBS) / weights for policy in POLICIES]
    table.add_row("mean", "", "", "", f"{means[0]:.1f}", "", "", f"{means[1]:.1f}", "", "", style="bold")
    return table


def main() -> int:
    """Run the demo.

    Returns:
        0 if every job has the digest of its undisturbed run under both policies, 1 if not.
    """
    console = Console(highlight=False)
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    shown = {}
    for policy in POLICIES:
        console.print(Rule(f"[bold]{policy}[/bold]", align="left", style="dim"))
        shown[policy] = share_cluster(console, policy)
        console.print()
    alone = train_undisturbed(console)
    console.print(
        Rule(
            "[bold]three jobs on two devices, seconds from their submission; means by weight[/bold]",
            align="left",
            style="dim",
        )
    )
    console.print(draw_table(shown, alone))
    is_equal = all(shown[policy][job.name].digest == alone[job.name] for policy in POLICIES for job in JOBS)
    console.print()
    console.print(
        "[bold green]Every job has the bits of its undisturbed run[/bold green], however often it was resized."
        if is_equal
        else f"[bold red]Digests differ[/bold red]: look at the runs in {FOLDER}."
    )
    return 0 if is_equal else 1


if __name__ == "__main__":
    sys.exit(main())
