"""Reading a trace from a file, whatever its format."""

import gzip
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from holdtrue.cluster._jobs import Job, Rates
from holdtrue.errors import UsageError
from holdtrue.units import reason_of

from ._gavel import missing_throughputs, parse_gavel_trace, parse_throughputs
from ._own import parse_csv_trace, parse_json_trace
from ._paper import parse_paper_trace
from ._philly import HEADER, parse_philly_trace

Format = Literal["auto", "paper", "gavel", "philly", "json", "csv"]
FORMATS: tuple[str, ...] = get_args(Format)
_TABLE = "throughputs_isolated_simulation.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceOptions:
    """What a trace does not say itself."""

    format: Format = "auto"
    """Format of the file; `auto` looks at its first lines."""
    throughputs: Path | None = None
    """Table for a trace of Gavel; None: the one beside the trace or one folder up."""
    durations: tuple[float, ...] = ()
    """Measured seconds of each job of one of the paper's traces."""
    start_s: float = 0.0
    """Start-up in those durations."""
    limit: int = 0
    """Jobs to keep, the earliest; 0 for all."""


def read_trace(path: Path, options: TraceOptions | None = None) -> tuple[Job, ...]:
    """Jobs of the trace in `path`, plain or gzip.

    Raises:
        UsageError: the file cannot be read or is malformed; the message gives line and column.
    """
    options = options or TraceOptions()
    text = _read_text(path)
    kind = detect_format(text) if options.format == "auto" else options.format
    name = path.name
    jobs: tuple[Job, ...]
    if kind == "gavel":
        table = _throughputs_of(path, options)
        jobs = parse_gavel_trace(text, name, parse_throughputs(_read_text(table), table.name))
    elif kind == "paper":
        jobs = parse_paper_trace(text, name, durations=options.durations, start_s=options.start_s)
    elif kind == "philly":
        jobs = parse_philly_trace(text, name, limit=options.limit)
    else:
        jobs = parse_json_trace(text, name) if kind == "json" else parse_csv_trace(text, name)
    if not jobs:
        raise UsageError(f"{name} has no jobs; a trace needs at least one. Check the file.")
    earliest = sorted(jobs, key=lambda job: job.arrival_s)
    return tuple(earliest[: options.limit]) if options.limit else jobs


def detect_format(text: str) -> Format:
    """Format of a trace by its first characters.

    >>> detect_format('[{"arrival_time": 1}]'), detect_format("id,arrival_s,duration_s")
    ('paper', 'csv')
    """
    start = text.lstrip()[:1]
    if start == "[":
        return "paper"
    if start == "{":
        return "json"
    first = text.split("\n", 1)[0]
    if "\t" in first:
        return "gavel"
    return "philly" if set(HEADER) <= {cell.strip() for cell in first.split(",")} else "csv"


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
        return data.decode("utf-8-sig")  # spreadsheets begin their files with such a mark
    except (OSError, UnicodeDecodeError, EOFError, zlib.error) as problem:
        raise UsageError(
            f"{path} cannot be read ({reason_of(problem)}); it must be a text file or gzip. Check the path."
        ) from problem


def _throughputs_of(path: Path, options: TraceOptions) -> Path:
    if options.throughputs is not None:
        return options.throughputs
    for folder in (path.parent, path.parent.parent):
        if (folder / _TABLE).is_file():
            return folder / _TABLE
    raise missing_throughputs(path.name)


def adapt_jobs(
    jobs: Sequence[Job], kinds: Sequence[str], speeds: Mapping[str, float], elastic: int = 0
) -> tuple[Job, ...]:
    """Jobs whose rates name the cluster's types, times the speed of the type where one is given.

    Args:
        jobs: Jobs as they were read.
        kinds: Device types of the cluster.
        speeds: Speed by type, for types that a job's rates do not name.
        elastic: If not 0, jobs of whole devices may run on 1 to this many, as far as their rates are given.
    """
    known: dict[Rates, Rates] = {}
    adapted = []
    for job in jobs:
        if job.rates not in known:
            known[job.rates] = _with_speeds(job.rates, kinds, speeds)
        job = replace(job, rates=known[job.rates])
        if elastic and job.percent == 100:
            known_to = max(
                n for _, points in job.rates.by_type for n, _ in points if n <= elastic or n == points[0][0]
            )
            job = replace(job, min_devices=1, max_devices=max(known_to, job.max_devices))
        adapted.append(job)
    return tuple(adapted)


def _with_speeds(rates: Rates, kinds: Sequence[str], speeds: Mapping[str, float]) -> Rates:
    named = dict(rates.by_type)
    if "*" not in named:
        return rates
    by_type = []
    for kind in kinds:
        points = named.get(kind)
        if points is None:
            points = tuple((n, rate * speeds.get(kind, 1.0)) for n, rate in named["*"])
        by_type.append((kind, points))
    return Rates(by_type=tuple(by_type), beyond=rates.beyond)
