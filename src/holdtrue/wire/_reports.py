"""Reports of a worker to its launcher: one JSON object a line."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, final

from holdtrue.errors import GroupError

from ._environment import WIRE_VERSION
from ._text import escape_text


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedReport:
    """The worker called `holdtrue.init`."""

    event: ClassVar[str] = "joined"
    rank: int
    pid: int
    """Process id of the worker."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StartedReport:
    """The main worker enters its first step."""

    event: ClassVar[str] = "started"
    line: str
    """The start-up line: plan, mapping, numerics and seed in force."""
    total_steps: int | None
    """Steps of the whole run, if that is known."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """The main worker finished a step; not every step is reported."""

    event: ClassVar[str] = "step"
    step: int
    """Index of the step in the run, from 0."""
    epoch: int
    loss: float | None
    """Weighted mean loss of the step; None if it is not known."""
    total_steps: int | None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedReport:
    """The workers have met between two rounds of a prediction to disk."""

    event: ClassVar[str] = "predicted"
    done: int
    """Examples whose outputs are on disk."""
    examples: int
    """Examples of the data set."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LogReport:
    """The script called `run.log`."""

    event: ClassVar[str] = "log"
    step: int
    values: Mapping[str, float]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MessageReport:
    """Something that the user should read: a warning or a note."""

    event: ClassVar[str] = "message"
    text: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointReport:
    """A checkpoint is complete on disk."""

    event: ClassVar[str] = "checkpoint"
    step: int
    path: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FailedReport:
    """The worker ends with an error."""

    event: ClassVar[str] = "failed"
    rank: int
    kind: str
    """Class name of the error."""
    sentence: str
    """Its message."""
    where: str | None = None
    """Where in the script: file, line and code, or virtual node and step."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedReport:
    """The worker came to the end of its script."""

    event: ClassVar[str] = "finished"
    rank: int
    digest: str | None
    """Digest of the training state at the end, if it was computed."""
    steps: int
    """Steps of the whole run that are done."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class InterruptedReport:
    """The worker ends in order at a boundary, as all the others do, before the end of its script."""

    event: ClassVar[str] = "interrupted"
    rank: int
    steps: int
    """Steps of the whole run that are done."""


Report = (
    JoinedReport
    | StartedReport
    | StepReport
    | PredictedReport
    | LogReport
    | MessageReport
    | CheckpointReport
    | FailedReport
    | FinishedReport
    | InterruptedReport
)

_REPORTS: dict[str, type[Report]] = {
    kind.event: kind
    for kind in (
        JoinedReport,
        StartedReport,
        StepReport,
        PredictedReport,
        LogReport,
        MessageReport,
        CheckpointReport,
        FailedReport,
        FinishedReport,
        InterruptedReport,
    )
}


def encode_report(report: Report) -> bytes:
    r"""The report as one line, its newline included.

    >>> encode_report(JoinedReport(rank=0, pid=7))
    b'{"version": 1, "event": "joined", "rank": 0, "pid": 7}\n'
    """
    values = {field.name: _to_json(getattr(report, field.name)) for field in fields(report)}
    line = json.dumps({"version": WIRE_VERSION, "event": report.event} | values, allow_nan=False)
    return line.encode() + b"\n"


def decode_report(line: bytes) -> Report | None:
    """The report on `line`; None for an event that this version does not know.

    Returns:
        A report whose texts are safe to show: control characters are escaped.

    Raises:
        GroupError: the line is no report, is of another version, or its fields are not the event's.

    >>> decode_report(b'{"version": 1, "event": "joined", "rank": 0, "pid": 7}')
    JoinedReport(rank=0, pid=7)
    """
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        raise _malformed(line, "it is not JSON") from None
    if not isinstance(values, dict) or values.pop("version", None) != WIRE_VERSION:
        raise _malformed(line, f"it is not an object of version {WIRE_VERSION}")
    kind = _REPORTS.get(str(values.pop("event", None)))
    if kind is None:
        return None
    names = {field.name for field in fields(kind)}
    if set(values) != names:
        raise _malformed(line, f"a {kind.event!r} report has exactly {sorted(names)}")
    read: dict[str, Any] = {}  # Any: each value is checked against its field by _READERS
    for name, value in values.items():
        try:
            read[name] = _READERS[name](value)
        except (TypeError, ValueError, OverflowError):
            raise _malformed(line, f"its {name} is {value!r}") from None
    return kind(**read)


def _malformed(line: bytes, why: str) -> GroupError:
    start = escape_text(line[:120].decode(errors="replace"))
    return GroupError(
        f"a worker sent the report {start!r}, which cannot be read: {why}. "
        f"Use the same holdtrue for the launcher and its workers, and write nothing else to the report pipe."
    )


def _to_json(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no NaN and no infinity; `float` reads "nan" and "inf" back
    if isinstance(value, Mapping):
        return {str(name): _to_json(inner) for name, inner in value.items()}
    return value


def _read_int(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError
    return value


def _read_float(value: object) -> float:
    if isinstance(value, str) and value in ("nan", "inf", "-inf"):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    return float(value)


def _read_text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return escape_text(value)


def _read_values(value: object) -> Mapping[str, float]:
    if not isinstance(value, dict):
        raise TypeError
    return {_read_text(name): _read_float(inner) for name, inner in value.items()}


def _or_none(read: Callable[[object], object]) -> Callable[[object], object]:
    return lambda value: None if value is None else read(value)


_READERS: dict[str, Callable[[object], object]] = {
    "rank": _read_int,
    "pid": _read_int,
    "line": _read_text,
    "total_steps": _or_none(_read_int),
    "step": _read_int,
    "steps": _read_int,
    "epoch": _read_int,
    "done": _read_int,
    "examples": _read_int,
    "loss": _or_none(_read_float),
    "values": _read_values,
    "text": _read_text,
    "path": _read_text,
    "kind": _read_text,
    "sentence": _read_text,
    "where": _or_none(_read_text),
    "digest": _or_none(_read_text),
}
