"""Our own trace format, as JSON and as CSV (docs/guide/simulator.md describes it)."""

import csv
import io
import json
from collections.abc import Sequence

from holdtrue.cluster._jobs import Job, Rates

from ._fields import number_at, number_in, object_at, refuse, text_in
from ._positions import Node, parse_json

REQUIRED = ("id", "arrival_s")
OPTIONAL = (
    "duration_s",
    "steps",
    "rates",
    "min_devices",
    "max_devices",
    "weight",
    "queue",
    "percent",
    "kind",
)
CSV_COLUMNS = (*REQUIRED, "duration_s", "min_devices", "max_devices", "weight", "queue", "percent", "kind")


def parse_json_trace(text: str, name: str) -> tuple[Job, ...]:
    """Jobs of `{"jobs": [...]}`.

    Raises:
        UsageError: the text is not such a trace; the message gives line and column.

    >>> text = '{"jobs": [{"id": "a", "arrival_s": 0, "duration_s": 60, "max_devices": 2}]}'
    >>> parse_json_trace(text, "t")[0].work
    60.0
    """
    root = parse_json(text, name)
    jobs = root.value.get("jobs") if isinstance(root.value, dict) else None
    if jobs is None or not isinstance(jobs.value, list):
        raise refuse(name, root.place, "found no list of jobs", 'a trace is written {"jobs": [...]}')
    return tuple(_job(name, node) for node in jobs.value)


def _job(name: str, node: Node) -> Job:
    members = object_at(name, node, REQUIRED, OPTIONAL)
    most = int(number_in(name, members, "max_devices", 1, least=1, whole=True))
    work, rates = _work(name, node, members, most)
    percent = int(number_in(name, members, "percent", 100, least=1, whole=True))
    least = int(number_in(name, members, "min_devices", 1, least=1, whole=True))
    if least > most:
        place = members["min_devices"].place
        raise refuse(name, place, f"min_devices is {least}", f"it must be at most max_devices, {most}")
    if percent > 100 or (percent < 100 and most > 1):
        rule = "it must be at most 100, and 100 for jobs of several devices"
        raise refuse(name, members["percent"].place, f"percent is {percent}", rule)
    return Job(
        id=text_in(name, members, "id", ""),
        arrival_s=number_in(name, members, "arrival_s", 0, least=0),
        work=work,
        rates=rates,
        min_devices=least,
        max_devices=most,
        weight=number_in(name, members, "weight", 1, least=1e-9),
        queue=text_in(name, members, "queue", "default"),
        percent=percent,
        kind=text_in(name, members, "kind", ""),
    )


def _work(name: str, node: Node, members: dict[str, Node], most: int) -> tuple[float, Rates]:
    if ("duration_s" in members) == ("steps" in members) or ("steps" in members) != ("rates" in members):
        raise refuse(name, node.place, "the job's work is unclear", "give duration_s, or steps and rates")
    if "duration_s" in members:
        percent = number_in(name, members, "percent", 100, least=1)
        work = number_in(name, members, "duration_s", 1, least=1e-9) * percent / 100
        return work, Rates(by_type=(("*", ((most, 1.0),)),))
    return number_in(name, members, "steps", 1, least=1e-9), _rates(name, members["rates"])


def _rates(name: str, node: Node) -> Rates:
    rule = 'rates are written {"v100": {"1": 10.5, "2": 20.1}}'
    if not isinstance(node.value, dict) or not node.value:
        raise refuse(name, node.place, "rates is no object", rule)
    by_type = []
    for kind, table in node.value.items():
        if not isinstance(table.value, dict) or not table.value:
            raise refuse(name, table.place, f"the rates of {kind} are no object", rule)
        points = []
        for devices, rate in table.value.items():
            n = int(number_at(name, rate.place, "number of devices", devices, least=1, whole=True))
            points.append((n, number_in(name, table.value, devices, 1, least=1e-12)))
        by_type.append((kind, tuple(sorted(points))))
    return Rates(by_type=tuple(by_type))


def parse_csv_trace(text: str, name: str) -> tuple[Job, ...]:
    """Jobs of a CSV file with a header; empty cells stand for defaults.

    Raises:
        UsageError: the text is not such a trace; the message gives line and column.

    >>> parse_csv_trace("id,arrival_s,duration_s,max_devices\\na,0,60,2\\n", "t")[0].max_devices
    2
    """
    rows = list(csv.reader(io.StringIO(text)))
    header = [cell.strip() for cell in rows[0]] if rows else []
    for index, column in enumerate(header):
        if column not in CSV_COLUMNS:
            what, rule = f"unknown column {column!r}", f"the columns are {', '.join(CSV_COLUMNS)}"
            raise refuse(name, f"line 1, column {_start(rows[0], index)}", what, rule)
    for column in (*REQUIRED, "duration_s"):
        if column not in header:
            raise refuse(name, "line 1, column 1", f"there is no column {column!r}", "it is required")
    return tuple(_job(name, _row(name, n, header, row)) for n, row in enumerate(rows[1:], start=2) if row)


def _start(row: Sequence[str], index: int) -> int:
    return sum(len(cell) + 1 for cell in row[:index]) + 1


def _row(name: str, line: int, header: Sequence[str], row: Sequence[str]) -> Node:
    """A line of CSV as the object that it stands for."""
    if len(row) != len(header):
        place = f"line {line}, column {_start(row, len(row))}"
        raise refuse(name, place, f"{len(row)} columns", f"the header has {len(header)}")
    members = {
        column: Node(value=cell.strip(), line=line, column=_start(row, index))
        for index, (column, cell) in enumerate(zip(header, row, strict=True))
        if cell.strip()
    }
    return Node(value=members, line=line, column=1)


def format_json_trace(jobs: Sequence[Job]) -> str:
    """The jobs as our JSON, which `parse_json_trace` reads back to equal jobs."""
    lines = []
    for job in jobs:
        rates = {kind: {str(n): rate for n, rate in points} for kind, points in job.rates.by_type}
        record = {
            "id": job.id,
            "arrival_s": job.arrival_s,
            "steps": job.work,
            "rates": rates,
            "min_devices": job.min_devices,
            "max_devices": job.max_devices,
            "weight": job.weight,
            "queue": job.queue,
            "percent": job.percent,
            "kind": job.kind,
        }
        lines.append("  " + json.dumps(record))
    return '{"jobs": [\n' + ",\n".join(lines) + "\n]}\n"
