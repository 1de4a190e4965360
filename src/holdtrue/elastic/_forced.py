"""The view after a death. Pure.

Who may be in it: living workers that have the state. A joiner whose word is not in is left out and joins again by a
planned view: whether it got the state before the death is not known, and a guess could not be taken back.

When: at once if a member of the newest view is dead, since no collective of that view can complete any more, so all
its members come to look for a newer one. Otherwise, when every member has said that it lost the others. A member that is
alive and says nothing for a whole group time-out after that is killed, or else expelled. Where the connections of the
member and of its host both broke, and the others have lost it too, its machine is most likely gone: it is expelled sooner.
"""

from collections.abc import Sequence

from holdtrue.wire import Kill, Over

from ._hear_host import bury
from ._state import State, Worker
from ._turn import Turn
from ._view import Member, View


def force_view(turn: Turn) -> None:
    """Send the survivors' view, if it is time."""
    newest = turn.state.newest
    if newest is None or not any(w.lost_s is not None or not w.is_living for w in turn.state.workers):
        return
    core = survivors(turn)
    if not core:
        return  # `end_job` looks at it
    dead = _dead_of(turn, newest)
    reporters = [worker for worker in core if worker.lost_s is not None]
    silent = [worker for worker in core if worker.lost_s is None]
    if dead or (reporters and not silent):
        if turn.now >= word_ends_s(turn.state):
            _send(turn, core, dead, are_all_lost=not dead)
    elif reporters:
        for worker in silent:
            if turn.now >= silence_ends_s(turn.state, worker, reporters):
                _end_silence(turn, worker)


def word_ends_s(state: State) -> float:
    """Until when joiners are waited for that may have got the state just before the death; 0 if there are none.

    Their word is most likely on its way, and without it they would have to join anew. One whose connection broke says it
    when it is back: it may be the only one that has the newest state, where the others of its view died.
    """
    if not state.chain:
        return 0.0
    known = {worker.number: worker for worker in state.workers}
    named = [worker for m in state.chain[-1].members if (worker := known.get(m.worker)) is not None]
    silent = [w for w in named if w.is_living and not w.has_state and w.lost_s is None]
    if not any(w.is_connected or w.dropped_s is not None for w in silent):
        return 0.0
    are_here = all(w.is_connected for w in silent)
    wait_s = state.settings.word_wait_s if are_here else state.settings.reconnect_s
    ends = [worker.since_s if worker.phase == "gone" else worker.lost_s for worker in named]
    return max((at_s for at_s in ends if at_s is not None), default=0.0) + wait_s


def silence_ends_s(state: State, silent: Worker, reporters: Sequence[Worker]) -> float:
    """Until when a member that said nothing is waited for.

    A reporter that waited out the group's time-out has seen that silence already: whoever had been in the same
    collective sees its connection break now, and says so.
    """
    settings = state.settings
    ends_s = min(
        worker.lost_s + (settings.silence_grace_s if worker.has_waited else settings.group_timeout_s)
        for worker in reporters
        if worker.lost_s is not None
    )
    gone_s = _unreachable_since_s(state, silent)
    if gone_s is None:
        return ends_s
    first_lost_s = min(worker.lost_s for worker in reporters if worker.lost_s is not None)
    return min(ends_s, max(gone_s, first_lost_s) + settings.lost_host_s)


def _unreachable_since_s(state: State, worker: Worker) -> float | None:
    """Since when neither a worker nor the host that would tell of its death is connected; None if one is, or never was."""
    host = state.host(worker.host)
    if host is None or host.is_connected or host.dropped_s is None or worker.dropped_s is None:
        return None
    return max(host.dropped_s, worker.dropped_s)


def survivors(turn: Turn) -> tuple[Worker, ...]:
    """Living workers with the state, by rank in the newest view; of an older open view if that has none.

    Where the newest has finished all that the job writes, those whom it left out have nothing to go on with.
    """
    known = {worker.number: worker for worker in turn.state.workers}
    for view in turn.state.chain[-1:] if turn.state.has_main_finished else reversed(turn.state.chain):
        core = tuple(
            worker
            for member in view.members
            if (worker := known.get(member.worker)) is not None and worker.is_living and worker.has_state
        )
        if core:
            return core
    return ()


def _dead_of(turn: Turn, view: View) -> tuple[int, ...]:
    known = {worker.number: worker for worker in turn.state.workers}
    well = ("finished",) if turn.state.stop_reason is None else ("finished", "left")
    return tuple(
        member.worker
        for member in view.members
        if ((worker := known.get(member.worker)) is None and member.worker in turn.state.gone)
        or (worker is not None and not worker.is_living and worker.how_gone not in well)
    )


def _send(turn: Turn, core: tuple[Worker, ...], dead: tuple[int, ...], *, are_all_lost: bool) -> None:
    state = turn.state
    members = tuple(_address_of(worker) for worker in core)
    numbers = {member.worker for member in members}
    if are_all_lost:
        cause = "all members lost one another, and none is dead"
    else:
        cause = f"worker{'s' if len(dead) > 1 else ''} {', '.join(map(str, dead))} gone"
    mapping = (
        state.mapping if state.newest is not None and len(state.newest.members) == len(members) else None
    )
    if mapping != state.mapping:
        turn.set(mapping=mapping)
    view = View(
        generation=state.next_generation,
        members=members,
        mapping=mapping,
        cause=cause,
        lost=tuple(sorted(dead)),
    )
    turn.send_view(view)
    turn.note(f"generation {view.generation} of workers {sorted(numbers)}, entered at once: {cause}")
    for worker in core:
        turn.set_worker(worker, lost_s=None, kill_s=None)
    named = [member.worker for each in state.chain for member in each.members]
    for worker in turn.state.workers:
        if worker.is_living and worker.number in named and worker.number not in numbers:
            _leave_out(turn, worker, view)


def _leave_out(turn: Turn, worker: Worker, view: View) -> None:
    """A joiner says again that it is ready; a leaver, or one with another state, can go."""
    if worker.has_state:
        turn.dismiss(worker, Over(how="left", reason="the others go on without it"))
    else:
        turn.set_worker(worker, phase="waiting", void=view.generation, lost_s=None)


def _end_silence(turn: Turn, worker: Worker) -> None:
    settings = turn.state.settings
    if worker.kill_s is None:
        reason = "it is silent and the others have lost it"
        if turn.tell_host(worker.host, Kill(worker=worker.number, reason=reason)):
            turn.set_worker(worker, kill_s=turn.now)
            turn.note(f"worker {worker.number} is killed: {reason}")
            return
    elif turn.now < worker.kill_s + settings.kill_wait_s:
        return
    reason = (
        f"worker {worker.number} was silent for the group's time-out of {settings.group_timeout_s:g} s"
        if _unreachable_since_s(turn.state, worker) is None
        else f"the others lost worker {worker.number}, and neither it nor its host can be reached"
    )
    turn.tell(worker.number, Over(how="expelled", reason=reason))
    bury(turn, worker, f"{reason}; it is expelled")


def _address_of(worker: Worker) -> Member:
    assert worker.address is not None, f"worker {worker.number} is in a view and never said hello"
    return worker.address
