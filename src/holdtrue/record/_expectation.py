"""What another run must get: the digests of a run in one file, without its folder.

    {"format": 1, "holdtrue": "0.1.0", "plan": {...}, "losses": [[step, "0x1.8p+0"], ...],
     "digests": [[step, sha256], ...], "entries": {"weights/model.0.weight": "16 hex digits of each step, joined"}}

Losses are hexadecimal floats, so that no bit is lost in reading.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from holdtrue.errors import PlanError, UsageError
from holdtrue.plan import Plan

from ._records import DigestRecord, RunRecord, StepRecord

FORMAT = 1
ENTRY_DIGITS = 16


def describe_expectation(run: RunRecord, *, version: str) -> dict[str, Any]:  # Any: JSON values
    """The plan, losses and digests of a run as JSON values, for a colleague on other hardware.

    Args:
        run: A run, as `read_run` returns it.
        version: Of holdtrue.

    Raises:
        UsageError: the run has no digest.
    """
    if not run.digests:
        raise UsageError(
            f"{run.name} has no digest, so there is nothing that another run must get. "
            f"Make the run again with --digest-every 1."
        )
    steps = sorted(run.digests)
    names = sorted({name for step in steps for name in run.digests[step].entries})
    return {
        "format": FORMAT,
        "holdtrue": version,
        "plan": run.plan.to_dict(),
        "losses": [[step, _hex(run.steps[step].loss)] for step in sorted(run.steps)],
        "digests": [[step, run.digests[step].digest] for step in steps],
        "entries": {name: "".join(_entry(run.digests[step], name) for step in steps) for name in names},
    }


def _hex(loss: float | None) -> str | None:
    return None if loss is None else float(loss).hex()


def _entry(record: DigestRecord, name: str) -> str:
    return record.entries.get(name, "-" * ENTRY_DIGITS)  # an entry that a step does not have


def read_expectation(path: Path) -> RunRecord:
    """The expectation in a file, as a run that `compare_runs` takes.

    Raises:
        UsageError: the file cannot be read, or is not what `describe_expectation` gives.
    """
    try:
        values = json.loads(path.read_text())
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read ({error.strerror}); it must be a file that `holdtrue digest RUN --json` printed. "
            f"Name one."
        ) from error
    except ValueError as error:
        raise UsageError(
            f"{path} is not JSON ({error}); it must be what `holdtrue digest RUN --json` printed. Name such a file."
        ) from error
    return parse_expectation(values, name=str(path))


def parse_expectation(values: object, *, name: str) -> RunRecord:
    """The expectation in JSON values, as a run that `compare_runs` takes.

    Raises:
        UsageError: the values are not what `describe_expectation` gives.
    """
    if not isinstance(values, Mapping) or values.get("format") != FORMAT:
        raise UsageError(
            f"{name} is not an expectation of format {FORMAT}; it must be what `holdtrue digest RUN --json` printed. "
            f"Print it again with this version of holdtrue."
        )
    try:
        digests = [(int(step), str(digest)) for step, digest in values["digests"]]
        entries = {str(n): str(text) for n, text in values["entries"].items()}
        losses = [(int(step), None if x is None else float.fromhex(x)) for step, x in values["losses"]]
        plan = Plan.from_dict(values["plan"])
    except (KeyError, TypeError, ValueError, AttributeError, PlanError) as error:
        raise UsageError(
            f"{name} is damaged ({type(error).__name__}: {error}); it must be what `holdtrue digest RUN --json` printed. "
            f"Print it again."
        ) from error
    by_step = dict(digests)
    return RunRecord(
        name=name,
        plan=plan,
        environment={},
        steps={
            step: StepRecord(
                step=step, epoch=0, loss=loss, seconds=0.0, generation=0, digest=by_step.get(step)
            )
            for step, loss in losses
        },
        digests={
            step: DigestRecord(step=step, digest=digest, entries=_entries_at(entries, i))
            for i, (step, digest) in enumerate(digests)
        },
        events=(),
        metrics=(),
        conflicts=(),
    )


def _entries_at(entries: Mapping[str, str], place: int) -> dict[str, str]:
    cut = slice(place * ENTRY_DIGITS, (place + 1) * ENTRY_DIGITS)
    found = {name: text[cut] for name, text in entries.items()}
    return {name: text for name, text in found.items() if not text.startswith("-")}
