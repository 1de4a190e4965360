"""The reading side of a run directory: any time, also while a run writes."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, TypeVar

from holdtrue.errors import PlanError, UsageError
from holdtrue.plan import Plan

from ._files import line_error, read_lines, read_whole
from ._records import Conflict, DigestRecord, EventRecord, MetricsRecord, RunRecord, StepRecord

R = TypeVar("R")
S = TypeVar("S", StepRecord, DigestRecord)


def read_run(path: str | os.PathLike[str]) -> RunRecord:
    """Everything that the run directory at `path` says up to its last complete lines.

    A resumed run does the steps after its checkpoint again: of a step written twice the last line
    counts, and losses or digests that are not the same both times are kept as conflicts.

    Raises:
        UsageError: the folder holds no run, or a file or line in it is not what a run writes.
    """
    folder = Path(path)
    if not (folder / "plan.json").exists():
        raise UsageError(
            f"{folder} holds no run: it has no plan.json. Name the folder that a run was given as --run-dir."
        )
    step_lines = _read_records(folder / "steps.jsonl", StepRecord.from_dict)
    digest_lines = _read_records(folder / "digests.jsonl", DigestRecord.from_dict)
    return RunRecord(
        name=str(folder),
        plan=read_plan(folder / "plan.json"),
        environment=read_whole(folder / "environment.json"),
        steps=_by_step(step_lines),
        digests=_by_step(digest_lines),
        events=_read_records(folder / "events.jsonl", EventRecord.from_dict),
        metrics=_read_records(folder / "metrics.jsonl", MetricsRecord.from_dict),
        conflicts=find_conflicts(step_lines, digest_lines),
    )


def find_conflicts(steps: Iterable[StepRecord], digests: Iterable[DigestRecord]) -> tuple[Conflict, ...]:
    """Losses and digests that a run wrote twice for one step, and not alike, in the order of the lines.

    >>> line = StepRecord(step=3, epoch=0, loss=0.5, seconds=0.1, generation=0)
    >>> again = StepRecord(step=3, epoch=0, loss=0.25, seconds=0.1, generation=1)
    >>> [(c.step, c.what, c.first, c.last) for c in find_conflicts([line, again], [])]
    [(3, 'loss', '0.5', '0.25')]
    """
    written: dict[tuple[str, int, str], str] = {}
    conflicts: dict[Conflict, None] = {}

    def claim(file: str, step: int, what: Literal["loss", "digest"], value: str | None) -> None:
        if value is None:
            return
        first = written.setdefault((file, step, what), value)
        if first != value:
            # Both files carry the digest of a step; one conflict of theirs is one.
            conflicts[Conflict(step=step, what=what, first=first, last=value)] = None
            written[file, step, what] = value

    for line in steps:
        claim("steps", line.step, "loss", None if line.loss is None else repr(line.loss))
        claim("steps", line.step, "digest", line.digest)
    for digest in digests:
        claim("digests", digest.step, "digest", digest.digest)
    return tuple(conflicts)


def _by_step(lines: Iterable[S]) -> dict[int, S]:
    """The last line of each step, steps ascending."""
    last = {line.step: line for line in lines}
    return {step: last[step] for step in sorted(last)}


def _read_records(path: Path, parse: Callable[[dict[str, Any]], R]) -> tuple[R, ...]:  # Any: JSON values
    records: list[R] = []
    for number, values in read_lines(path):
        try:
            records.append(parse(values))
        except KeyError as error:
            raise line_error(path, number, f"has no {error}") from error
        except (AttributeError, TypeError, ValueError) as error:
            raise line_error(path, number, f"has a value of the wrong kind ({error})") from error
    return tuple(records)


def read_plan(path: Path) -> Plan:
    """The plan in a plan.json.

    Raises:
        UsageError: the file is missing, cannot be read, or holds no plan.
    """
    values = read_whole(path)
    try:
        return Plan.from_dict(values)
    except (PlanError, TypeError, ValueError) as error:
        raise UsageError(f"{path} is not a plan: {error}") from error
