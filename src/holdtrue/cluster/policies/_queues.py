"""Queues with guaranteed shares that lend what they do not use and get it back by shrinking the borrower."""

from collections.abc import Sequence

from holdtrue.cluster._jobs import Queue
from holdtrue.cluster._state import ClusterState, Decision

from ._deal import deal_devices
from ._parts import count_shared
from ._wfs import Bounds, bounds_of, divide_any_count


def decide_queues(state: ClusterState) -> Decision:
    """Each queue gets its guarantee when its jobs ask for it; what is unused is lent in proportion to guarantees.

    Within a queue running jobs come first, then waiting ones by weight, then arrival; devices beyond the minima
    are divided by weight. Jobs of a part of a device share devices. When an owner asks for its devices, the
    borrower's jobs shrink; only if their minima do not fit, the last of them stop.

    Guarantee:
        A queue that asks for its guarantee gets it, but for what the minima of its own jobs cannot fill.
    """
    queues = _all_queues(state)
    members = {queue.name: _in_order(state, queue.name) for queue in queues}
    asked = [_bounds_of_queue(state, queue, members[queue.name]) for queue in queues]
    budgets = divide_any_count(state.cluster.total, asked)
    admitted = {
        queue.name: _first_that_fit(state, members[queue.name], budget)
        for queue, budget in zip(queues, budgets, strict=True)
    }
    _lend_the_rest(state, queues, members, admitted)
    granted = [_bounds_of_admitted(state, queue, admitted[queue.name]) for queue in queues]
    counts: dict[int, int] = {}
    for queue, budget in zip(queues, divide_any_count(state.cluster.total, granted), strict=True):
        counts |= _divide(state, admitted[queue.name], budget)
    waiting = len(state.jobs) - len(counts)
    return deal_devices(
        state, counts, f"guaranteed shares of {len(queues)} queues, the rest lent; {waiting} waiting"
    )


def _all_queues(state: ClusterState) -> tuple[Queue, ...]:
    """The cluster's queues, and one without a guarantee for each other name that jobs use."""
    known = {queue.name for queue in state.cluster.queues}
    others = dict.fromkeys(view.job.queue for view in state.jobs if view.job.queue not in known)
    return (*state.cluster.queues, *(Queue(name=name, guaranteed=0) for name in others))


def _in_order(state: ClusterState, queue: str) -> list[int]:
    ids = [i for i, view in enumerate(state.jobs) if view.job.queue == queue]
    return sorted(ids, key=lambda i: (state.jobs[i].grant is None, -state.jobs[i].job.weight))


def _bounds_of_queue(state: ClusterState, queue: Queue, ids: Sequence[int]) -> Bounds:
    """What the queue may get: at least what it is owed of its jobs' demand."""
    views = [state.jobs[i] for i in ids]
    parts = count_shared([view for view in views if view.job.percent < 100])
    whole = [view.job for view in views if view.job.percent == 100]
    most = parts + sum(job.max_devices for job in whole)
    return Bounds(weight=max(queue.guaranteed, 1e-3), least=min(most, queue.guaranteed), most=most)


def _bounds_of_admitted(state: ClusterState, queue: Queue, ids: Sequence[int]) -> Bounds:
    asked = _bounds_of_queue(state, queue, ids)
    return Bounds(weight=asked.weight, least=max(asked.least, _least(state, ids)), most=asked.most)


def _least(state: ClusterState, ids: Sequence[int]) -> int:
    views = [state.jobs[i] for i in ids]
    parts = count_shared([view for view in views if view.job.percent < 100])
    return parts + sum(view.job.min_devices for view in views if view.job.percent == 100)


def _first_that_fit(state: ClusterState, ids: Sequence[int], budget: int) -> list[int]:
    """The first jobs of a queue whose minima fit in its budget; nobody overtakes."""
    admitted: list[int] = []
    for i in ids:
        if _least(state, [*admitted, i]) > budget:
            break
        admitted.append(i)
    return admitted


def _lend_the_rest(
    state: ClusterState,
    queues: Sequence[Queue],
    members: dict[str, list[int]],
    admitted: dict[str, list[int]],
) -> None:
    """Admit the next jobs of each queue while what everybody is owed still fits; changes `admitted`."""
    for queue in queues:
        line = members[queue.name]
        while len(admitted[queue.name]) < len(line):
            trial = {**admitted, queue.name: line[: len(admitted[queue.name]) + 1]}
            if sum(_owed(state, q, trial[q.name]) for q in queues) > state.cluster.total:
                break
            admitted[queue.name] = trial[queue.name]


def _owed(state: ClusterState, queue: Queue, ids: Sequence[int]) -> int:
    return _bounds_of_admitted(state, queue, ids).least


def _divide(state: ClusterState, ids: Sequence[int], budget: int) -> dict[int, int]:
    whole = [i for i in ids if state.jobs[i].job.percent == 100]
    parts = [i for i in ids if state.jobs[i].job.percent < 100]
    left = budget - count_shared([state.jobs[i] for i in parts])
    counts = divide_any_count(left, [bounds_of(state.jobs[i].job) for i in whole])
    return {**dict.fromkeys(parts, 1), **dict(zip(whole, counts, strict=True))}
