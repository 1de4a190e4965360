"""`holdtrue run`: a job on this machine."""

import os
import shlex
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, final

import typer

from holdtrue.elastic import MOST_WORKERS
from holdtrue.errors import UsageError
from holdtrue.launch import (
    JobEntry,
    JobResult,
    JobSpec,
    check_name,
    count_devices,
    launch_elastic_job,
    name_of_script,
    new_run_dir,
    newest_run_dir,
)
from holdtrue.record import read_plan
from holdtrue.wire import Setting

from . import _options as options
from ._commands import help_of
from ._say import say, say_error, say_failures
from ._start import begin_at, format_devices

INTERRUPTED = 130
"""Exit code of a job that was asked to end."""
RUNS = Path("runs")
"""Folder of run directories that nobody named."""

_FOLDER = "Run directory"
_HELP = (
    "The result does not depend on the number of workers: the plan says what is computed, the mapping only "
    "where. The script calls holdtrue.init.\n\n"
    "Ctrl-C stops the job at the next step boundary with a checkpoint; --resume goes on from there.\n\n"
    "Exit status: 0 when all is done, 1 after an error, 2 for wrong input, 130 after Ctrl-C or `holdtrue stop`, otherwise "
    "the script's own."
)


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""
    # Everything after the script is the script's, options included.
    app.command("run", help=help_of("run", _HELP), context_settings={"allow_interspersed_args": False})(run)


def run(
    script: options.Script,
    arguments: options.Arguments = None,
    workers: options.Workers = None,
    restart: options.Restart = 0,
    listen: options.Listen = None,
    token_file: options.TokenFile = None,
    device: options.Device = None,
    devices: options.DeviceList = None,
    profile: options.Profiles = None,
    memory: options.Memory = None,
    rebalance: options.Rebalance = None,
    threads: options.Threads = None,
    mapping: Annotated[
        str | None,
        typer.Option(
            "--mapping",
            metavar="IDS/IDS/...",
            help="Virtual nodes of each worker, such as 0-7/8-11/12-15. [dim]default: even[/dim]",
            rich_help_panel="Devices",
        ),
    ] = None,
    virtual_nodes: options.VirtualNodesOrAuto = None,
    global_batch_size: options.GlobalBatchSize = None,
    seed: options.Seed = None,
    numerics: options.Numerics = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            metavar="JOB",
            help="Name of the job: a-z, 0-9 and -. [dim]default: the script's[/dim]",
            rich_help_panel=_FOLDER,
        ),
    ] = None,
    run_dir: Annotated[
        Path | None,
        typer.Option(
            "--run-dir",
            metavar="DIR",
            help="Folder for records, checkpoints and logs. [dim]default: runs/NAME-DATE-TIME[/dim]",
            rich_help_panel=_FOLDER,
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            metavar="",
            help="Go on from the last checkpoint in --run-dir, or in the newest run of that name. A --run-dir without a run "
            "begins one, with a note.",
            rich_help_panel=_FOLDER,
        ),
    ] = False,
    checkpoint_every: Annotated[
        int | None,
        typer.Option(
            "--checkpoint-every",
            parser=options.read_whole_number,
            metavar="STEPS",
            help="Steps between checkpoints; 0 for one at the end only. [dim]default: 100[/dim]",
            rich_help_panel=_FOLDER,
        ),
    ] = None,
    keep_checkpoints: Annotated[
        int | None,
        typer.Option(
            "--keep-checkpoints",
            parser=options.read_whole_number,
            metavar="N",
            help="Newest checkpoints that are kept. [dim]default: 3[/dim]",
            rich_help_panel=_FOLDER,
        ),
    ] = None,
    digest_every: Annotated[
        int | None,
        typer.Option(
            "--digest-every",
            parser=options.read_whole_number,
            metavar="STEPS",
            help="Steps between digests of the training state; 0 for none. [dim]default: 100[/dim]",
            rich_help_panel=_FOLDER,
        ),
    ] = None,
    timeout: options.Timeout = None,
    non_finite: options.NonFinite = None,
    config: options.Config = None,
    elsewhere: Annotated[bool, typer.Option("--elsewhere", hidden=True)] = False,
) -> None:
    """`holdtrue run`; `_HELP` says what it does."""
    nodes = options.read_virtual_nodes(virtual_nodes)
    overrides = options.Overrides(
        virtual_nodes=nodes,
        global_batch_size=global_batch_size,
        seed=seed,
        numerics=numerics,
        device=device,
        threads=threads,
        timeout=timeout,
        non_finite=non_finite,
        config=config,
    )
    cadence = {
        "checkpoint_every": checkpoint_every,
        "keep_checkpoints": keep_checkpoints,
        "digest_every": digest_every,
    }
    given = overrides.settings() | check_cadence(cadence)
    given |= {} if rebalance is None else {"rebalance": rebalance}
    is_auto = virtual_nodes == options.AUTO
    if is_auto and resume and (frozen := frozen_plan(script, name, run_dir, given)):
        is_auto, given = False, frozen | given  # the solver's number was chosen when the run began
        nodes = int(given["virtual_nodes"])
    start = begin_at(
        devices,
        profile,
        memory,
        is_auto=is_auto,
        device=device,
        workers=None if workers is None else workers.start,
        mapping=mapping,
        given=given,
    )
    if start is not None:
        given = rebalance_by_default(given, has_mapping=mapping is not None) | given
        mapping = start.mapping or mapping
        workers = replace(workers or options.ONE_WORKER, start=len(start.devices))
        nodes = start.virtual_nodes or nodes
        given = given | start.settings()
    request = RunRequest(
        script=script,
        arguments=tuple(arguments or ()),
        workers=options.choose_workers(workers, mapping, nodes),
        mapping=mapping,
        devices=start.devices if start is not None else None,
        expected=start.expected if start is not None else None,
        costs=start.costs if start is not None else None,
        start_words=start_words(devices, profile, memory) if profile else (),
        restarts=options.check_not_negative("--restart", restart),
        listen=listen,
        token_file=token_file,
        is_elsewhere=elsewhere,
        settings=given,
        name=check_name(name) if name is not None else None,
        run_dir=run_dir,
        resume=resume,
    )
    raise typer.Exit(run_job(request))


