"""Microsoft's Philly job list: timestamp, duration, devices."""

import csv
import io
from datetime import datetime

from holdtrue.cluster._jobs import Job, Rates

from ._fields import number_at, refuse

HEADER = ("timestamp", "duration", "num_gpus")


def parse_philly_trace(text: str, name: str, *, limit: int = 0) -> tuple[Job, ...]:
    """Jobs of Philly's list in order of submission, the first at 0 s; jobs of 0 s or 0 devices are left out.

    Args:
        text: The file, a header and a line for each job.
        name: Its name, for messages.
        limit: Jobs to keep, the earliest; 0 for all.

    Raises:
        UsageError: a line is malformed; the message gives line and column.

    Source:
        Jeon et al., Analysis of Large-Scale Multi-Tenant GPU Clusters, USENIX ATC 2019.
    """
    rows = list(csv.reader(io.StringIO(text)))
    columns = [rows[0].index(field) for field in HEADER]
    found = []
    for number, row in enumerate(rows[1:], start=2):
        if not row:
            continue
        if len(row) != len(rows[0]):
            place = f"line {number}, column {len(','.join(row)) + 1}"
            raise refuse(name, place, f"{len(row)} columns", f"the header has {len(rows[0])}")
        at_s = _seconds(name, number, row, columns[0])
        duration_s = _number(name, number, row, columns[1], "duration")
        devices = int(_number(name, number, row, columns[2], "num_gpus"))
        if duration_s > 0 and devices > 0:
            found.append((at_s, duration_s, devices))
    found.sort(key=lambda job: job[0])
    found = found[:limit] if limit else found
    return tuple(
        _job(str(i), at_s - found[0][0], duration_s, devices)
        for i, (at_s, duration_s, devices) in enumerate(found)
    )


def _place(number: int, row: list[str], index: int) -> str:
    return f"line {number}, column {sum(len(cell) + 1 for cell in row[:index]) + 1}"


def _number(name: str, number: int, row: list[str], index: int, field: str) -> float:
    return number_at(name, _place(number, row, index), field, row[index], least=0)


def _seconds(name: str, number: int, row: list[str], index: int) -> float:
    try:
        return (datetime.fromisoformat(row[index]) - datetime(2017, 1, 1)).total_seconds()
    except (ValueError, TypeError):
        rule = "timestamps are written 2017-10-09 07:01:55"
        raise refuse(name, _place(number, row, index), f"timestamp is {row[index]!r}", rule) from None


def _job(id_: str, arrival_s: float, duration_s: float, devices: int) -> Job:
    rates = Rates(by_type=(("*", ((devices, 1.0),)),))
    return Job(
        id=id_,
        arrival_s=arrival_s,
        work=duration_s,
        rates=rates,
        min_devices=1,
        max_devices=devices,
        kind="philly",
    )
