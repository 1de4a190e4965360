"""`holdtrue worker --join`: this machine's device for a job that runs elsewhere."""

import os
from pathlib import Path
from typing import Annotated

import typer

from holdtrue.errors import UsageError
from holdtrue.launch import TOKEN_VARIABLE, JobResult, join_job

from . import _options as options
from ._commands import help_of
from ._run import INTERRUPTED
from ._say import say, say_error, say_failures

MOST_WAIT_S = 86_400.0
"""Bound of --wait: a day."""
_HELP = (
    "Asks the job's controller for its script, arguments and settings, and runs one worker; the script must be here too, "
    "at the same path. The job must listen on an address that this machine can reach (`holdtrue run --listen`).\n\n"
    "Under Slurm and Kubernetes this is all that is started, once for each device. "
    "SIGTERM or Ctrl-C lets the worker leave at the next boundary. It runs the script that the controller names, as you: "
    "join jobs that you trust."
)


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("worker", help=help_of("worker", _HELP))(worker)


def worker(
    url: Annotated[
        str,
        typer.Option(
            "--join", metavar="URL", help="Where the job can be joined; it prints that.", show_default=False
        ),
    ],
    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            metavar="D",
            help="cpu, cuda, or one such as cuda:1. [dim]default: the job's kind[/dim]",
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file",
            metavar="FILE",
            help=f"File with the job's token to join. [dim]default: the variable {TOKEN_VARIABLE}[/dim]",
        ),
    ] = None,
    wait: Annotated[
        float,
        typer.Option(
            "--wait",
            parser=options.read_number,
            metavar="SECONDS",
            help="How long the job may take to be there.",
        ),
    ] = 0.0,
) -> None:
    """`holdtrue worker`."""
    from ._screen import open_screen  # rich is loaded when there is something to draw

    check_device(device)
    check_wait(wait)
    token = read_token(token_file, dict(os.environ))
    with open_screen(workers=1) as screen:
        result = join_job(screen, url=url, token=token, device=device, wait_s=wait)
    say_leave(result)
    raise typer.Exit(result.exit_code)


def check_device(device: str | None) -> None:
    """Refuse what is no device.

    Raises:
        UsageError: it is none.
    """
    if device is not None and device.partition(":")[0] not in ("cpu", "cuda", "auto"):
        raise UsageError(
            f"--device is {device!r}; it is cpu, cuda, auto, or one device such as cuda:1. Give one of them."
        )


def check_wait(wait_s: float) -> None:
    """Refuse a wait that is none.

    Raises:
        UsageError: it is none.
    """
    if not 0 <= wait_s <= MOST_WAIT_S:
        raise UsageError(
            f"--wait is {wait_s:g}; it is a number of seconds from 0 to {MOST_WAIT_S:g}. Give such a number."
        )


def read_token(file: Path | None, env: dict[str, str]) -> str:
    """The token, from a file or the environment: never from an argument, which everybody on the machine can read.

    Raises:
        UsageError: there is none.
    """
    if file is None:
        if token := env.get(TOKEN_VARIABLE, "").strip():
            return token
        raise UsageError(
            f"there is no token: neither --token-file nor the variable {TOKEN_VARIABLE} is given, and a job is joined with "
            f"one. Copy the file that `holdtrue run --listen` names, and give it with --token-file."
        )
    return options.read_token_file(file, way_out="Copy the file that `holdtrue run --listen` names.")


def say_leave(result: JobResult) -> None:
    """Print how the worker ended."""
    say_failures(result.failures, workers=len(result.ends))
    if result.reason and result.exit_code == 1:
        say_error(result.reason)
    elif result.exit_code == INTERRUPTED:
        say("the job was stopped" if result.ends else "stopped before there was a job")
    if result.exit_code == 0:
        say(
            f"left the job after {result.seconds:.0f} s"
            if result.ends
            else "the job had no use for this device"
        )
