"""`holdtrue plot`: curves of runs, from their records."""

from pathlib import Path
from typing import Annotated

import typer

from holdtrue.errors import UsageError
from holdtrue.record import read_run

from . import _options as options
from ._commands import help_of
from ._places import check_place, unwritable

ENDINGS = (".png", ".svg")
_HELP = (
    "Reads the run directories, also while a run writes to them. A grey line marks a change of the membership, "
    "a dotted one virtual nodes that moved."
)


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("plot", help=help_of("plot", _HELP))(plot)


def plot(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run directories.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="A .png or .svg file to write.")] = Path(
        "runs.png"
    ),
    smooth: Annotated[
        int,
        typer.Option(
            "--smooth",
            parser=options.read_whole_number,
            metavar="STEPS",
            help="Steps whose median is drawn for the throughput.",
        ),
    ] = 9,
) -> None:
    """`holdtrue plot`; `_HELP` says what it does."""
    if out.suffix not in ENDINGS:
        raise UsageError(f"--out is {out}; a picture ends in {' or '.join(ENDINGS)}. Name such a file.")
    check_place(out)
    if smooth < 1:
        raise UsageError(f"--smooth is {smooth}; it is a number of steps, 1 or more. Give such a number.")
    from ._plot_view import curves_of, draw_runs  # matplotlib is loaded when there is something to draw

    curves = [curves_of(read_run(path), smooth) for path in runs]
    empty = next((c.name for c in curves if not c.steps), None)
    if empty is not None:
        raise UsageError(
            f"{empty} has no step yet; there is nothing to draw. Wait for its first, or leave it out."
        )
    try:
        draw_runs(curves, out)
    except OSError as problem:
        raise unwritable(out, problem.strerror or problem) from problem
    typer.echo(str(out))
