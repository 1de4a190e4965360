"""`holdtrue logs` and `holdtrue events`: what a job said, from its run directory."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from holdtrue.errors import UsageError
from holdtrue.launch import JobEntry, JobState, find_job, jobs_folder
from holdtrue.wire import escape_text

from . import _options as options
from ._commands import help_of
from ._tail import follow

Follow = Annotated[bool, typer.Option("--follow", "-f", metavar="", help="Go on until the job ends.")]
Job = Annotated[str, typer.Argument(metavar="JOB", help="Name of the job.", show_default=False)]

_LOG_NAME = re.compile(r"worker-(\d+)\.log")


def add_to(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("logs", help=help_of("logs"))(logs)
    app.command("events", help=help_of("events"))(events)


def logs(
    job: Job,
    is_followed: Follow = False,
    worker: Annotated[
        int | None,
        typer.Option(
            "--worker",
            parser=options.read_whole_number,
            metavar="K",
            help="One worker alone, by its number. [dim]default: all, each line with its worker[/dim]",
        ),
    ] = None,
) -> None:
    """`holdtrue logs`."""
    folder = jobs_folder(os.environ)
    entry = _entry_of(folder, job)
    place = Path(entry.run_dir) / "logs"
    if worker is not None and not (place / f"worker-{worker}.log").exists():
        known = ", ".join(str(number) for number in sorted(find_logs(place).values())) or "none"
        raise UsageError(
            f"worker {worker} of {job!r} has no log in {place}; the workers with a log there are {known}. "
            f"Give one of them; a worker that joined from another machine has its log there."
        )

    def found() -> list[Path]:
        return [path for path, number in find_logs(place).items() if worker in (None, number)]

    for path, line in follow(found, goes_on=lambda: is_followed and _runs(folder, job, entry)):
        typer.echo(escape_text(line) if worker is not None else mark_line(path, line))


def find_logs(folder: Path) -> dict[Path, int]:
    """Log files of workers and their numbers, ascending."""
    found = {
        path: int(match[1]) for path in folder.glob("*.log") if (match := _LOG_NAME.fullmatch(path.name))
    }
    return dict(sorted(found.items(), key=lambda item: item[1]))


def mark_line(path: Path, line: str) -> str:
    r"""A line of a log with its worker; safe to show.

    >>> mark_line(Path("logs/worker-12.log"), "loss\x1b[2J")
    '12 | loss\\x1b[2J'
    """
    match = _LOG_NAME.fullmatch(path.name)
    return f"{match[1] if match else path.name} | {escape_text(line)}"


def events(job: Job, is_followed: Follow = False) -> None:
    """`holdtrue events`."""
    folder = jobs_folder(os.environ)
    entry = _entry_of(folder, job)
    for line in read_events(folder, job, entry, is_followed=is_followed):
        typer.echo(line)


def read_events(folder: Path, job: str, entry: JobEntry, *, is_followed: bool) -> Iterator[str]:
    """The events of a job as lines for people."""
    file = Path(entry.run_dir) / "events.jsonl"
    for _, line in follow(lambda: [file], goes_on=lambda: is_followed and _runs(folder, job, entry)):
        if (text := describe_event(line)) is not None:
            yield text


def describe_event(line: str) -> str | None:
    """One line of events.jsonl for people; None for a line that is none.

    >>> describe_event('{"kind": "checkpoint", "step": 8, "reason": "It is due.", "time_s": 0, "generation": 2}')[9:]
    'step 8      generation 2   checkpoint  It is due.'
    """
    try:
        values: Mapping[str, Any] = json.loads(line)  # Any: JSON values
        step = "" if values["step"] is None else f"step {values['step']}"
        clock = datetime.fromtimestamp(float(values["time_s"])).strftime("%H:%M:%S")
        generation = f"generation {values['generation']}"
        return escape_text(f"{clock} {step:<11} {generation:<14} {values['kind']:<11} {values['reason']}")
    except (ValueError, KeyError, TypeError):
        return None


def _entry_of(folder: Path, job: str) -> JobEntry:
    """The entry of a job whose run directory is there.

    Raises:
        UsageError: it is not, or there is no such job.
    """
    entry, _ = find_job(folder, job)
    if not Path(entry.run_dir).is_dir():
        raise UsageError(
            f"the run directory of {job!r}, {entry.run_dir}, is not there any more; logs and events of a job are in it. "
            f"If it was moved, read its logs/ and events.jsonl there."
        )
    return entry


def _runs(folder: Path, job: str, entry: JobEntry) -> bool:
    """Whether the very job of `entry` still runs: a later one may have its name."""
    state: JobState
    now, state = find_job(folder, job)
    return state == "running" and now.started_s == entry.started_s
