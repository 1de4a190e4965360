"""`holdtrue numerics`: what portable numerics covers, and whether it covers a script."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from holdtrue.errors import UsageError
from holdtrue.launch import JobSpec, SilentObserver, launch_job, name_of_script
from holdtrue.wire import SURVEY_VARIABLE, Setting

from . import _options as options
from ._commands import help_of
from ._say import say_failures

_HELP = (
    "Operators are listed by group. A script is run for its first steps; what it needs and is not covered is listed by "
    "operator and module.\n\n"
    "Exit status 0 if the script is covered, 1 if not or if it failed, 2 for wrong use."
)


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(
        "numerics", help=help_of("numerics", _HELP), context_settings={"allow_interspersed_args": False}
    )(numerics)


def numerics(
    script: options.OptionalScript = None,
    arguments: options.Arguments = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    steps: Annotated[
        int,
        typer.Option("--steps", parser=options.read_whole_number, metavar="N", help="Steps of the script."),
    ] = 1,
    virtual_nodes: options.VirtualNodes = None,
    global_batch_size: options.GlobalBatchSize = None,
    timeout: options.Timeout = None,
) -> None:
    """`holdtrue numerics`; `_HELP` says what it does."""
    if script is None:
        # A process of its own: the command line starts without torch, which knows the operators.
        words = [sys.executable, "-m", "holdtrue.numerics", *(["--json"] if as_json else [])]
        raise typer.Exit(subprocess.run(words, check=False).returncode)
    if not Path(script).is_file():
        raise UsageError(f"the script {script} does not exist; a survey is of a Python file. Name one.")
    if steps < 1:
        raise UsageError(f"--steps is {steps}; a survey needs at least 1 step. Give 1 or more.")
    overrides = options.Overrides(
        virtual_nodes=virtual_nodes, global_batch_size=global_batch_size, timeout=timeout
    )
    with tempfile.TemporaryDirectory(prefix="holdtrue-numerics-") as folder:
        found, taken, code = survey_script(
            script, tuple(arguments or ()), overrides, steps=steps, folder=Path(folder)
        )
    if code or not taken:
        raise typer.Exit(code or _say_no_step(script))
    _say_survey(found, script, taken, as_json=as_json)
    raise typer.Exit(1 if found else 0)


def survey_script(
    script: str, arguments: tuple[str, ...], overrides: options.Overrides, *, steps: int, folder: Path
) -> tuple[list[dict[str, Any]], int, int]:  # Any: JSON values
    """Run the first steps of a script on one worker.

    Returns:
        What is not covered, in the order of use; steps taken; the exit status of the run, 0 if it went through.
    """
    survey = folder / "survey.jsonl"
    own: dict[str, Setting] = {
        "run_dir": str(folder / "run"),
        "resume": False,
        "max_steps": steps,
        "checkpoint_every": 0,
    }
    spec = JobSpec(
        script=script,
        arguments=arguments,
        run_dir=folder / "run",
        name=name_of_script(script),
        is_name_given=False,
        settings={**overrides.settings(), **own, "numerics": "portable"},
    )
    os.environ[SURVEY_VARIABLE] = str(survey)  # workers inherit it
    try:
        result = launch_job(spec, SilentObserver())
    finally:
        del os.environ[SURVEY_VARIABLE]
    say_failures(result.failures, workers=1)
    lines = survey.read_text().splitlines() if survey.exists() else []
    return [json.loads(line) for line in lines], result.steps or 0, result.exit_code


def _say_no_step(script: str) -> int:
    typer.echo(
        f"{script} took no step, so nothing was looked at; it must take steps with `for step in run.steps(...)`."
    )
    return 1


def _say_survey(found: list[dict[str, Any]], script: str, steps: int, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"script": script, "steps": steps, "not_covered": found}, indent=1))
        return
    count = f"{steps} step{'s' if steps != 1 else ''}"
    if not found:
        typer.echo(typer.style("COVERED", fg="green", bold=True) + f"  all that {script} did in {count}")
        return
    uses = f"{len(found)} use{'s' if len(found) != 1 else ''}"
    typer.echo(
        typer.style("NOT COVERED", fg="red", bold=True) + f"  {uses} of operators in {count} of {script}:"
    )
    for line in found:
        typer.echo(f"  {line['operator']} in {line['module']}\n    {line['sentence']}")
