"""`holdtrue verify`: does a script hold true?"""

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, final

import typer

from holdtrue.errors import UsageError
from holdtrue.launch import (
    JobResult,
    JobSpec,
    count_cuda_devices,
    launch_elastic_job,
    launch_job,
    name_of_script,
    torch_has_cuda,
)
from holdtrue.record import RunRecord, read_run
from holdtrue.wire import Setting

from . import _options as options
from ._changes import Changer, name_missing_change
from ._commands import help_of
from ._say import describe_failure
from ._trials import (
    NO_STEP,
    REFERENCE,
    REPEAT,
    Finding,
    Row,
    Trial,
    changing_trials,
    explain_difference,
    judge_reference,
    judge_trial,
    trials_of,
    unlike_trials,
)

if TYPE_CHECKING:
    from ._board import Board

_HELP = (
    "Runs it on 1 worker, on 1 worker again, on 2, on uneven and interleaved mappings onto 3, and while workers "
    "join, leave and are killed in mid-run. It compares the training state after every step. Prints PASS, or the "
    "first step and tensors that differ "
    "and where to look. Fails too if no step ran or the weights never changed.\n\n"
    "At level portable it also runs on processors that this one can stand in for, and on each kind of device here.\n\n"
    "With `--reference` and no script: runs three small trainings with portable numerics and compares them with published "
    "digests, so that hardware can be checked in a minute.\n\n"
    "Exit status 0 for PASS, 1 for a difference or a failed run, 2 for wrong use."
)


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("verify", help=help_of("verify", _HELP), context_settings={"allow_interspersed_args": False})(
        verify
    )


def verify(
    context: typer.Context,
    script: options.OptionalScript = None,
    arguments: options.Arguments = None,
    reference: Annotated[
        bool, typer.Option("--reference", help="Run the reference trainings instead of a script.")
    ] = False,
    steps: Annotated[
        int,
        typer.Option(
            "--steps", parser=options.read_whole_number, metavar="N", help="Steps of each run, at most."
        ),
    ] = 20,
    changes: Annotated[
        bool,
        typer.Option("--changes/--no-changes", help="Also runs whose workers join, leave and die."),
    ] = True,
    keep: Annotated[
        Path | None,
        typer.Option(
            "--keep",
            metavar="DIR",
            help="New folder for the run directories. [dim]default: kept only after a FAIL[/dim]",
        ),
    ] = None,
    device: options.Device = None,
    threads: options.Threads = None,
    virtual_nodes: options.VirtualNodes = None,
    global_batch_size: options.GlobalBatchSize = None,
    seed: options.Seed = None,
    numerics: options.Numerics = None,
    timeout: options.Timeout = None,
    non_finite: options.NonFinite = None,
    config: options.Config = None,
) -> None:
    """`holdtrue verify`; `_HELP` says what it does."""
    from ._board import open_board  # rich is loaded when there is something to draw

    if steps < 1:
        raise UsageError(f"--steps is {steps}; a proof needs at least 1 step. Give 1 or more.")
    if keep is not None and keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise UsageError(
            f"--keep {keep} exists and is not empty; the runs need a folder of their own. Name a new one."
        )
    overrides = options.Overrides(
        virtual_nodes=virtual_nodes,
        global_batch_size=global_batch_size,
        seed=seed,
        numerics=numerics,
        device=device,
        threads=threads,
        timeout=timeout,
        non_finite=non_finite,
        config=config,
    )
    given = overrides.settings()
    if (script is not None) == reference:
        raise UsageError(
            "holdtrue verify takes a script, or --reference and no script. "
            + ("Leave one out." if reference else "Name the script.")
        )
    if reference:
        _refuse_with_reference(context)
    root = keep if keep is not None else Path(tempfile.mkdtemp(prefix="holdtrue-verify-"))
    if script is None:
        raise typer.Exit(_verify_references(given, root, is_kept=keep is not None))
    request = VerifyRequest(
        script=script,
        arguments=tuple(arguments or ()),
        steps=steps,
        has_changes=changes,
        settings=given,
        in_force=options.settings_in_force(given, os.environ),
        root=root,
    )
    outcome: Outcome | None = None
    try:
        with open_board() as board:
            outcome = verify_script(request, board)
        board.print_table()
        say_outcome(outcome, root)
    finally:
        if keep is None and (outcome is None or not outcome.leaves_runs):
            shutil.rmtree(root, ignore_errors=True)
    raise typer.Exit(outcome.exit_code)


