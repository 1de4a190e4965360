"""How many workers a run had, step by step, from its events. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any


def workers_over_steps(
    events: Iterable[Mapping[str, Any]],
) -> tuple[tuple[int, int], ...]:  # Any: JSON values
    """Steps from which on a run had so many workers, ascending; of two changes before one step, the later.

    Args:
        events: As `events.jsonl` has them. One without `workers` in its details says nothing.

    >>> workers_over_steps([{"kind": "started", "step": None, "details": {"workers": [0]}},
    ...                     {"kind": "resize", "step": 26, "details": {"workers": [0, 1]}}])
    ((0, 1), (26, 2))
    """
    found: dict[int, int] = {}
    kept = 0
    for event in events:
        step, workers = event["step"], event["details"].get("workers")
        if event["kind"] == "checkpoint" and isinstance(step, int):
            kept = step
        if isinstance(workers, list | tuple):
            at = step if isinstance(step, int) else kept  # a run that resumes goes on from its checkpoint
            found = {s: n for s, n in found.items() if s < at} | {at: len(workers)}
    return tuple(found.items())
