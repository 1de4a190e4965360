"""Processes that workers started and left behind."""

from collections.abc import Collection
from pathlib import Path


def leftovers(groups: Collection[int], proc: Path = Path("/proc")) -> tuple[int, ...]:
    """Process ids in the given process groups, zombies and the groups' leaders left out.

    Returns:
        Ascending ids; empty on a system without /proc.
    """
    found: list[int] = []
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
            found.append(int(entry.name))
    return tuple(sorted(found))
