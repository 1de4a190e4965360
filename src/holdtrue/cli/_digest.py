"""`holdtrue digest`: what a colleague on other hardware must get."""

import importlib.metadata
import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from holdtrue.errors import UsageError
from holdtrue.record import RunRecord, compare_runs, describe_expectation, read_expectation, read_run

from ._commands import help_of
from ._say import say_comparison

_HELP = (
    "Says the plan, the digest and how to compare; with --json everything in one file, step by step and tensor by tensor. "
    "With --against it compares the run with such a file.\n\n"
    "Exit status 0, with --against 1 if they differ or too little is recorded to show that they are equal, 2 for "
    "wrong use."
)
HOLDS = {
    "portable": "x86 processors of any kind, any number of workers and threads (CUDA: not yet measured)",
    "exact": "devices of the same type with the same build of torch and number of threads, any number of workers",
    "fast": "nothing: numerics fast promises no bits",
}
"""Where the digest of a level must come out the same."""


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("digest", help=help_of("digest", _HELP))(digest)


def digest(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.", show_default=False)],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, to be kept in a file for --against.")
    ] = False,
    against: Annotated[
        Path | None,
        typer.Option("--against", metavar="FILE", help="Compare the run with what --json printed elsewhere."),
    ] = None,
) -> None:
    """`holdtrue digest`; `_HELP` says what it does."""
    if as_json and against is not None:
        raise UsageError(
            "--json and --against were both given; one prints a file, the other reads one. Give one."
        )
    record = read_run(run)
    if against is not None:
        raise typer.Exit(_compare(record, against))
    found = describe_expectation(record, version=importlib.metadata.version("holdtrue"))
    if as_json:
        typer.echo(json.dumps(found))
        return
    for name, value in lines_of(record):
        typer.echo(f"{typer.style(f'{name:10}', bold=True)} {value}")


def lines_of(run: RunRecord) -> list[tuple[str, str]]:
    """What to tell a colleague, as names and values. Pure.

    Args:
        run: A run with a digest.
    """
    plan, last = run.plan, max(run.digests)
    sizes = f"global batch {plan.global_batch_size} = {plan.virtual_nodes} virtual nodes"
    end = max(run.steps, default=-1)
    after = f"after step {last}" if last >= 0 else "before the first step"
    short = "" if last >= end else f" (the run went on to step {end}: --digest-every 1 has each)"
    return [
        ("run", run.name),
        ("plan", f"{sizes} · numerics {plan.numerics} · seed {plan.seed}"),
        ("digest", run.digests[last].digest),
        ("", f"{after}{short}"),
        ("holds on", HOLDS[plan.numerics]),
        ("compare", f"here: holdtrue digest {run.name} --json > expected.json"),
        ("", "there: the same script, data and plan with holdtrue run --run-dir RUN --digest-every 1, then"),
        ("", "       holdtrue digest RUN --against expected.json"),
    ]


def _compare(run: RunRecord, file: Path) -> int:
    """Say whether a run is what a file expects; the exit status."""
    expected = replace(read_expectation(file), environment=run.environment)
    return say_comparison(compare_runs(expected, run))