def _refuse_with_reference(context: typer.Context) -> None:
    for name, option in (("steps", "--steps"), ("changes", "--changes or --no-changes")):
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise UsageError(
                f"--reference was given with {option}; the reference trainings have published digests for a fixed number of "
                f"steps on one worker. Leave it out."
            )


def _verify_references(given: Mapping[str, Setting], root: Path, *, is_kept: bool) -> int:
    """The exit status of `holdtrue verify --reference`."""
    from ._reference import verify_references

    status = None
    try:
        status = verify_references(given, root)
    finally:
        if not is_kept and (status != 1 or not any(root.iterdir())):
            shutil.rmtree(root, ignore_errors=True)
    return status


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyRequest:
    """What the command line of `holdtrue verify` asks for."""

    script: str
    arguments: tuple[str, ...]
    steps: int
    """Steps of each run, at most."""
    has_changes: bool
    """Whether there are runs whose workers change."""
    settings: Mapping[str, Setting]
    """Settings that the command line gives."""
    in_force: Mapping[str, Setting]
    """The same, with those of the environment and the config file."""
    root: Path
    """Folder of the run directories."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the runs show together."""

    exit_code: int
    title: str
    """PASS, FAIL or INTERRUPTED, and the sentence that belongs to it."""
    sentences: tuple[str, ...] = ()
    leaves_runs: bool = False
    """Whether the run directories are worth a look."""


def verify_script(request: VerifyRequest, board: "Board") -> Outcome:
    """Make the runs one after the other and compare each with the first, until one fails to run."""
    board.show((Row(trial=REFERENCE), Row(trial=REPEAT)))
    result, reference = _make_run(request, REFERENCE, board)
    if reference is None:
        return _fail_run(REFERENCE, result, board)
    finding = judge_reference(reference)
    _show_finding(board, REFERENCE, finding, result, reference)
    if finding.verdict != "reference":
        return Outcome(exit_code=1, title="FAIL", sentences=finding.sentences)
    trials = trials_of(reference.plan.virtual_nodes)
    if reference.plan.numerics == "portable":
        trials += unlike_trials(reference.plan.virtual_nodes, _other_kinds(request.in_force))
    if request.has_changes:
        trials += changing_trials(len(reference.steps))
    board.show((board.rows[0], *(Row(trial=trial) for trial in trials)))
    different: list[tuple[Trial, Finding]] = []
    for trial in trials:
        changer = Changer(trial, board)
        result, run = _make_run(request, trial, board, changer)
        if run is None:
            return _fail_run(trial, result, board)
        finding = judge_trial(reference, run)
        missing = name_missing_change(trial, result, run, changer)
        if missing is not None:
            finding = Finding(verdict="failed", sentences=(missing,))
        _show_finding(board, trial, finding, result, run)
        if finding.verdict != "equal":
            different.append((trial, finding))
    if different:
        return _fail_difference(*different[0], count=len(different), root=request.root)
    return _pass(reference, trials, request.steps)


def _other_kinds(in_force: Mapping[str, Setting]) -> tuple[str, ...]:
    """Kinds of device that are here beside the one that runs are started on."""
    may_be_cuda = str(in_force.get("device", "auto")) != "cpu" and torch_has_cuda()
    return ("cpu",) if may_be_cuda and count_cuda_devices(os.environ) else ()


