"""The decision: one event in, a new state, messages and a sentence out. Pure.

    decide(state, event, now) = note what the event says, then apply the rules until nothing changes

Facts (what was said)     _hear_worker, _hear_host, _ask
Rules (what follows)      _ending, _founding, _forced, _planned, _staff; each looks at the whole state, never at the event,
                          so that a message that came twice, late, or to a controller without memory leads to the same
"""

from collections.abc import Iterable

from holdtrue.wire import Entered

from ._ask import ask_mapping, ask_resize, ask_stop
from ._ending import end_job
from ._events import (
    Decision,
    Event,
    HostDropped,
    HostSaid,
    MappingAsked,
    ResizeAsked,
    StopAsked,
    WorkerDropped,
    WorkerSaid,
)
from ._forced import force_view
from ._founding import found_job
from ._hear_host import drop_host, hear_host
from ._hear_worker import drop_worker, hear_worker
from ._learning import is_listening
from ._planned import plan_view
from ._settling import settle_views
from ._staff import balance_staff
from ._state import State
from ._turn import Turn

_RULES = (settle_views, force_view, end_job, found_job, plan_view, balance_staff)
_WHILE_LISTENING = (settle_views,)
"""A controller that may not know the newest view yet sends no view, starts nobody, sends nobody away and ends no job."""
_MOST_ROUNDS = 32


def decide(state: State, event: Event, now: float) -> Decision:
    """What the controller does about one event.

    Args:
        state: All that is known before it.
        event: What happened.
        now: Seconds of a clock that never goes back.

    Guarantee:
        Pure; the same states, events and times give the same decisions, so a list of (now, event) replays a job.
    """
    turn = Turn(state, now)
    if turn.state.began_s is None:
        turn.set(began_s=now)
    _note_event(turn, event)
    if _is_one_of_many(state, event, turn):
        return Decision(state=turn.state, actions=(), reason="", moves_deadlines=False)
    for _ in range(_MOST_ROUNDS):
        before = turn.state
        for rule in _WHILE_LISTENING if is_listening(turn.state, now) else _RULES:
            if turn.state.phase != "over":
                rule(turn)
        if turn.state == before:
            break
    else:
        raise AssertionError(f"the rules of membership do not settle after {event}")
    return Decision(state=turn.state, actions=tuple(turn.actions), reason="\n".join(turn.sentences))


def _is_one_of_many(before: State, event: Event, turn: Turn) -> bool:
    """Whether a member only followed into a view that others have still to enter: then no rule has anything new to see.

    The rules were at rest before, and what time alone changes has a tick of its own. With hundreds of members this is
    nearly every event.
    """
    if not isinstance(event, WorkerSaid) or not isinstance(event.message, Entered) or turn.actions:
        return False
    worker, newest = before.worker(event.worker), turn.state.newest
    if worker is None or newest is None or not worker.has_state or worker.lost_s is not None:
        return False
    # From the end: who was told last most likely answers last.
    lagging = (turn.state.worker(member.worker) for member in reversed(newest.members))
    return any(
        each is not None and each.is_living and each.generation < newest.generation for each in lagging
    )


def replay(state: State, log: Iterable[tuple[float, Event]]) -> list[Decision]:
    """The decisions of a whole log, in order."""
    decisions = []
    for now, event in log:
        decisions.append(decide(state, event, now))
        state = decisions[-1].state
    return decisions


def _note_event(turn: Turn, event: Event) -> None:
    match event:
        case WorkerSaid(worker=worker, message=message):
            hear_worker(turn, worker, message)
        case WorkerDropped(worker=worker):
            drop_worker(turn, worker)
        case HostSaid(host=host, message=message):
            hear_host(turn, host, message)
        case HostDropped(host=host):
            drop_host(turn, host)
        case ResizeAsked(workers=workers):
            ask_resize(turn, workers)
        case StopAsked(reason=reason):
            ask_stop(turn, reason)
        case MappingAsked(mapping=mapping):
            ask_mapping(turn, mapping)
        case _:
            pass  # time has passed: the rules look at it
