"""`holdtrue verify --reference`: does this hardware give the published bits?"""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import typer

from holdtrue.errors import UsageError
from holdtrue.launch import JobResult, JobSpec, SilentObserver, launch_job
from holdtrue.record import Comparison, RunRecord, compare_runs, read_run
from holdtrue.reference import REFERENCES, STEPS, Reference, published
from holdtrue.wire import Setting

from . import _options as options
from ._say import describe_failure

FIXED = ("virtual_nodes", "global_batch_size", "seed", "numerics", "non_finite")
"""Settings that belong to the reference trainings."""


def verify_references(given: Mapping[str, Setting], root: Path) -> int:
    """Run every reference training on one worker, compare it with the published digests and say what was found.

    Args:
        given: Settings of the command line: device, threads, time-out.
        root: Folder of the run directories.

    Returns:
        Exit status: 0 if all are equal in every bit, 1 if not, the job's own if it was interrupted.

    Raises:
        UsageError: a setting is given that belongs to the trainings.
    """
    refused = [name for name in FIXED if name in given]
    if refused:
        raise UsageError(
            f"--reference was given with --{refused[0].replace('_', '-')}; the reference trainings have plans of their own, or "
            f"their published digests would not be theirs. Leave it out."
        )
    failed = 0
    for number, reference in enumerate(REFERENCES):
        result, run = _run(reference, given, root / reference.name)
        if result.was_interrupted:
            typer.echo()
            typer.echo(typer.style("INTERRUPTED", fg="red", bold=True))
            return result.exit_code
        if number == 0 and run is not None:
            typer.echo(describe_hardware(run))
        failed += not _say(reference, result, run)
    typer.echo()
    if failed:
        word = typer.style("FAIL", fg="red", bold=True)
        typer.echo(
            f"{word}  {failed} of {len(REFERENCES)} reference trainings have other bits here, or did not run."
        )
        typer.echo(f"  The runs are kept in {root}")
    else:
        word = typer.style("PASS", fg="green", bold=True)
        typer.echo(
            f"{word}  {len(REFERENCES)} reference trainings of {STEPS} steps: the published bits after every step."
        )
    return 1 if failed else 0


def _run(
    reference: Reference, given: Mapping[str, Setting], folder: Path
) -> tuple[JobResult, RunRecord | None]:
    """Make one run; None for the record if it failed, or left none."""
    force = options.settings_in_force(given, os.environ)
    own: dict[str, Setting] = {
        "run_dir": str(folder),
        "resume": False,
        "max_steps": STEPS,
        "digest_every": 1,
        "trace": True,
        "checkpoint_every": 0,
        **{name: value for name, value in published(reference).plan.to_dict().items() if name in FIXED},
    }
    spec = JobSpec(
        script=reference.module,
        is_module=True,
        run_dir=folder,
        name=reference.name,
        is_name_given=False,
        device=str(force.get("device", "auto")),
        threads=int(force.get("threads", 1)),
        settings={**given, **own},
        interrupt_wait_s=10.0,
    )
    result = launch_job(spec, SilentObserver())
    has_record = result.exit_code == 0 and (folder / "plan.json").exists()
    return result, read_run(folder) if has_record else None


def judge_reference_run(reference: Reference, run: RunRecord) -> Comparison:
    """How a run of a reference training compares with its published digests. Pure but for reading the package's file."""
    expected = replace(published(reference), name="the published run", environment=run.environment)
    return compare_runs(expected, run)


def _say(reference: Reference, result: JobResult, run: RunRecord | None) -> bool:
    head = f"  {reference.name:12} {reference.what:52}"
    if run is None:
        typer.echo(head + typer.style("FAIL", fg="red", bold=True) + "  it did not run")
        for failure in result.failures:
            typer.echo(f"    {describe_failure(failure, workers=1)}")
        return False
    found = judge_reference_run(reference, run)
    is_whole = found.steps_compared == STEPS
    last = run.digests[max(run.digests)].digest[:12] if run.digests else "none"
    verdict, colour = ("PASS", "green") if found.equal and is_whole else ("FAIL", "red")
    typer.echo(head + typer.style(verdict, fg=colour, bold=True) + f"  digest {last}  {result.seconds:.0f} s")
    if verdict == "FAIL":
        for sentence in found.sentences:
            typer.echo(f"    {sentence}")
    return verdict == "PASS"


def describe_hardware(run: RunRecord) -> str:
    """What a run ran on, in a line. Pure."""
    facts = run.environment
    device, packages = facts.get("device", {}), facts.get("packages", {})
    parts = [
        str(device.get("name", "unknown device")),
        f"torch {packages.get('torch', 'unknown')}",
        f"engine {facts.get('numerics', {}).get('engine', 'unknown')}",
        f"vector units of torch {facts.get('torch', {}).get('cpu_capability', 'unknown')}",
    ]
    return " · ".join(parts)
