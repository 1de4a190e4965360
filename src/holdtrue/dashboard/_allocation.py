"""Which job had which devices when, from a cluster's log of decisions.

A log says how many devices of a type a job is given, not which of equal ones. For a picture they are dealt out to rows: a
job keeps its rows as long as it has them, and others get the lowest that are free.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, groupby
from typing import Any, final

from holdtrue.cluster import Cluster, Ended, Grant, LogRecord, Opened, Submitted

MOST_BLOCKS = 600
"""Of a picture: more would not be told apart."""
MOST_KEPT = 50_000
"""Blocks in memory; the oldest are forgotten."""

Rows = tuple[tuple[str, tuple[int, ...]], ...]
"""(type, its rows from 0, ascending) of the devices that a job holds."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Devices that one job had without a change."""

    number: int
    """Of the job."""
    name: str
    start_s: float
    """In seconds from the log's beginning, as all times here."""
    end_s: float = math.inf
    """Infinite while it holds."""
    rows: Rows
    percent: int = 100
    """Of its one device, for a job of a part."""
    offset: int = 0
    """Per cent of that device below it, which others have."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What a picture shows: every block that lies between two times, whole or in part."""

    from_s: float
    until_s: float
    """Infinite: to the present."""
    blocks: tuple[Block, ...]
    """Ascending by start, then by job."""
    is_first: bool
    """Whether nothing is known from before."""


@final
class Allocations:
    """A cluster's log as far as it was read. Mutable, owned by who reads it."""

    def __init__(self) -> None:
        """Nothing is read yet."""
        self.newest = 0
        """Number of the last record taken."""
        self.devices: tuple[tuple[str, int], ...] = ()
        """(type, number) that the cluster has now."""
        self._over: deque[Block] = deque(maxlen=MOST_KEPT)
        self._held: dict[int, Block] = {}
        self._names: dict[int, str] = {}
        self._most: dict[str, int] = {}
        self._begins_s = 0.0
        """From here on the blocks are known."""

    @property
    def rows(self) -> tuple[tuple[str, int], ...]:
        """(type, most devices that the cluster ever had of it)."""
        return tuple(self._most.items())

    def take(self, records: Iterable[LogRecord]) -> None:
        """Take the records that follow those taken before."""
        for record in records:
            match record.event:
                case Opened():
                    self._open(record.event.cluster)
                case Submitted():
                    self._names[int(record.event.job.id)] = record.event.job.kind or record.event.job.id
                case _:
                    pass
            if record.grants is not None:
                self._decide({int(job): grant for job, grant in record.grants.items()}, record.time_s)
            if isinstance(record.event, Ended):
                self._names.pop(int(record.event.job), None)
            self.newest = record.number

    def _open(self, cluster: Cluster) -> None:
        self.devices = cluster.devices
        for kind, number in cluster.devices:
            self._most[kind] = max(number, self._most.get(kind, 0))

    def _decide(self, grants: Mapping[int, Grant], now_s: float) -> None:
        rows, offsets = deal_rows(grants, {number: block.rows for number, block in self._held.items()})
        for number, block in list(self._held.items()):
            if (block.rows, block.percent, block.offset) != (
                rows.get(number), grants[number].percent if number in grants else 0, offsets.get(number, 0),
            ):  # fmt: skip
                self._close(number, now_s)
        for number in sorted(grants):
            if number not in self._held:
                self._held[number] = Block(
                    number=number,
                    name=self._names.get(number, str(number)),
                    start_s=now_s,
                    rows=rows[number],
                    percent=grants[number].percent,
                    offset=offsets.get(number, 0),
                )

    def _close(self, number: int, now_s: float) -> None:
        block = self._held.pop(number)
        if block.start_s >= now_s:
            return  # decided about again in the same moment
        if len(self._over) == MOST_KEPT:
            self._begins_s = self._over[0].end_s
        self._over.append(replace(block, end_s=now_s))

    def window(self, until_s: float = math.inf, *, most: int = MOST_BLOCKS) -> Window:
        """The newest blocks that began before a time.

        Args:
            until_s: Infinite for the present.
            most: Blocks, unless more are held at once.

        Returns:
            None of the blocks between its two times is missing.
        """
        found = [block for block in (*self._over, *self._held.values()) if block.start_s < until_s]
        found.sort(key=lambda block: (-min(block.end_s, until_s), -block.start_s, block.number))
        most = max(most, 2 * sum(block.end_s >= until_s for block in found))
        shown, left_out = found[:most], found[most:]
        from_s = min(left_out[0].end_s, until_s) if left_out else self._begins_s
        blocks = tuple(sorted((b for b in shown if b.end_s > from_s), key=lambda b: (b.start_s, b.number)))
        return Window(from_s=from_s, until_s=until_s, blocks=blocks, is_first=not left_out)


