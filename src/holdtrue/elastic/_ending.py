"""How a job ends. Pure."""

from typing import Literal

from holdtrue.wire import Finish, Over

from ._state import LEFT, State
from ._turn import Turn


def end_job(turn: Turn) -> None:
    """End the job when nobody is left to go on with it."""
    state = turn.state
    if not state.chain:
        _end_before_it_began(turn)
        return
    known = {worker.number: worker for worker in state.workers}
    newest = {member.worker for member in state.chain[-1].members}
    living = [w for w in state.workers if w.is_living and w.phase == "member" and w.has_state]
    if state.has_main_finished:  # those whom the newest view left out have nothing to go on with
        living = [worker for worker in living if worker.number in newest]
    if living:
        _end_in_the_dark(turn)
        return
    last = [worker for m in state.chain[-1].members if (worker := known.get(m.worker)) is not None]
    well = ("finished",) if state.stop_reason is None else ("finished", "left")  # who left had not finished
    finished = [worker for worker in last if worker.how_gone in well]
    died = [worker.number for worker in last if worker.has_state and worker not in finished]
    unknown = [worker for worker in last if worker.is_living and worker.lost_s is None]
    is_done = bool(finished and not died) or state.has_main_finished
    if not is_done and unknown and turn.now < last_end_s(state) + state.settings.group_timeout_s:
        return  # a joiner may have got the state from those who died; it will say so
    if not is_done:
        fail_job(
            turn, _deaths(died, at_the_end=state.is_finishing, is_stopping=state.stop_reason is not None)
        )
    elif state.stop_reason is not None:
        close_job(turn, "stopped", state.stop_reason)
    else:
        close_job(turn, "finished", "the workers came to the end of the script")


def _deaths(died: list[int], *, at_the_end: bool, is_stopping: bool) -> str:
    who = ", ".join(map(str, died))
    if at_the_end and is_stopping:
        return (
            f"worker {who} died while the job stopped, before the main worker had left; the checkpoint of that boundary may "
            f"be missing. Go on from the newest one with --resume."
        )
    if at_the_end:
        return (
            f"worker {who} died at the end of the script, when others had finished and the main worker had not; "
            f"its last writes may be missing. Look for them, or go on from the last checkpoint with --resume."
        )
    return (
        f"all workers died, the last were {who}; nobody has the state in memory. "
        f"Go on from the last checkpoint with --resume."
    )


def last_end_s(state: State) -> float:
    """When the last of the known workers went; 0 if none did."""
    return max((worker.since_s for worker in state.workers if worker.phase == "gone"), default=0.0)


def dark_since_s(state: State) -> float | None:
    """Since when no member with the state can be reached, neither itself nor its host; None if one can.

    Hosts that run none do not count: they can say nothing of it, and what they could start would have no state.
    """
    living = [worker for worker in state.workers if worker.is_living]
    members = [worker for worker in living if worker.phase == "member" and worker.has_state] or living
    names = {worker.host for worker in members}
    hosts = [
        host
        for host in state.hosts
        if host.name in names or (None in names and (host.slots or host.running)) or not members
    ]
    if any(host.is_connected for host in hosts) or any(worker.is_connected for worker in members):
        return None
    times = [*(worker.dropped_s for worker in members), *(host.dropped_s for host in hosts)]
    return max((at_s for at_s in times if at_s is not None), default=state.began_s)


def _end_in_the_dark(turn: Turn) -> None:
    """A controller that was cut off gives up in the end, so that it cannot outlive its job."""
    since_s, settings = dark_since_s(turn.state), turn.state.settings
    if since_s is not None and turn.now >= since_s + settings.dark_s:
        fail_job(
            turn,
            f"neither a worker nor a host could be reached for {settings.dark_s:g} s. Look at their logs.",
        )


def _end_before_it_began(turn: Turn) -> None:
    state = turn.state
    if state.stop_reason is not None:
        close_job(turn, "stopped", state.stop_reason)
    elif state.has_begun or (state.ended_before and not state.workers):
        # A controller that was started again, too late: to begin anew would do everything twice.
        assert state.began_s is not None
        if any(worker.is_living and not worker.is_connected for worker in state.workers) and (
            turn.now < state.began_s + state.settings.start_timeout_s
        ):
            return  # one that runs and has said nothing yet may have the state
        statuses = [status for _, status in state.ended_before if status != LEFT]
        if any(statuses) or not statuses:
            fail_job(turn, "all workers had ended when the controller was started again. Look at their logs.")
        else:
            close_job(
                turn, "finished", "all workers had ended in order when the controller was started again"
            )
    elif state.target < 1:
        fail_job(turn, "all workers died before the job began. Look at their logs.")


def fail_job(turn: Turn, sentence: str) -> None:
    """End the job with an error."""
    if turn.state.phase != "over":
        close_job(turn, "failed", sentence)


def close_job(turn: Turn, how: Literal["finished", "stopped", "failed"], reason: str) -> None:
    """Tell everybody that the job is over."""
    turn.note(f"the job {'is' if how != 'failed' else 'has'} {how}: {reason}")
    for worker in turn.state.workers:
        if worker.phase != "gone":
            turn.tell(worker.number, Over(how=how, reason=reason))
    for host in turn.state.hosts:
        turn.tell_host(host.name, Finish(how=how, reason=reason))
    turn.set(phase="over", how_over=how, over_reason=reason)
