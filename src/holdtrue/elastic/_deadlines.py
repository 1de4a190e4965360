"""When time alone will change a decision. Pure."""

from collections.abc import Iterator

from ._ending import dark_since_s, last_end_s
from ._forced import silence_ends_s, word_ends_s
from ._founding import patience_ends_s
from ._staff import host_vanished_s, is_out_of_reach
from ._state import State, Worker


def next_deadline_s(state: State, now: float) -> float | None:
    """The earliest time after `now` at which `decide` should see `Ticked`; None if only events matter."""
    if state.phase == "over":
        return None
    return min((at_s for at_s in _deadlines(state) if at_s > now), default=None)


def _deadlines(state: State) -> Iterator[float]:
    settings = state.settings
    if state.began_s is not None and (settings.life or state.ended_before):
        yield state.began_s + settings.settle_s
    if state.began_s is not None and state.phase == "founding":
        yield state.began_s + settings.start_timeout_s
        until_s = patience_ends_s(state)
        if until_s is not None:
            yield until_s
    reporters = [worker for worker in state.workers if worker.lost_s is not None]
    if reporters:
        for worker in state.members:
            if worker.lost_s is None:
                yield silence_ends_s(state, worker, reporters)
    if state.chain:
        if any(worker.phase == "gone" for worker in state.workers):
            yield last_end_s(state) + settings.group_timeout_s
        yield word_ends_s(state)
        dark_s = dark_since_s(state)
        if dark_s is not None:
            yield dark_s + settings.dark_s
    for worker in state.workers:
        if worker.phase != "member" or worker.kill_s is not None:
            yield from _deadlines_of(state, worker)


def _deadlines_of(state: State, worker: Worker) -> Iterator[float]:
    settings = state.settings
    if worker.kill_s is not None:
        yield worker.kill_s + settings.kill_wait_s
    if worker.phase == "starting":
        yield worker.since_s + settings.start_timeout_s
        vanished_s = host_vanished_s(state, worker)
        if vanished_s is not None:
            yield vanished_s + settings.host_wait_s
    if worker.phase == "ready":
        yield worker.ready_s + settings.gather_s
    if worker.phase == "dismissed":
        yield worker.since_s + settings.group_timeout_s
    if is_out_of_reach(state, worker) and worker.dropped_s is not None:
        yield worker.dropped_s + settings.group_timeout_s
