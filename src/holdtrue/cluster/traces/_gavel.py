"""Gavel's traces: tab-separated lines of 10 columns, with a table of throughputs."""

import re
from collections.abc import Mapping

from holdtrue.cluster._jobs import Job, Rates
from holdtrue.errors import UsageError

from ._fields import number_at, refuse
from ._positions import Node, parse_json

_COLUMNS = 10
_KEY = re.compile(r"^\('(?P<model>.*)', (?P<devices>\d+)\)$")

Throughputs = Mapping[str, Rates]
"""Rates by model and batch size, as Gavel writes them."""


def parse_throughputs(text: str, name: str) -> Throughputs:
    """Steps per second of each model on each device type and number of devices.

    Reads `{type: {"('model', devices)": steps_per_s}}`, the value also as `{"null": steps_per_s}`; tables of devices
    in different servers (`..._unconsolidated`) are left out.

    Raises:
        UsageError: the text is not such a table; the message gives line and column.
    """
    root = parse_json(text, name)
    if not isinstance(root.value, dict):
        raise refuse(name, root.place, "found no object", "throughputs are an object by device type")
    found: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for kind, table in root.value.items():
        if kind.endswith("_unconsolidated"):
            continue
        if not isinstance(table.value, dict):
            raise refuse(name, table.place, f"{kind} has no object", "each type has an object by model")
        for key, node in table.value.items():
            match = _KEY.match(key)
            if match is None:
                raise refuse(name, node.place, f"key {key!r}", "keys are written ('model', devices)")
            rate = _rate(name, node)
            if rate > 0:
                found.setdefault(match["model"], {}).setdefault(kind, []).append(
                    (int(match["devices"]), rate)
                )
    return {
        model: Rates(by_type=tuple((kind, tuple(sorted(points))) for kind, points in by_type.items()))
        for model, by_type in found.items()
    }


def _rate(name: str, node: Node) -> float:
    inner = node.value["null"] if isinstance(node.value, dict) and "null" in node.value else node
    value = inner.value if not isinstance(inner.value, dict | list) else "..."
    return number_at(name, inner.place, "steps per second", value, least=0)


def parse_gavel_trace(text: str, name: str, throughputs: Throughputs) -> tuple[Job, ...]:
    """Jobs of a trace of Gavel; minimum and maximum are the devices asked for.

    Raises:
        UsageError: a line is malformed, or its job type has no throughput; the message gives line and column.
    """
    jobs: list[Job] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            jobs.append(_job(name, str(len(jobs)), number, line, throughputs))
    return tuple(jobs)


def _job(name: str, id_: str, number: int, line: str, throughputs: Throughputs) -> Job:
    cells = line.split("\t")
    if len(cells) != _COLUMNS:
        place = f"line {number}, column {len(line) + 1}"
        raise refuse(name, place, f"{len(cells)} columns", f"a line has {_COLUMNS}, separated by tabs")

    def number_of(index: int, field: str, *, least: float, whole: bool = False) -> float:
        column = sum(len(cell) + 1 for cell in cells[:index]) + 1
        place = f"line {number}, column {column}"
        return number_at(name, place, field, cells[index], least=least, whole=whole)

    if cells[0] not in throughputs:
        what = f"job type {cells[0]!r} has no throughput"
        raise refuse(name, f"line {number}, column 1", what, "every job type needs an entry in the table")
    devices = int(number_of(6, "devices", least=1, whole=True))
    return Job(
        id=id_,
        arrival_s=number_of(9, "arrival", least=0),
        work=number_of(5, "total steps", least=1, whole=True),
        rates=throughputs[cells[0]],
        min_devices=devices,
        max_devices=devices,
        weight=number_of(7, "weight", least=1e-9),
        kind=cells[0],
    )


def missing_throughputs(name: str) -> UsageError:
    """Error for a trace of Gavel without its table."""
    return UsageError(
        f"{name} is a trace of Gavel and gives steps, not seconds; its table of throughputs is needed. "
        "Pass --throughputs FILE."
    )
