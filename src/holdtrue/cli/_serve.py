"""`holdtrue serve`: a model over HTTP."""

import importlib.util
import os
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from holdtrue.errors import UsageError
from holdtrue.launch import (
    assign_devices,
    check_name,
    count_cuda_devices,
    jobs_folder,
    name_of_script,
    new_run_dir,
    torch_has_cuda,
)

from . import _options as options
from ._commands import help_of
from ._predict import Model, Weights
from ._say import say

_HELP = (
    "A request's answer has the same bits whatever it is batched with, wherever it stands in the batch and whatever fills the "
    "batch up. Workers can come, go and die without a failed request: `holdtrue status`, `resize`, `events`, `logs` and `stop` "
    "work as for a training job."
)


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("serve", help=help_of("serve", _HELP))(serve)


def serve(
    model: Model,
    weights: Weights = None,
    example: Annotated[
        Path | None,
        typer.Option(
            "--example", metavar="DATA", help="Data file whose first row shows what one example looks like."
        ),
    ] = None,
    tokens: Annotated[
        int,
        typer.Option(
            "--tokens",
            parser=options.read_whole_number,
            metavar="N",
            help="Tokens of a text: longer ones are cut, shorter ones filled up.",
        ),
    ] = 128,
    pass_size: Annotated[
        int,
        typer.Option(
            "--pass-size", parser=options.read_whole_number, metavar="B", help="Examples in a pass."
        ),
    ] = 8,
    virtual_nodes: Annotated[
        int,
        typer.Option(
            "--virtual-nodes",
            parser=options.read_whole_number,
            metavar="V",
            help="Passes that may be under way at once; as many workers are useful.",
        ),
    ] = 16,
    workers: Annotated[
        int, typer.Option("--workers", parser=options.read_whole_number, metavar="N", help="Processes.")
    ] = 1,
    numerics: Annotated[
        str,
        typer.Option(
            "--numerics",
            metavar="exact|fast",
            help="exact: passes of one shape. fast: passes of what waits, whose bits depend on the load.",
        ),
    ] = "exact",
    queue: Annotated[
        int,
        typer.Option(
            "--queue",
            parser=options.read_whole_number,
            metavar="N",
            help="Requests that may be inside at once; more are answered 429.",
        ),
    ] = 256,
    timeout: Annotated[
        float,
        typer.Option("--timeout", parser=options.read_number, metavar="SECONDS", help="Bound of a request."),
    ] = 30.0,
    pass_timeout: Annotated[
        float,
        typer.Option(
            "--pass-timeout",
            parser=options.read_number,
            metavar="SECONDS",
            help="Bound of a pass; a worker that takes longer is ended, and others compute it.",
        ),
    ] = 20.0,
    start_timeout: Annotated[
        float,
        typer.Option(
            "--start-timeout",
            parser=options.read_number,
            metavar="SECONDS",
            help="Bound of a worker's start.",
        ),
    ] = 300.0,
    audit_every: Annotated[
        int,
        typer.Option(
            "--audit-every",
            parser=options.read_whole_number,
            metavar="N",
            help="Compute every N-th pass again at other positions, and compare; 0 for none.",
        ),
    ] = 1000,
    listen: Annotated[
        str | None,
        typer.Option(
            "--listen",
            metavar="HOST[:PORT]",
            help="Address to serve on. [dim]default: 127.0.0.1, a free port[/dim]",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Name, for status and stop.")
    ] = None,
    device: options.Device = None,
    threads: options.Threads = None,
) -> None:
    """`holdtrue serve`; `_HELP` says what it does."""
    if importlib.util.find_spec("prometheus_client") is None:
        raise UsageError(
            "serving needs prometheus_client, which is not installed. Install the extra: holdtrue[serve]."
        )
    # numpy is loaded when there is something to serve
    from holdtrue.serving import Place, ServeSettings, check_model_path
    from holdtrue.serving import serve as serve_model

    overrides = options.Overrides(device=device, threads=threads)
    check_model_path(model)
    wanted = overrides.device or "auto"
    cuda = count_cuda_devices(os.environ) if wanted != "cpu" and torch_has_cuda() else 0
    devices = assign_devices(wanted, max(1, cuda), cuda)
    settings = ServeSettings(
        model=model,
        weights=str(weights) if weights is not None else None,
        example=str(example) if example is not None else None,
        tokens=tokens,
        virtual_nodes=virtual_nodes,
        pass_size=pass_size,
        numerics=cast(Literal["exact", "fast"], numerics),
        workers=workers,
        threads=overrides.threads or 1,
        device=devices[0].partition(":")[0],
        queue=queue,
        timeout_s=timeout,
        pass_timeout_s=pass_timeout,
        start_timeout_s=start_timeout,
        audit_every=audit_every,
    )
    host, port = options.read_address(listen)
    chosen = check_name(name) if name is not None else name_of_script(model.partition(":")[0].rstrip("/"))

    serve_model(
        settings,
        Place(
            jobs=jobs_folder(os.environ),
            name=chosen,
            is_name_given=name is not None,
            run_dir=new_run_dir(Path("runs"), chosen, datetime.now()),
            host=host,
            port=port,
            devices=devices,
        ),
        say,
    )
