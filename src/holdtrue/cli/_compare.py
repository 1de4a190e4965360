"""`holdtrue compare`: where two runs part."""

from pathlib import Path
from typing import Annotated

import typer

from holdtrue.record import RunRecord, compare_runs, read_run

from ._commands import help_of
from ._progress import format_value
from ._say import say_comparison

_HELP = (
    "Also says what differs in their plans and environments. Exit status 0 if they are equal in every bit, "
    "1 if they differ or too little is recorded to show that they are equal, 2 for wrong use."
)


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("compare", help=help_of("compare", _HELP))(compare)


def compare(
    run_a: Annotated[Path, typer.Argument(metavar="RUN_A", help="A run directory.", show_default=False)],
    run_b: Annotated[Path, typer.Argument(metavar="RUN_B", help="Another one.", show_default=False)],
) -> None:
    """`holdtrue compare`; `_HELP` says what it does."""
    a, b = read_run(run_a), read_run(run_b)
    comparison = compare_runs(a, b)
    for letter, path, run in (("a", run_a, a), ("b", run_b, b)):
        typer.echo(typer.style(f"{letter}  ", bold=True) + describe_run(path, run))
    typer.echo()
    raise typer.Exit(say_comparison(comparison))


def describe_run(path: Path, run: RunRecord) -> str:
    """One line on a run. Pure.

    The digest is of the last step that has one, which need not be the last.
    """
    plan = run.plan
    parts = [
        str(path),
        f"{len(run.steps)} step{'s' if len(run.steps) != 1 else ''}",
        f"global batch {plan.global_batch_size} = {plan.virtual_nodes} virtual nodes",
        f"numerics {plan.numerics}",
        f"seed {plan.seed}",
    ]
    if run.steps:
        loss = run.steps[max(run.steps)].loss
        parts += [] if loss is None else [f"loss {format_value(loss)}"]
    if run.digests:
        parts.append(f"digest {run.digests[max(run.digests)].digest[:12]}")
    return " · ".join(parts)