def frozen_plan(
    script: str, name: str | None, run_dir: Path | None, given: dict[str, Setting]
) -> dict[str, Setting]:
    """Virtual nodes and global batch size of the run that `--resume` goes on with; empty if it has not begun.

    Raises:
        UsageError: there is no such run, or its plan cannot be read.
    """
    force = options.settings_in_force(given, dict(os.environ))
    folder = run_dir or (Path(str(force["run_dir"])) if force.get("run_dir") else None)
    folder = folder or newest_run_dir(RUNS, name or name_of_script(script))
    if not (folder / "plan.json").exists():
        return {}
    plan = read_plan(folder / "plan.json")
    return {"virtual_nodes": plan.virtual_nodes, "global_batch_size": plan.global_batch_size}


def rebalance_by_default(given: dict[str, Setting], *, has_mapping: bool) -> dict[str, Setting]:
    """The setting `rebalance` of a job whose devices are named, unless something else says it: a mapping of the user's
    own stays."""
    if "rebalance" in options.settings_in_force(given, dict(os.environ)):
        return {}
    return {"rebalance": not has_mapping}


def start_words(
    devices: str | None, profiles: list[Path] | None, memory: list[str] | None
) -> tuple[str, ...]:
    """The options again, as words of a command. Pure."""
    named = [("--devices", devices)] if devices else []
    named += [("--profile", str(path)) for path in profiles or ()]
    named += [("--memory", text) for text in memory or ()]
    return tuple(word for pair in named for word in pair)


def check_cadence(values: dict[str, int | None]) -> dict[str, Setting]:
    """The given numbers of steps and checkpoints.

    Raises:
        UsageError: one is too small.
    """
    for name, value in values.items():
        least = 1 if name == "keep_checkpoints" else 0
        if value is not None and value < least:
            raise UsageError(
                f"--{name.replace('_', '-')} is {value}; it must be {least} or more. Give such a number."
            )
    return {name: value for name, value in values.items() if value is not None}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """What the command line of `holdtrue run` asks for."""

    script: str
    arguments: tuple[str, ...]
    workers: options.WorkerRange
    mapping: str | None
    settings: dict[str, Setting]
    """Given settings, the run directory and `resume` left out."""
    devices: tuple[str, ...] | None = None
    """The device of each worker; None assigns those of `--device`."""
    expected: str | None = None
    """What the profile of the mapping was measured with."""
    costs: str | None = None
    """The profile and the limits of memory, for re-mapping."""
    start_words: tuple[str, ...] = ()
    """The options from which devices and mapping came, where that was a profile."""
    name: str | None
    """None for the script's, made unique."""
    run_dir: Path | None
    resume: bool
    restarts: int = 0
    listen: str | None = None
    """`HOST` or `HOST:PORT`; None for this machine alone."""
    token_file: Path | None = None
    """File with the token to join; None makes one."""
    is_elsewhere: bool = False
    """Whether workers run on hosts that join alone: for the cluster's scheduler, which brings them."""


def run_job(request: RunRequest) -> int:
    """Run the job with a screen; its exit code."""
    from ._screen import open_screen  # rich is loaded when there is something to draw

    spec = spec_of(request, env=dict(os.environ), now=datetime.now())
    with open_screen(workers=spec.workers) as screen:
        result = launch_elastic_job(
            spec, screen, on_start=lambda entry: screen.show_note(describe_start(entry, request.listen))
        )
    say_end(result, spec, request)
    return result.exit_code


