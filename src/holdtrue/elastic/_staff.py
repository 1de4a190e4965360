"""Ordering workers from hosts, and sending away those who are not needed. Pure."""

from dataclasses import replace

from holdtrue.wire import Kill, Over, Start

from ._hear_host import bury
from ._state import Host, State, Worker
from ._turn import Turn


def balance_staff(turn: Turn) -> None:
    """Bring the workers that are members, or on their way, to the target."""
    _end_late_starts(turn)
    state = turn.state
    if state.stop_reason is not None:
        for worker in state.workers:
            if worker.phase in ("starting", "waiting", "ready"):
                turn.dismiss(worker, Over(how="stopped", reason=state.stop_reason))
        return
    if state.is_finishing:
        return
    if state.ended_before and state.phase == "founding":
        return  # the job began before this controller did
    _send_away(turn, len(state.counted) - max(state.target, 1))
    for _ in range(state.target - len(state.counted)):
        if not _order_one(turn):
            break


def _send_away(turn: Turn, surplus: int) -> None:
    """Dismiss workers that did not enter yet, the newest first."""
    outside = [w for w in turn.state.workers if w.phase in ("starting", "waiting", "ready")]
    for worker in sorted(outside, key=lambda each: -each.number)[: max(surplus, 0)]:
        turn.note(f"worker {worker.number} is not needed any more")
        turn.dismiss(worker, Over(how="left", reason="the job needs fewer workers now"))


def _order_one(turn: Turn) -> bool:
    """Have one worker started where most room is; hosts that asked for workers come first."""
    hosts = [host for host in turn.state.hosts if host.free > 0]
    if not hosts:
        return False
    host = min(hosts, key=lambda each: (-min(each.adds, 1), -each.free, each.name))
    number = turn.state.number_to_give
    changed: Host = replace(
        host, adds=max(0, host.adds - 1), raised=max(0, host.raised - 1), running=(*host.running, number)
    )
    turn.state = turn.state.with_host(changed)
    is_added = host.raised > 0
    turn.set_worker(
        Worker(number=number, phase="starting", host=host.name, is_added=is_added, since_s=turn.now)
    )
    turn.tell_host(host.name, Start(worker=number, device=None))
    turn.note(f"worker {number} is started on host {host.name}")
    return True


def _end_late_starts(turn: Turn) -> None:
    """Workers that never came, or do not end when told to, are given up; so are joiners that are out of reach."""
    state, settings = turn.state, turn.state.settings
    for worker in state.workers:
        vanished_s = host_vanished_s(state, worker)
        late_s = worker.since_s + settings.start_timeout_s
        if worker.phase == "starting" and turn.now >= late_s:
            turn.tell_host(worker.host, Kill(worker=worker.number, reason="it never said hello"))
            bury(
                turn,
                worker,
                f"worker {worker.number} said nothing for {settings.start_timeout_s:g} s after its start",
            )
        elif vanished_s is not None and turn.now >= vanished_s + settings.host_wait_s:
            _give_up(turn, worker)
        elif worker.phase == "dismissed" and turn.now >= worker.since_s + settings.group_timeout_s:
            turn.tell_host(worker.host, Kill(worker=worker.number, reason="it was told to end and did not"))
            turn.part_with(worker, "dismissed")
        elif (
            is_out_of_reach(state, worker)
            and turn.now >= (worker.dropped_s or 0.0) + settings.group_timeout_s
        ):
            bury(turn, worker, f"worker {worker.number}, which was joining, is out of reach")


def _give_up(turn: Turn, worker: Worker) -> None:
    """Go on without a worker that has not begun and whose host is gone: no worker died, so it is no restart.

    Should it live after all, its host is told to kill it.
    """
    turn.note(
        f"worker {worker.number} is given up: it had said nothing, and its host {worker.host} could not be reached "
        f"for {turn.state.settings.host_wait_s:g} s"
    )
    turn.part_with(worker, "dismissed")
    if worker.is_added:
        turn.set(target=max(turn.state.target - 1, 1))


def host_vanished_s(state: State, worker: Worker) -> float | None:
    """Since when the host of a worker that said nothing yet is gone; None if it is here, or the worker spoke."""
    host = state.host(worker.host) if worker.phase == "starting" else None
    return host.dropped_s if host is not None and not host.is_connected else None


def is_out_of_reach(state: State, worker: Worker) -> bool:
    """Whether neither a joiner nor a host that could speak for it is connected."""
    if worker.phase not in ("waiting", "ready") or worker.dropped_s is None:
        return False
    host = state.host(worker.host)
    return host is None or not host.is_connected