def _make_run(
    request: VerifyRequest, trial: Trial, board: "Board", changer: Changer | None = None
) -> tuple[JobResult, RunRecord | None]:
    """Make one run; None for the record if it failed, or left none."""
    folder = request.root / trial.folder
    own: dict[str, Setting] = {
        "run_dir": str(folder),
        "resume": False,
        "max_steps": request.steps,
        "digest_every": 1,
        "trace": True,
        "checkpoint_every": 0,
    }
    if trial.changes:
        own["hold_at"] = ",".join(str(change.step) for change in trial.changes)
    force = request.in_force
    spec = JobSpec(
        script=request.script,
        arguments=request.arguments,
        run_dir=folder,
        name=name_of_script(request.script),
        is_name_given=False,
        workers=trial.workers,
        mapping=trial.mapping,
        variables=tuple(
            processor.variables if processor is not None else {} for processor in trial.processors
        ),
        devices=trial.devices,
        device=str(force.get("device", "auto")),
        threads=int(force.get("threads", 1)),
        settings={**request.settings, **own},
        interrupt_wait_s=10.0,  # nothing here is worth a long wait
    )
    board.begin(trial)
    if trial.changes and changer is not None:
        result = launch_elastic_job(spec, changer, on_start=changer.see_start)
        changer.wait()
    else:
        result = launch_job(spec, board)
    has_record = result.exit_code == 0 and (folder / "plan.json").exists()
    return result, read_run(folder) if has_record else None


def _show_finding(board: "Board", trial: Trial, finding: Finding, result: JobResult, run: RunRecord) -> None:
    last = max(run.steps, default=-1)
    board.finish(
        Row(
            trial=trial,
            verdict=finding.verdict,
            steps=len(run.steps),
            loss=run.steps[last].loss if last >= 0 else None,
            digest=run.digests[last].digest if last >= 0 and last in run.digests else None,
            seconds=result.seconds,
        )
    )


def _fail_run(trial: Trial, result: JobResult, board: "Board") -> Outcome:
    board.finish(Row(trial=trial, verdict="failed", steps=result.steps, seconds=result.seconds))
    if result.was_interrupted:
        return Outcome(exit_code=result.exit_code, title="INTERRUPTED")
    if result.exit_code == 0:
        return Outcome(exit_code=1, title="FAIL", sentences=(NO_STEP,))
    return Outcome(
        exit_code=2 if result.exit_code == 2 else 1,
        title=f"FAIL  the run on {trial.title} failed",
        sentences=tuple(describe_failure(failure, workers=trial.workers) for failure in result.failures),
        leaves_runs=True,
    )


def _fail_difference(trial: Trial, finding: Finding, *, count: int, root: Path) -> Outcome:
    more = f" ({count} runs differ; this is the first.)" if count > 1 else ""
    said = f"{trial.title} proves nothing." if finding.verdict == "failed" else explain_difference(trial)
    a, b = root / REFERENCE.folder, root / trial.folder
    return Outcome(
        exit_code=1,
        title=f"FAIL  {said}{more}",
        sentences=(*finding.sentences, f"Look closer with: holdtrue compare {a} {b}"),
        leaves_runs=True,
    )


def _pass(reference: RunRecord, trials: tuple[Trial, ...], asked: int) -> Outcome:
    steps, nodes = len(reference.steps), reference.plan.virtual_nodes
    short = f" The script has no more than these steps; {asked} were asked for." if steps < asked else ""
    return Outcome(
        exit_code=0,
        title=f"PASS  {len(trials) + 1} runs of {steps} step{'s' if steps != 1 else ''} on {nodes} virtual "
        f"node{'s' if nodes != 1 else ''}: the same bits after every step.{short}",
    )


def say_outcome(outcome: Outcome, root: Path) -> None:
    """Print the verdict and what belongs to it."""
    word, _, rest = outcome.title.partition(" ")
    colour = "green" if word == "PASS" else "red"
    typer.echo()
    typer.echo(typer.style(word, fg=colour, bold=True) + (" " + rest if rest else ""))
    for sentence in outcome.sentences:
        typer.echo("\n".join(f"  {line}" for line in sentence.splitlines()))
    if outcome.leaves_runs:
        typer.echo(f"  The runs are kept in {root}")
