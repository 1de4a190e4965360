"""`holdtrue status`, `resize` and `stop`: looking at a running job, and changing it."""

import json
import os
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from holdtrue.dashboard import Observatory
from holdtrue.elastic import ControlClient, read_tokens
from holdtrue.errors import GroupError, UsageError
from holdtrue.launch import JobEntry, JobState, find_job, jobs_folder, list_jobs

from . import _options as options
from ._commands import help_of
from ._curves_view import describe_curves
from ._logs import Job
from ._say import say
from ._status_view import describe_entry, describe_job, describe_jobs

_WATCH_EVERY_S = 1.0
_STOP_LOOK_S = 0.1
RESIZE_WAIT_S = 600.0
"""How long `resize --wait` waits: a worker that starts has 300 s, and joins at a step boundary."""
_CLEAR = "\x1b[H\x1b[2J"
"""Home, and clear the screen."""


def add_to(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("status", help=help_of("status"))(status)
    app.command("resize", help=help_of("resize"))(resize)
    app.command("stop", help=help_of("stop"))(stop)


def status(
    job: Annotated[
        str | None, typer.Argument(metavar="JOB", help="Name of the job.", show_default=False)
    ] = None,
    is_watched: Annotated[
        bool,
        typer.Option(
            "--watch",
            "-w",
            metavar="",
            help="Show it anew every second until it ends, with its curves.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Facts for programs, as JSON.")] = False,
) -> None:
    """`holdtrue status`."""
    folder = jobs_folder(os.environ)
    if job is None:
        typer.echo("\n".join(describe_jobs(list_jobs(folder), time.time())))
        return
    entry, state = find_job(folder, job)
    observatory = Observatory(jobs=folder, runs=Path("runs"))
    while is_watched and state == "running" and not as_json:
        columns = shutil.get_terminal_size((80, 24)).columns
        drawn = describe_curves(observatory.view(f"job/{job}"), columns=columns)
        shown = "\n".join([_look(entry, state, as_json=False), *drawn])
        typer.echo(_CLEAR * sys.stdout.isatty() + shown)
        time.sleep(_WATCH_EVERY_S)
        entry, state = find_job(folder, job)
    typer.echo(_look(entry, state, as_json=as_json))


def _look(entry: JobEntry, state: JobState, *, as_json: bool) -> str:
    facts: Mapping[str, Any] | None = None  # Any: JSON values
    trouble = ""
    if state == "running":
        try:
            facts = client_of(entry, "read").job()
        except GroupError as error:
            trouble = str(error)
    if as_json:
        own = {"name": entry.name, "state": state, "run_dir": entry.run_dir, "ending": entry.ending}
        return json.dumps(own | {"job": facts, "trouble": trouble or None}, indent=1)
    if facts is None:
        return "\n".join([*describe_entry(entry, state), *([trouble] if trouble else [])])
    return "\n".join(describe_job(entry, facts))


def resize(
    job: Job,
    workers: Annotated[
        int,
        typer.Argument(
            parser=options.read_whole_number, metavar="N", help="Workers from then on.", show_default=False
        ),
    ],
    is_waiting: Annotated[
        bool, typer.Option("--wait", metavar="", help="Return when the job has them, or cannot have them.")
    ] = False,
) -> None:
    """`holdtrue resize`."""
    if workers < 1:
        raise UsageError(
            f"N is {workers}; a job has at least 1 worker. To end it, use `holdtrue stop {job}`."
        )
    entry = living(job)
    client = client_of(entry, "admin")
    say(client.resize(workers))
    if words := describe_no_room(client.job(), entry.url):
        say(f"note: {words}")
    until_s = time.monotonic() + RESIZE_WAIT_S
    while is_waiting and not has_workers(facts := client.job(), workers):
        if facts["phase"] in ("finished", "stopped", "failed"):
            raise GroupError(f"the job ended before it had {workers} workers: {facts['reason']}")
        if facts["target"] == workers and has_all_it_can(facts):
            raise GroupError(f"{describe_no_room(facts, entry.url)} The job still aims at {workers} workers.")
        if facts["target"] != workers:
            raise GroupError(
                f"the job is on its way to {facts['target']} workers and not to {workers} any more: another resize, or a "
                f"death, came after. See `holdtrue events {job}`."
            )
        if time.monotonic() > until_s:
            raise GroupError(
                f"the job has not become {workers} workers within {RESIZE_WAIT_S:g} s; it still aims at them, and trains on. "
                f"See `holdtrue status {job}` for what it waits for."
            )
        time.sleep(_STOP_LOOK_S)


def has_workers(facts: Mapping[str, Any], workers: int) -> bool:  # Any: JSON values
    """Whether the job's present view has so many members, and all of them stand in it. Pure."""
    members = [worker for worker in facts["workers"] if worker["rank"] is not None]
    entered = [worker for worker in members if worker["generation"] >= facts["generation"]]
    return bool(facts["target"] == workers == len(members) == len(entered))


def has_all_it_can(facts: Mapping[str, Any]) -> bool:  # Any: JSON values
    """Whether workers find no room, and nobody comes any more, or goes and leaves some. Pure."""
    placed = facts["target"] - facts["unplaced"]
    return bool(
        facts["unplaced"]
        and len(facts["workers"]) == placed
        and has_workers({**facts, "target": placed}, placed)
    )


def describe_no_room(facts: Mapping[str, Any], url: str) -> str:  # Any: JSON values
    """What to say where workers that the job is to have find no room; empty if all do. Pure."""
    if not facts["unplaced"]:
        return ""
    return (
        f"{facts['unplaced']} of {facts['target']} workers find no room now: add a device with "
        f"`holdtrue worker --join {url}`, or ask for fewer."
    )


def stop(
    job: Job,
    wait_s: Annotated[
        float,
        typer.Option(
            "--timeout",
            parser=options.read_number,
            metavar="SECONDS",
            help="How long to wait for the end: a step, and a checkpoint. [dim]default: 300[/dim]",
            show_default=False,
        ),
    ] = 300.0,
) -> None:
    """`holdtrue stop`."""
    folder = jobs_folder(os.environ)
    entry = living(job)
    say(client_of(entry, "admin").stop(f"`holdtrue stop` by process {os.getpid()}"))
    until_s = time.monotonic() + wait_s
    state: JobState = "running"
    while state == "running" and time.monotonic() < until_s:
        time.sleep(_STOP_LOOK_S)
        now, state = find_job(folder, job)
        if now.started_s != entry.started_s:
            return  # it ended, and another one has its name
    if state == "running":
        raise GroupError(
            f"the job {job!r} still runs after {wait_s:g} s; it ends at its next boundary. Wait on with "
            f"`holdtrue status {job} --watch`, or send its launcher (process {entry.pid}) SIGINT twice, which kills the workers."
        )
    say("\n".join(describe_entry(*find_job(folder, job))))


def living(job: str) -> JobEntry:
    """The entry of a job that runs.

    Raises:
        UsageError: it does not.
    """
    entry, state = find_job(jobs_folder(os.environ), job)
    if state == "running":
        return entry
    if state == "elsewhere":
        raise UsageError(
            f"the job {job!r} runs on {entry.host}, and its controller can be asked there. Give the command on that machine."
        )
    how = entry.ending or "its launcher was killed."
    out = f" Go on with it by `{entry.resume_command}`." if entry.can_go_on else ""
    raise UsageError(f"the job {job!r} runs no more: {how}{out}")


def client_of(entry: JobEntry, scope: str) -> ControlClient:
    """Who can be asked about a job, with the token of a scope.

    Raises:
        UsageError: the tokens cannot be read.
    """
    return ControlClient(url=entry.url, token=read_tokens(Path(entry.token_file)).by_scope[scope])
