"""A controller without memory learns the membership from its workers. Pure."""

from holdtrue.wire import Hello

from ._ending import fail_job
from ._hear_host import bury
from ._state import LEFT, State, Worker
from ._translate import view_from_text
from ._turn import Turn
from ._view import View


def is_listening(state: State, now: float) -> bool:
    """Whether a controller that was started again has still to hear of workers that lived before it.

    The first to say hello may have been left out, without having heard of it: what it says of the job is old. All are back when
    each member of the newest view that is known is, a host that says whom it runs, and whoever runs there.
    """
    assert state.began_s is not None
    if not state.settings.life or now >= state.began_s + state.settings.settle_s:
        return False
    back = {
        worker.number for worker in state.workers if worker.is_connected or not worker.is_living
    } | state.gone
    hosts = [host for host in state.hosts if host.is_connected]
    awaited = {member.worker for member in state.newest.members} if state.newest is not None else set()
    are_back = awaited.union(*(host.running for host in hosts)) <= back
    return not (awaited and hosts and are_back)


def learn_views(turn: Turn, hello: Hello, *, was_known: bool) -> bool:
    """Take over the views that a worker knows and the controller does not.

    Returns:
        False if the job went on without the worker: no open view has it, and it was in one.
    """
    views = [view_from_text(text) for text in hello.views]
    first_time = not turn.state.chain
    known = {view.generation for view in turn.state.chain}
    new = [view for view in views if view.generation not in known]
    if first_time and not new:
        return True
    if new:
        chain = sorted((*turn.state.chain, *new), key=lambda view: view.generation)
        newest = max(turn.state.generation, chain[-1].generation)
        turn.set(chain=tuple(chain), generation=newest, phase="running")
        for view in new:
            _know_members(turn, view, is_first=view is views[0])
        if first_time:
            turn.note(f"the job trains in generation {newest}; its controller was started again")
            if not turn.state.remembers:
                turn.set(target=max(len(turn.state.counted), 1), mapping=chain[-1].mapping)
    worker = turn.state.worker(hello.worker)
    assert worker is not None
    is_in_chain = any(view.rank_of(hello.worker) is not None for view in turn.state.chain)
    if hello.generation > 0 and not is_in_chain:
        return False
    if is_in_chain and worker.phase != "member" and (new or not was_known):
        turn.set_worker(worker, phase="member", has_state=worker.has_state or hello.generation > 0)
    if not was_known and not turn.state.remembers:
        turn.set(target=max(turn.state.target, len(turn.state.counted)))
    return True


def _know_members(turn: Turn, view: View, *, is_first: bool) -> None:
    """Records of members that said nothing yet: they may be on their way, or dead."""
    for member in view.members:
        if member.worker in turn.state.gone:
            _know_gone(turn, member.worker)
            continue
        has_state = is_first and member.worker not in view.joiners
        worker = turn.state.worker(member.worker) or Worker(
            number=member.worker, phase="member", since_s=turn.now
        )
        turn.set_worker(
            worker,
            phase="member" if worker.is_living else worker.phase,
            address=worker.address or member,
            is_leaving=worker.is_leaving or member.worker in turn.state.leaving_before,
            has_state=worker.has_state or has_state,
        )


def _know_gone(turn: Turn, number: int) -> None:
    """A member had ended before the controller knew of it: in order, unless its host said otherwise."""
    newest = turn.state.newest
    if turn.state.worker(number) is not None or newest is None or newest.rank_of(number) is None:
        return
    status = dict(turn.state.ended_before).get(number, 1)
    worker = turn.set_worker(
        Worker(number=number, phase="member", since_s=turn.now, has_state=number not in newest.joiners)
    )
    sentence = dict(turn.state.errors_before).get(number)
    if status == 0:
        turn.part_with(worker, "finished")
    elif status == LEFT:
        turn.part_with(worker, "left")
    elif sentence is not None:
        fail_job(turn, f"worker {number} failed: {sentence}")
    elif not turn.state.remembers:
        turn.part_with(worker, "died")
    else:
        bury(turn, worker, f"worker {number} died before its controller was started again")