def describe_start(entry: JobEntry, listen: str | None) -> str:
    """What to say once the job can be found, on this machine alone or where `listen` says. Pure."""
    line = f"job {entry.name} · {entry.run_dir}"
    if listen is None:
        return line
    return (
        f"{line}\nother machines join with the token in {entry.join_file}:\n"
        f"    holdtrue worker --join {entry.url} --token-file FILE"
    )


def spec_of(request: RunRequest, *, env: dict[str, str], now: datetime) -> JobSpec:
    """The job that was asked for.

    Raises:
        UsageError: a setting cannot be, there are too many workers, or the run directory holds a run and `--resume` is not
            given.
    """
    force = options.settings_in_force(request.settings, env)
    resume = request.resume or bool(force.get("resume", False))
    name = request.name or name_of_script(request.script)
    folder = request.run_dir or (Path(str(force["run_dir"])) if force.get("run_dir") else None)
    if folder is None:
        folder = newest_run_dir(RUNS, name) if resume else new_run_dir(RUNS, name, now)
    if (folder / "plan.json").exists() and not resume:
        raise UsageError(
            f"{folder} already holds a run; each run has a folder of its own. "
            f"Give another --run-dir, or --resume to go on with that run."
        )
    timeout_s = float(force.get("timeout_s", 300.0))
    device, threads = str(force.get("device", "auto")), int(force.get("threads", 1))
    host, port = options.read_address(request.listen)
    workers = request.workers.choose_start(count_devices(device, threads, env))
    check_workers(max(workers, request.workers.most or 0))
    return JobSpec(
        script=request.script,
        arguments=request.arguments,
        run_dir=folder,
        name=name,
        is_name_given=request.name is not None,
        workers=workers,
        least_workers=request.workers.least,
        most_workers=request.workers.most,
        restarts=request.restarts,
        is_elsewhere=request.is_elsewhere,
        listen=host,
        listen_port=port,
        join_token=None
        if request.token_file is None
        else options.read_token_file(request.token_file, way_out=MAKE_TOKEN),
        mapping=request.mapping,
        device=device,
        threads=threads,
        devices=request.devices,
        group_timeout_s=timeout_s,
        settings={**request.settings, "run_dir": str(folder), "resume": resume}
        | ({"expected": request.expected} if request.expected else {})
        | ({"costs": request.costs} if request.costs else {}),
        interrupt_wait_s=timeout_s,
        resume_command=resume_command(request, folder.absolute()),
    )


def check_workers(workers: int) -> None:
    """Refuse more workers than a job has.

    Raises:
        UsageError: there are more.
    """
    if workers > MOST_WORKERS:
        raise UsageError(
            f"the job is to have {workers} workers; it has at most {MOST_WORKERS}. Ask for fewer."
        )


def say_end(result: JobResult, spec: JobSpec, request: RunRequest) -> None:
    """Print how the job ended: one line if well."""
    say_failures(result.failures, workers=spec.workers)
    steps = "no steps" if result.steps is None else f"{result.steps} step{'s' if result.steps != 1 else ''}"
    if result.exit_code == 0 or result.has_finished:
        digest = [f"digest {result.digest[:16]}"] if result.digest else []
        say(" · ".join([f"done: {steps}", *digest, str(spec.run_dir)]))
        return
    if result.reason and not is_stopped(result):
        say_error(result.reason)
    if is_stopped(result) or result.checkpoint_step is not None:
        ended = "interrupted" if result.was_interrupted else "stopped" if is_stopped(result) else "failed"
        at = (
            f"; the last checkpoint is step {result.checkpoint_step}"
            if result.checkpoint_step is not None
            else ""
        )
        say(f"{ended} after {steps}{at}. Go on with:\n    {resume_command(request, spec.run_dir)}")


def is_stopped(result: JobResult) -> bool:
    """Whether the job ended because someone asked it to."""
    return result.was_interrupted or result.exit_code == INTERRUPTED


MAKE_TOKEN = "Make one that only you can read: `umask 077; openssl rand -hex 32 > FILE`."


def resume_command(request: RunRequest, run_dir: Path) -> str:
    """The command that goes on with a run. Pure."""
    words = ["holdtrue", "run", "--resume", "--run-dir", str(run_dir)]
    if request.name is not None:
        words += ["--name", request.name]
    words += request.start_words
    if request.mapping is not None and not request.start_words:
        words += ["--mapping", request.mapping]
    if request.start_words:
        pass
    elif request.devices is not None:
        words += ["--devices", format_devices(request.devices)]
    elif request.mapping is None and request.workers != options.ONE_WORKER:
        words += ["--workers", str(request.workers)]
    if request.restarts:
        words += ["--restart", str(request.restarts)]
    if request.listen is not None:
        words += ["--listen", request.listen]
    if request.token_file is not None:
        words += ["--token-file", str(request.token_file.absolute())]
    words += options.words_of(request.settings)
    return shlex.join([*words, request.script, *request.arguments])
