"""`holdtrue submit`, `queue` and `cancel`: jobs of a shared cluster."""

import json
import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from ._cluster import Folder
from ._commands import help_of
from ._say import say


def add_to(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("submit", help=help_of("submit"))(submit)
    app.command("queue", help=help_of("queue"))(queue)
    app.command("cancel", help=help_of("cancel"))(cancel)


def submit(
    files: Annotated[
        list[Path], typer.Argument(metavar="JOB.toml...", help="A file for each job.", show_default=False)
    ],
    folder: Folder = None,
) -> None:
    """`holdtrue submit`."""
    from holdtrue.scheduler import ClusterClient, cluster_folder, read_job_file

    requests = [read_job_file(path) for path in files]
    names = ClusterClient(cluster_folder(os.environ, folder)).submit(requests)
    say(f"submitted {', '.join(names)}")


def queue(
    folder: Folder = None,
    shows_all: Annotated[
        bool, typer.Option("--all", "-a", metavar="", help="Jobs that are over too.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Facts for programs, as JSON.")] = False,
) -> None:
    """`holdtrue queue`."""
    from holdtrue.scheduler import ClusterClient, cluster_folder

    facts = ClusterClient(cluster_folder(os.environ, folder)).queue("all" if shows_all else "open")
    if as_json:
        typer.echo(json.dumps(facts, indent=1))
        return
    typer.echo("\n".join(describe_queue(facts, now_s=time.time(), shows_all=shows_all)))


def cancel(
    job: Annotated[str, typer.Argument(metavar="JOB", help="Name of the job.", show_default=False)],
    folder: Folder = None,
) -> None:
    """`holdtrue cancel`."""
    from holdtrue.scheduler import ClusterClient, cluster_folder

    say(ClusterClient(cluster_folder(os.environ, folder)).cancel(job))


def describe_queue(facts: dict[str, Any], *, now_s: float, shows_all: bool) -> list[str]:  # Any: JSON values
    """Lines of `holdtrue queue`. Pure."""
    jobs, over = (
        facts["jobs"],
        sum(facts["counts"].get(state, 0) for state in ("finished", "failed", "cancelled")),
    )
    rest = "" if shows_all or not over else f"{over} over; `holdtrue queue --all` shows them too"
    held = ",".join(f"{kind}:{count}" for kind, count in facts["devices"].items())
    is_idle = not any(facts["counts"].get(state, 0) for state in ("waiting", "running"))
    reason = "no jobs wait or run" if is_idle else facts["reason"]
    head = f"cluster of {held} · policy {facts['policy']}" + (f" · {reason}" if reason else "")
    head += f"\n{facts['trouble']}" if facts.get("trouble") else ""
    if not jobs:
        return [head, *([rest] if rest else [])]
    rows: list[tuple[str, ...]] = [("JOB", "STATE", "DEVICES", "WEIGHT", "STEP", "AGE", "")]
    rows += [_row(job, now_s) for job in jobs]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    return [
        head,
        *(
            "  ".join([*(c.ljust(w) for c, w in zip(row[:-1], widths, strict=True)), row[-1]]).rstrip()
            for row in rows
        ),
        *([rest] if rest else []),
    ]


def _row(job: dict[str, Any], now_s: float) -> tuple[str, ...]:  # Any: JSON values
    bounds = f"{job['min_devices']}-{job['max_devices']}"
    given = f"{job['devices']} of {bounds}" if job["percent"] == 100 else f"{job['percent']}% of one"
    present = job["workers"]
    moving = f" (now {present})" if present is not None and present != job["devices"] else ""
    step = (
        "" if job["step"] is None else f"{job['step']}/{job['total']}" if job["total"] else str(job["step"])
    )
    age_s = (job["ended_s"] or now_s) - job["submitted_s"]
    state = "ending" if job["purpose"] and job["state"] == "running" else job["state"]
    return (job["name"], state, given + moving, f"{job['weight']:g}", step, f"{age_s:.0f} s", job["ending"])
