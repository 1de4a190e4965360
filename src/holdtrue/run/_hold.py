"""Holding a run before a step until its membership changes: for proofs whose steps are faster than a worker starts."""

import time
from typing import TYPE_CHECKING

from holdtrue.errors import GroupError, UsageError
from holdtrue.wire import held_note

if TYPE_CHECKING:
    from ._core import Core

_HOLD_S = 60.0
"""What a worker has to start and to import what its script does."""
_SLICE_S = 0.2
"""How often a held run looks whether Ctrl-C was pressed."""


def parse_hold_at(text: str) -> frozenset[int]:
    """Steps before which the run is held, of the setting `hold_at`.

    >>> sorted(parse_hold_at("5,12"))
    [5, 12]
    """
    try:
        return frozenset(int(part) for part in text.split(",") if part)
    except ValueError:
        raise UsageError(
            f"hold_at is {text!r}; it names steps parted by commas, such as 5,12. Write it so, or leave it out."
        ) from None


def hold_if_asked(core: "Core") -> None:
    """Wait until this worker knows a view after the present one, where `hold_at` names the step that comes next.

    Every worker that goes on knows such a view, so the ledger of the next round agrees on it, whoever knew it first.

    Raises:
        GroupError: none came within 60 s, or the time-out of the run where that is less.
    """
    group, step = core.elastic, core.calls.position.step
    if group is None or not core.settings.hold_at or step not in parse_hold_at(core.settings.hold_at):
        return
    core.outlet.say(held_note(step))
    wait_s = min(_HOLD_S, core.settings.timeout_s)
    until_s = time.monotonic() + wait_s
    while not group.agent.wait_for_news(group.generation, timeout_s=_SLICE_S):
        if core.wishes.is_interrupted:
            return
        if time.monotonic() > until_s:
            raise GroupError(
                f"hold_at held the run before step {step} for a change of its workers, and none came in {wait_s:g} s; "
                f"a hold needs one. Ask for the change with `holdtrue resize`, or leave hold_at out."
            )
