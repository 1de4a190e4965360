"""What commands say alike, plain or in colour: sentences on stderr, the verdict of a comparison."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import typer

from holdtrue.units import format_ids

if TYPE_CHECKING:  # for `holdtrue --help`, which needs no launcher
    from holdtrue.launch import Failure
    from holdtrue.record import Comparison


def say(text: str) -> None:
    """Print `text` to stderr."""
    typer.echo(text, err=True)


def say_error(text: str) -> None:
    """Print `text` to stderr as an error."""
    typer.echo(typer.style("error: ", fg="red", bold=True) + text, err=True)


def say_comparison(comparison: "Comparison") -> int:
    """Print to stdout whether two runs are equal, and where they part; returns the exit status."""
    verdict, colour = ("EQUAL", "green") if comparison.equal else ("DIFFERENT", "red")
    if not comparison.equal and comparison.first_step is None:
        verdict = "NOT SHOWN TO BE EQUAL"
    typer.echo(typer.style(verdict, fg=colour, bold=True))
    for sentence in comparison.sentences:
        typer.echo(f"  {sentence}")
    return 0 if comparison.equal else 1


def say_failures(failures: "Iterable[Failure]", *, workers: int) -> None:
    """Print each cause of a job's failure once, with its workers and its log."""
    for failure in failures:
        say_error(describe_failure(failure, workers=workers))


def describe_failure(failure: "Failure", *, workers: int) -> str:
    """A cause of a job's failure, for the user. Pure.

    Args:
        failure: The cause.
        workers: Workers of the job; one worker alone needs no number.
    """
    several = len(failure.workers) > 1
    who = f"worker{'s' if several else ''} {format_ids(failure.workers)}"
    log = f"the log is {failure.log}"
    if failure.sentence is None:
        hint = " (an out-of-memory killer does that too)" if "SIGKILL" in failure.how else ""
        how = failure.how.replace("was ", "were ") if several else failure.how
        return f"{who} {how}{hint}; {log}"
    if failure.is_tail:
        indented = "\n".join(f"    {line}" for line in failure.sentence.splitlines())
        return f"{who} {failure.how}; {log}\n{indented}"
    at = f"\n    at {failure.where}" if failure.where else ""
    if len(failure.workers) == workers:
        return failure.sentence + at
    return f"{who}: {failure.sentence} ({log}){at}"