def deal_rows(
    grants: Mapping[int, Grant], before: Mapping[int, Rows]
) -> tuple[dict[int, Rows], dict[int, int]]:
    """Rows for each job's devices, and where on its device a job of a part lies. Pure.

    Args:
        grants: Devices by job number.
        before: Rows that jobs have had so far.

    Returns:
        By job number: rows of each device type, ascending; and for a job of a part, the percent of its device that lie
        before it.

    >>> two = Grant(counts=(("cpu", 2),))
    >>> deal_rows({1: two, 2: Grant(counts=(("cpu", 1),))}, {2: (("cpu", (1,)),)})[0]
    {2: (('cpu', (1,)),), 1: (('cpu', (0, 2)),)}
    """
    taken: dict[str, set[int]] = {}
    own: dict[int, dict[str, list[int]]] = {}
    shared: dict[tuple[str, int], int] = {}
    order = [*(n for n in sorted(grants) if n in before), *(n for n in sorted(grants) if n not in before)]
    for number in order:  # first everyone keeps what it may keep
        kept = dict(before.get(number, ()))
        for kind, wanted, key in _wants(grants[number]):
            rows = [row for row in kept.get(kind, ()) if row not in taken.setdefault(kind, set())][:wanted]
            if key is not None and key in shared:
                rows = [shared[key]]
            elif key is not None and rows:
                shared[key] = rows[0]
            taken.setdefault(kind, set()).update(rows)
            own.setdefault(number, {})[kind] = rows
    for number in order:
        for kind, wanted, key in _wants(grants[number]):
            rows = own[number][kind]
            if key is not None and key in shared:
                rows[:] = [shared[key]]
            free = (row for row in count() if row not in taken[kind])
            while len(rows) < wanted:
                rows.append(next(free))
                taken[kind].add(rows[-1])
            if key is not None:
                shared[key] = rows[0]
    dealt = {n: tuple((kind, tuple(sorted(rows))) for kind, rows in own[n].items()) for n in order}
    return dealt, _stack_parts(grants)


def _wants(grant: Grant) -> Iterator[tuple[str, int, tuple[str, int] | None]]:
    """Type, number of rows, and the shared device for a job of a part."""
    for kind, number in grant.counts:
        yield kind, number, None if grant.percent == 100 else (kind, grant.slot)


def _stack_parts(grants: Mapping[int, Grant]) -> dict[int, int]:
    offsets: dict[int, int] = {}
    filled: dict[tuple[str, int], int] = {}
    for number in sorted(grants):
        grant = grants[number]
        if grant.percent < 100:
            key = grant.counts[0][0], grant.slot
            offsets[number] = filled.get(key, 0)
            filled[key] = offsets[number] + grant.percent
    return offsets


def window_to_values(window: Window, rows: Sequence[tuple[str, int]]) -> dict[str, Any]:  # Any: JSON values
    """A picture as short JSON values.

    Args:
        window: What it shows.
        rows: (type, rows) in order.

    Returns:
        `rows`; `jobs`, number and name of each; `blocks`, each a list of the job's place in `jobs`, start, end (None while it
        holds), percent, offset, and its rows as [type's place, first row, rows] for each run of neighbours.
    """
    jobs = sorted({(block.number, block.name) for block in window.blocks})
    place = {job: i for i, job in enumerate(jobs)}
    kinds = {kind: i for i, (kind, _) in enumerate(rows)}
    return {
        "rows": [list(pair) for pair in rows],
        "from_s": window.from_s,
        "until_s": None if math.isinf(window.until_s) else window.until_s,
        "is_first": window.is_first,
        "jobs": [list(job) for job in jobs],
        "blocks": [
            [
                place[block.number, block.name],
                round(block.start_s, 3),
                None if math.isinf(block.end_s) else round(block.end_s, 3),
                block.percent,
                block.offset,
                [[kinds[kind], *run] for kind, own in block.rows for run in _runs(own)],
            ]
            for block in window.blocks
        ],
    }


def _runs(rows: Sequence[int]) -> list[tuple[int, int]]:
    """First row and length of each run of neighbours.

    >>> _runs((0, 1, 2, 5))
    [(0, 3), (5, 1)]
    """
    grouped = groupby(enumerate(rows), key=lambda pair: pair[1] - pair[0])
    found = [[row for _, row in group] for _, group in grouped]
    return [(run[0], len(run)) for run in found]
