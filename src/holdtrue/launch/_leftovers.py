"""What ended workers leave behind: processes that they started, and what is kept of them until these are gone."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

LEFTOVER_WAIT_S = 2.0
"""What processes that a worker started have to end by themselves after it (they clean up shared memory)."""
OUTPUT_WAIT_S = 2.0
"""What is still read of a worker's output once its processes are killed: something that left its session may write on."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Remains:
    """A worker that has ended and is not cleaned up yet; times in seconds of one clock."""

    ended_s: float
    killed_s: float | None = None
    """When the processes that it had started were killed."""


def next_rite(
    remains: Remains, *, is_output_open: bool, has_leftovers: bool, now_s: float
) -> Literal["wait", "kill", "reap"]:
    """What to do with an ended worker now: kill what it started, or let go of it. Pure.

    Args:
        remains: What was done so far.
        is_output_open: Whether something can still write into its pipes.
        has_leftovers: Whether processes of its group live.
        now_s: The time.

    >>> next_rite(Remains(ended_s=10.0), is_output_open=False, has_leftovers=False, now_s=10.0)
    'reap'
    """
    if not is_output_open and (remains.killed_s is not None or not has_leftovers):
        return "reap"
    if remains.killed_s is None:
        return "kill" if now_s - remains.ended_s >= LEFTOVER_WAIT_S else "wait"
    return "reap" if now_s - remains.killed_s >= OUTPUT_WAIT_S else "wait"


def leftovers(groups: Collection[int], proc: Path = Path("/proc")) -> tuple[int, ...]:
    """Process ids in the given process groups, zombies and the groups' leaders left out.

    Returns:
        Ascending ids; empty on a system without /proc.
    """
    return tuple(sorted(process for process, _ in _members(groups, proc)))


def groups_with_leftovers(groups: Collection[int], proc: Path = Path("/proc")) -> frozenset[int]:
    """Those of the process groups in which somebody but the leader lives."""
    return frozenset(group for _, group in _members(groups, proc))


def _members(groups: Collection[int], proc: Path) -> Iterator[tuple[int, int]]:
    """Process and group of each."""
    for entry in proc.iterdir() if proc.is_dir() else ():
        if not entry.name.isdecimal() or int(entry.name) in groups:
            continue
        try:
            stat = (entry / "stat").read_text(errors="replace")
        except OSError:
            continue  # it ended while we looked
        # The name, in parentheses, may hold anything; the fields follow the last one.
        state, _, group = stat.rpartition(")")[2].split()[:3]
        if int(group) in groups and state not in "ZX":
            yield int(entry.name), int(group)
