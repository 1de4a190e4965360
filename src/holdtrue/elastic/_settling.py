"""Which views are behind us, and who is left over. Pure."""

from collections.abc import Mapping

from holdtrue.wire import Over

from ._state import Worker
from ._turn import Turn
from ._view import View


def settle_views(turn: Turn) -> None:
    """Drop views that all living members have left behind; those who are in no open view may go."""
    state = turn.state
    if not state.chain:
        _forget(turn)
        return
    known = {worker.number: worker for worker in state.workers}
    for at in range(len(state.chain) - 1, 0, -1):
        view = state.chain[at]
        if _stands(view, known):
            turn.set(chain=state.chain[at:])
            turn.note(f"generation {view.generation} stands: {view.cause}")
            break
    _release(turn)
    _forget(turn)


def _stands(view: View, known: Mapping[int, Worker]) -> bool:
    """Whether all living members entered the view, or a newer one."""
    is_somebody_there = False
    for member in view.members:
        worker = known.get(member.worker)
        if worker is not None and worker.is_living:
            if worker.generation < view.generation:
                return False
            is_somebody_there = True
    return is_somebody_there


def _release(turn: Turn) -> None:
    """Former members that no open view names have nothing to wait for."""
    named = {member.worker for view in turn.state.chain for member in view.members}
    for worker in turn.state.workers:
        if worker.phase == "member" and worker.number not in named:
            turn.dismiss(worker, Over(how="left", reason="the others go on without it"))


def _forget(turn: Turn) -> None:
    """Records of the gone are kept as long as an open view names them; their numbers for ever."""
    named = {member.worker for view in turn.state.chain for member in view.members}
    gone = [worker for worker in turn.state.workers if worker.phase == "gone"]
    if any(worker.number not in turn.state.gone for worker in gone):
        turn.set(gone=turn.state.gone | {worker.number for worker in gone})
    if any(worker.number not in named for worker in gone):
        kept = tuple(w for w in turn.state.workers if w.phase != "gone" or w.number in named)
        turn.set(workers=kept)
