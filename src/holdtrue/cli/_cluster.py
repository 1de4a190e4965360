"""`holdtrue cluster start`, `stop`, `policy` and `log`: the scheduler of a shared cluster."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from holdtrue.errors import UsageError
from holdtrue.units import reason_of

from . import _options as options
from ._commands import help_of
from ._places import write_text
from ._policies import LIVE_POLICIES
from ._say import say

Folder = Annotated[
    Path | None,
    typer.Option(
        "--dir",
        metavar="DIR",
        help="Folder of the cluster. [dim]default: HOLDTRUE_CLUSTER, or one among your state files[/dim]",
        show_default=False,
    ),
]


def add_to(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    group = typer.Typer(
        name="cluster",
        help=help_of("cluster"),
        no_args_is_help=True,
        rich_markup_mode="rich",
    )
    group.command("start", help="Start the scheduler of a cluster of this machine's devices, or of Ray's.")(
        start
    )
    group.command("stop", help="End the scheduler. Jobs go on and are found again at the next start.")(stop)
    group.command("policy", help="Decide by another policy from now on.")(policy)
    group.command("log", help="Write the log of decisions, or decide again about it and compare.")(log)
    app.add_typer(group)


def start(
    devices: Annotated[
        str,
        typer.Option(
            "--devices",
            metavar="LIST",
            help="Devices, such as cpu:2. [dim]default: those it had[/dim]",
            show_default=False,
        ),
    ] = "",
    policy_name: Annotated[
        str,
        typer.Option(
            "--policy",
            metavar="NAME",
            help=f"Who gets which devices: {', '.join(LIVE_POLICIES)}. [dim]default: the one it had, or wfs[/dim]",
            show_default=False,
        ),
    ] = "",
    queue: Annotated[
        str,
        typer.Option(
            "--queue",
            metavar="NAME=N,...",
            help="Queues and their guaranteed devices, for the policy queues.",
            show_default=False,
        ),
    ] = "",
    engine: Annotated[
        str,
        typer.Option(
            "--engine",
            metavar="NAME",
            help="What runs the jobs: embedded (processes of this machine) or ray. [dim]default: the one it had, or "
            "embedded[/dim]",
            show_default=False,
        ),
    ] = "",
    address: Annotated[
        str,
        typer.Option(
            "--address",
            metavar="HOST:PORT",
            help="Ray cluster that runs, with this machine as a node. [dim]default: one is started here[/dim]",
            show_default=False,
        ),
    ] = "",
    listen: Annotated[
        str,
        typer.Option(
            "--listen",
            metavar="ADDRESS",
            help="Address on which jobs listen for workers on other nodes of Ray; in a private network only. "
            "[dim]default: this machine alone[/dim]",
            show_default=False,
        ),
    ] = "",
    memory: Annotated[
        str,
        typer.Option(
            "--memory",
            metavar="SIZE",
            help="Memory that goes with one CPU slot, such as 8GiB: a job of a part of it has that part. "
            "[dim]default: what it had, or the machine's, divided by the slots[/dim]",
            show_default=False,
        ),
    ] = "",
    folder: Folder = None,
    in_foreground: Annotated[
        bool, typer.Option("--foreground", metavar="", help="Be the scheduler, and do not return.")
    ] = False,
) -> None:
    """`holdtrue cluster start`."""
    from holdtrue.cluster import find_live_policy, parse_cluster
    from holdtrue.scheduler import (
        check_devices,
        choose_engine,
        cluster_folder,
        cuda_here,
        serve_cluster,
        start_cluster,
    )
    from holdtrue.solve import parse_size

    if queue and not devices:
        raise UsageError("--queue is given and --devices is not; guarantees are parts of devices. Give both.")
    choice = choose_engine(engine, address=address, listen=listen)
    if devices:
        check_devices(devices, queue, len(os.sched_getaffinity(0)), choice, cuda_here(os.environ))
    if policy_name:
        find_live_policy(policy_name)
    memory_bytes = parse_size(memory) if memory else None
    if memory_bytes is not None and memory_bytes < 1:
        raise UsageError(f"--memory is {memory}; a device has 1 byte or more. Write --memory 8GiB.")
    place = cluster_folder(os.environ, folder)
    if in_foreground:
        named = parse_cluster(devices, queue) if devices else None
        serve_cluster(place, named, policy_name or None, choice, memory_bytes)
        return
    client = start_cluster(
        place, devices=devices, queues=queue, policy=policy_name, engine=choice, memory_bytes=memory_bytes
    )
    facts = client.queue("open", most=1)
    held = ",".join(f"{kind}:{count}" for kind, count in facts["devices"].items())
    say(f"cluster of {held} · policy {facts['policy']} · process {client.address.pid} · {place}")


def stop(
    folder: Folder = None,
    ends_jobs: Annotated[
        bool,
        typer.Option(
            "--jobs", metavar="", help="End running jobs too, with checkpoints: they go on at the next start."
        ),
    ] = False,
    wait_s: Annotated[
        float,
        typer.Option(
            "--timeout",
            parser=options.read_number,
            metavar="SECONDS",
            help="How long to wait for the end. [dim]default: 300[/dim]",
            show_default=False,
        ),
    ] = 300.0,
) -> None:
    """`holdtrue cluster stop`."""
    from holdtrue.scheduler import ClusterClient, cluster_folder

    running = ClusterClient(cluster_folder(os.environ, folder)).stop(ends_jobs=ends_jobs, wait_s=wait_s)
    names = ", ".join(running)
    rest = (
        "no job was running"
        if not running
        else f"{names}: stopped with a checkpoint"
        if ends_jobs
        else f"{names}: going on"
    )
    say(f"the scheduler has ended; {rest}")


def policy(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help=f"{', '.join(LIVE_POLICIES)}.", show_default=False)
    ],
    folder: Folder = None,
) -> None:
    """`holdtrue cluster policy`."""
    from holdtrue.scheduler import ClusterClient, cluster_folder

    say(ClusterClient(cluster_folder(os.environ, folder)).choose_policy(name))


def log(
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write it as JSON lines.", show_default=False),
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option(
            "--replay", metavar="FILE", help="Decide again about a written log.", show_default=False
        ),
    ] = None,
    folder: Folder = None,
) -> None:
    """`holdtrue cluster log`."""
    from holdtrue.cluster import record_to_values
    from holdtrue.scheduler import ClusterClient, cluster_folder

    if replay is not None and out is not None:
        raise UsageError(
            "--replay and --out were both given; one reads a log that was written, the other writes that of the cluster. "
            "Give one of them."
        )
    if replay is not None:
        _replay(replay)
        return
    records = ClusterClient(cluster_folder(os.environ, folder)).log()
    text = "".join(json.dumps(record_to_values(record)) + "\n" for record in records)
    if out is None:
        typer.echo(text, nl=False)
        return
    write_text(out, text)
    say(f"wrote {len(records)} events to {out}")


def _replay(path: Path) -> None:
    from holdtrue.cluster import read_log, replay_schedule

    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path} cannot be read ({reason_of(error)}). Write it with `holdtrue cluster log --out`."
        ) from None
    found = replay_schedule(read_log(text, path.name))
    for difference in found.differences:
        say(difference)
    say(f"{found.decisions} decisions, {len(found.differences)} of them differ")
    raise typer.Exit(1 if found.differences else 0)
