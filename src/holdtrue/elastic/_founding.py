"""The founders' view. Pure."""

from ._ending import fail_job
from ._state import State, Worker
from ._turn import Turn
from ._view import View


def found_job(turn: Turn) -> None:
    """Send the founders' view when those who are awaited are here."""
    state, settings = turn.state, turn.state.settings
    if (
        state.phase != "founding"
        or state.stop_reason is not None
        or state.has_begun
        or (state.ended_before and not state.workers)
    ):
        return
    assert state.began_s is not None
    here = [worker for worker in state.workers if worker.phase == "waiting" and worker.address is not None]
    awaited = max(state.target, 1)
    if awaited < min(settings.least, settings.workers):
        fail_job(
            turn,
            f"only {awaited} of {settings.least} workers that the job needs can begin; the others are gone. "
            f"Look at their logs.",
        )
    elif len(here) >= awaited or (
        len(here) >= settings.least
        and (until_s := patience_ends_s(state)) is not None
        and turn.now >= until_s
    ):
        _found(turn, here)
    elif turn.now >= state.began_s + settings.start_timeout_s:
        fail_job(
            turn,
            f"{len(here)} of {awaited} workers said hello within {settings.start_timeout_s:g} s; the job needs "
            f"{settings.least} to begin. "
            + (
                f"The last was not started: {state.no_start}"
                if state.no_start
                else "Look at the logs of the others."
            ),
        )


def patience_ends_s(state: State) -> float | None:
    """When those who are here begin without the others; None before anybody is.

    Others whose processes start on a host that is here are on their way: on a loaded machine their imports can take many times as
    long as those of the first.
    """
    if state.began_s is None or state.first_hello_s is None:
        return None
    hosts = {host.name for host in state.hosts if host.is_connected}
    are_starting = any(worker.phase == "starting" and worker.host in hosts for worker in state.workers)
    grace_s = state.settings.starting_grace_s if are_starting else state.settings.grace_s
    return state.first_hello_s + grace_s


def _found(turn: Turn, here: list[Worker]) -> None:
    state = turn.state
    members = tuple(worker.address for worker in here if worker.address is not None)
    mapping = state.mapping if state.mapping and len(state.mapping.split("/")) == len(members) else None
    turn.set(phase="running", mapping=mapping)
    view = View(
        generation=state.next_generation,
        members=members,
        mapping=mapping,
        cause=f"the job begins with {len(members)} worker{'s' * (len(members) != 1)}",
    )
    for worker in here:
        turn.set_worker(worker, phase="member", has_state=True)
    turn.send_view(view)
    turn.note(f"generation {view.generation} of workers {[m.worker for m in members]}: {view.cause}")
