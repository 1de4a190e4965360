"""What one controller of a job leaves to the next: wishes that were accepted, and what is left of a budget. Pure.

Workers know the views, and hosts know who lives. What a user asked for, and what deaths have used up, nobody knows but
the controller; so it writes that down before it acts, and a controller that is started again begins with it.
"""

import json
from dataclasses import asdict, dataclass, field, fields, replace
from typing import final

from ._state import JobSettings, State, first_state


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Of a state, what no worker and no host could tell. Fields as in `State`."""

    target: int
    restarts_left: int
    stop_reason: str | None = None
    mapping: str | None = None
    mapping_reason: str = ""
    adds: dict[str, int] = field(default_factory=dict)
    """By host, the workers that it asked for and was not given yet, or of which nothing was heard yet."""
    has_begun: bool = False
    """Whether there was a view: those who wait may all be joiners, who have no state to go on from."""
    leaving: list[int] = field(default_factory=list)
    """Workers that asked to leave, whom `target` does not count any more; they will say it again."""


def memory_of(state: State) -> Memory:
    """What is to be kept of a state."""
    return Memory(
        target=state.target,
        restarts_left=state.restarts_left,
        stop_reason=state.stop_reason,
        mapping=state.mapping,
        mapping_reason=state.mapping_reason,
        adds=_adds_of(state),
        has_begun=state.has_begun or state.phase != "founding",
        leaving=sorted(_leaving_in(state)),
    )


def _leaving_in(state: State) -> set[int]:
    """Those who asked to leave and are not known to be gone, also if this controller has not heard of them yet."""
    asked = {w.number for w in state.workers if w.is_leaving and w.phase != "gone"}
    return asked | (state.leaving_before - state.gone)


def _adds_of(state: State) -> dict[str, int]:
    """By host, the workers that it will still ask for, as far as is known: an order may be lost with this controller."""
    unheard = [w.host for w in state.workers if w.is_added and w.phase == "starting"]
    adds = {host.name: host.adds + unheard.count(host.name) for host in state.hosts}
    return {name: count for name, count in adds.items() if count}


def recall(settings: JobSettings, memory: Memory | None) -> State:
    """The state of a controller that has heard of nobody; `memory` is what the one before it kept, if one did."""
    state = first_state(settings)
    if memory is None or not settings.life:
        return state
    return replace(
        state,
        target=memory.target,
        restarts_left=memory.restarts_left,
        stop_reason=memory.stop_reason,
        mapping=memory.mapping,
        mapping_reason=memory.mapping_reason,
        adds_before=tuple(sorted(memory.adds.items())),
        has_begun=memory.has_begun,
        leaving_before=frozenset(memory.leaving),
        remembers=True,
    )


def memory_to_text(memory: Memory) -> str:
    """The memory as one JSON object."""
    return json.dumps(asdict(memory))


def memory_from_text(text: str) -> Memory | None:
    """What `memory_to_text` wrote; None for anything else.

    >>> memory_from_text(memory_to_text(Memory(target=2, restarts_left=0))) == Memory(target=2, restarts_left=0)
    True
    >>> memory_from_text("{}") is None, memory_from_text("[") is None
    (True, True)
    """
    try:
        values = json.loads(text)
    except ValueError:
        return None
    if not isinstance(values, dict) or set(values) != {each.name for each in fields(Memory)}:
        return None
    return Memory(**values)
