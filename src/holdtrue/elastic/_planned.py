"""Planned changes of the membership: grow, shrink, another mapping. Pure.

One planned view is under way at a time. Whatever is asked meanwhile moves the target, and the next view goes to the
newest one: so each view has exactly one view before it, and its joiners are the same for everybody.
"""

from holdtrue.units import cut_text

from ._state import Worker
from ._turn import Turn
from ._view import Member, View

_SHOWN = 1000
"""Characters of a mapping in a sentence; records have all."""


def plan_view(turn: Turn) -> None:
    """Send the next planned view, if the members are at rest and something is to change."""
    state = turn.state
    if (
        state.phase != "running"
        or state.stop_reason is not None
        or state.is_finishing
        or len(state.chain) != 1
    ):
        return
    present = state.chain[0]
    members = state.members
    if len(members) != len(present.members) or any(w.generation < present.generation for w in members):
        return
    if any(worker.lost_s is not None for worker in members):
        return
    stayers = [worker for worker in members if not worker.is_leaving][: max(state.target, 1)]
    joiners = _joiners_of(turn, room=state.target - len(stayers))
    if not stayers:
        if not joiners:
            _leave_last(turn)
            return
        stayers = [members[0]]  # the joiners need one that has the state; it leaves with the next view
    _send(turn, present, stayers, joiners)


def _joiners_of(turn: Turn, *, room: int) -> list[Worker]:
    """Ready joiners that fit, unless others that fit too are about to be ready."""
    state, settings = turn.state, turn.state.settings
    ready = [worker for worker in state.workers if worker.phase == "ready" and worker.is_connected]
    if room <= 0 or not ready:
        return []
    coming = [worker for worker in state.workers if worker.phase in ("starting", "waiting")]
    first_s = min(worker.ready_s for worker in ready)
    if coming and len(ready) < room and turn.now < first_s + settings.gather_s:
        return []
    return ready[:room]


def _leave_last(turn: Turn) -> None:
    """The last members want to leave: others on their way are waited for, or the job stops with a checkpoint."""
    if not any(worker.phase in ("starting", "waiting", "ready") for worker in turn.state.workers):
        turn.stop("its last worker leaves")


def _send(turn: Turn, present: View, stayers: list[Worker], joiners: list[Worker]) -> None:
    state = turn.state
    by_number = {worker.number: worker for worker in (*stayers, *joiners)}
    members = tuple(_address_of(worker) for worker in by_number.values())
    mapping = state.mapping if state.mapping and len(state.mapping.split("/")) == len(members) else None
    if [m.worker for m in members] == [m.worker for m in present.members] and mapping == present.mapping:
        return
    turn.set(mapping=mapping)
    view = View(
        generation=state.next_generation,
        members=members,
        joiners=tuple(worker.number for worker in joiners),
        is_planned=True,
        mapping=mapping,
        cause=_cause_of(present, members, mapping, state.mapping_reason),
    )
    for worker in joiners:
        turn.set_worker(worker, phase="member")
    turn.send_view(view)
    turn.note(
        f"generation {view.generation} of workers {[m.worker for m in members]}, at the next boundary: {view.cause}"
    )


def _cause_of(present: View, members: tuple[Member, ...], mapping: str | None, reason: str) -> str:
    before, after = {m.worker for m in present.members}, {m.worker for m in members}
    parts = []
    if after - before:
        parts.append(f"{_workers(after - before)} join{'s' if len(after - before) == 1 else ''}")
    if before - after:
        parts.append(f"{_workers(before - after)} leave{'s' if len(before - after) == 1 else ''}")
    if not parts:
        parts.append(f"mapping {'even' if mapping is None else cut_text(mapping, _SHOWN)}")
        parts += [f"since {reason}"] if reason and mapping is not None else []
    return ", ".join(parts)


def _workers(numbers: set[int]) -> str:
    return f"worker{'s' if len(numbers) > 1 else ''} {', '.join(map(str, sorted(numbers)))}"


def _address_of(worker: Worker) -> Member:
    assert worker.address is not None, f"worker {worker.number} is to be in a view and never said hello"
    return worker.address
