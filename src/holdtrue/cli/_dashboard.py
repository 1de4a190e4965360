"""`holdtrue dashboard`: a web page of jobs, runs and the shared cluster."""

import os
from pathlib import Path
from typing import Annotated

import typer

from holdtrue.dashboard import serve_dashboard
from holdtrue.errors import UsageError
from holdtrue.launch import jobs_folder

from . import _options as options
from ._commands import help_of
from ._say import say

_HELP = (
    "Of a job: mapping, loss, throughput, changes of membership, digests; of a shared cluster: queue and allocation over "
    "time.\n\n"
    "It works offline and is for this machine alone unless `--listen` says otherwise. Looking needs no token; resizing and "
    "stopping a job do."
)


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("dashboard", help=help_of("dashboard", _HELP))(dashboard)


def dashboard(
    runs: Annotated[Path, typer.Option("--runs", metavar="DIR", help="Folder of run directories.")] = Path(
        "runs"
    ),
    cluster: Annotated[
        Path | None,
        typer.Option(
            "--cluster",
            metavar="DIR",
            help="Folder of the cluster. [dim]default: as in `holdtrue cluster`[/dim]",
            show_default=False,
        ),
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option(
            "--listen",
            metavar="HOST[:PORT]",
            help="Address of the page. [dim]default: 127.0.0.1, a free port[/dim]",
        ),
    ] = None,
) -> None:
    """`holdtrue dashboard`; `_HELP` says what it does."""
    from holdtrue.scheduler import cluster_folder

    for name, folder in (("--runs", runs), ("--cluster", cluster)):
        if folder is not None and folder.exists() and not folder.is_dir():
            raise UsageError(
                f"{name} is {folder}, which is a file; it is a folder, and may come later. Name one."
            )
    host, port = options.read_address(listen)
    serve_dashboard(
        jobs=jobs_folder(os.environ),
        runs=runs,
        cluster=cluster_folder(os.environ, cluster),
        host=host,
        port=port,
        say=say,
    )
