"""What a host said, noted. Pure."""

from dataclasses import replace

from holdtrue.wire import Ended, Finish, HostHello, HostMessage, Kill, Start

from ._ending import fail_job
from ._state import LEFT, NUMBERS_OF_A_LIFE, Host, Worker
from ._turn import Turn


def hear_host(turn: Turn, name: str, message: HostMessage) -> None:
    """Note a host's message."""
    if isinstance(message, HostHello):
        _hear_hello(turn, message)
    elif isinstance(message, Ended):
        _hear_ended(turn, name, message)


def drop_host(turn: Turn, name: str) -> None:
    """Note that a host's connection is gone."""
    host = turn.state.host(name)
    if host is not None:
        turn.state = turn.state.with_host(replace(host, is_connected=False, dropped_s=turn.now))


def bury(turn: Turn, worker: Worker, sentence: str) -> None:
    """A worker died or is taken for dead: it is replaced while restarts last, or the job is smaller from now on."""
    state = turn.state
    was_counted = worker in state.counted
    turn.note(sentence)
    turn.part_with(worker, "died")
    if not was_counted:
        return
    if state.restarts_left > 0 and state.stop_reason is None:
        turn.set(restarts_left=state.restarts_left - 1)
        turn.note(f"worker {worker.number} is replaced; {state.restarts_left - 1} more can be")
    else:
        turn.set(target=max(state.target - 1, 0))


def _hear_hello(turn: Turn, hello: HostHello) -> None:
    known = turn.state.host(hello.name)
    counted = known.adds if known is not None else dict(turn.state.adds_before).get(hello.name, 0)
    unheard = [w for w in turn.state.workers if _is_unheard(w, hello)]
    adds = max(0, hello.adds - len(unheard))  # it has still to learn that it was given these
    more = max(0, adds - counted)
    host = Host(
        name=hello.name,
        address=hello.address,
        slots=hello.slots,
        adds=adds,
        raised=known.raised if known is not None else min(counted, adds),
        running=tuple(sorted({*hello.running, *(worker.number for worker in unheard)})),
    )
    turn.state = turn.state.with_host(host)
    if known is None or not known.is_connected:
        turn.note(f"host {hello.name} at {hello.address} is here, with room for {hello.slots}")
    if turn.state.how_over is not None:
        turn.tell_host(hello.name, Finish(how=turn.state.how_over, reason=turn.state.over_reason))
        return
    for number in sorted(set(hello.running)):
        _know_running(turn, hello.name, number)
    for worker in unheard:
        turn.set_worker(worker, since_s=turn.now)
        turn.tell_host(hello.name, Start(worker=worker.number, device=None))
        turn.note(f"host {hello.name} is told again to start worker {worker.number}: it had not heard it")
    if more:
        most = turn.state.settings.most
        target = turn.state.target + more
        raised = max(0, (target if most is None else min(target, most)) - turn.state.target)
        turn.state = turn.state.with_host(replace(host, raised=host.raised + raised))
        turn.set(target=turn.state.target + raised)


def _is_unheard(worker: Worker, hello: HostHello) -> bool:
    """Whether the order to start it was lost with the host's last connection, or its end is about to be told.

    A host does nothing at an order for a worker that it has started or has seen end.
    """
    return worker.phase == "starting" and worker.host == hello.name and worker.number not in hello.running


def _know_running(turn: Turn, name: str, number: int) -> None:
    if number in turn.state.gone:
        turn.tell_host(name, Kill(worker=number, reason="it is no member any more"))
        return
    worker = turn.state.worker(number)
    if worker is not None:
        turn.set_worker(worker, host=name)
        return
    turn.set_worker(Worker(number=number, phase="starting", host=name, since_s=turn.now))
    if turn.state.phase == "running" and not turn.state.remembers:
        turn.set(target=max(turn.state.target, len(turn.state.counted)))


def _hear_ended(turn: Turn, name: str, ended: Ended) -> None:
    host = turn.state.host(name)
    if host is not None:
        running = tuple(number for number in host.running if number != ended.worker)
        turn.state = turn.state.with_host(replace(host, running=running))
    worker = turn.state.worker(ended.worker)
    if ended.worker in turn.state.gone or turn.state.phase == "over":
        return
    if not ended.was_started:
        _note_no_start(turn, name, ended)
    elif worker is None or _is_from_before(turn, worker):
        turn.set(
            workers=tuple(known for known in turn.state.workers if known.number != ended.worker),
            gone=turn.state.gone | {ended.worker},
            next_worker=max(turn.state.next_worker, ended.worker + 1),
            ended_before=(*turn.state.ended_before, (ended.worker, LEFT if ended.has_left else ended.status)),
        )
        if ended.sentence:
            turn.set(errors_before=(*turn.state.errors_before, (ended.worker, ended.sentence)))
    elif worker.phase == "dismissed":
        turn.part_with(worker, "dismissed")
    elif ended.sentence and (worker.phase == "member" or turn.state.phase == "founding"):
        fail_job(turn, f"worker {ended.worker} failed: {ended.sentence}")
    elif ended.has_left and ended.status != 0:
        turn.part_interrupted(worker)
    elif ended.status == 0 and ended.has_left and worker.phase == "member":
        turn.part_with(worker, "left")
        turn.note(f"worker {ended.worker} has left")
    elif ended.status == 0 and worker.phase == "member":
        turn.part_with(worker, "finished")
        turn.note(f"worker {ended.worker} has finished")
    else:
        _note_death(turn, worker, ended)


def _is_from_before(turn: Turn, worker: Worker) -> bool:
    """Whether only its host has told of it, to a controller that knows no view: it may be a member, and its end in order."""
    settings = turn.state.settings
    is_old = worker.number < settings.life * NUMBERS_OF_A_LIFE
    return is_old and worker.phase == "starting" and not turn.state.chain


def _note_no_start(turn: Turn, name: str, ended: Ended) -> None:
    """A start that did not happen is no death: it takes no restart, and the job is to have as many workers as before.

    The host has waited before it says so, which keeps these starts apart.
    """
    number, worker = ended.worker, turn.state.worker(ended.worker)
    if worker is None:
        turn.set(gone=turn.state.gone | {number}, next_worker=max(turn.state.next_worker, number + 1))
    else:
        turn.part_with(worker, "dismissed")
    host = turn.state.host(name)
    if worker is not None and worker.is_added and host is not None:
        # The place that it brought is its own again.
        turn.state = turn.state.with_host(replace(host, adds=host.adds + 1, raised=host.raised + 1))
    turn.set(no_start=ended.sentence)
    turn.note(f"worker {number} was not started on host {name}: {ended.sentence}")


def _note_death(turn: Turn, worker: Worker, ended: Ended) -> None:
    """A death; the same pass that killed two workers in a row would kill the rest too."""
    at = ended.at
    place = None if at is None else (at.step, at.round, at.virtual_node)
    how = f"was killed by signal {-ended.status}" if ended.status < 0 else f"ended with status {ended.status}"
    said = f": {ended.sentence}" if ended.sentence else ""
    where = "" if at is None else f" in virtual node {at.virtual_node} of step {at.step}"
    if worker.phase == "member":
        if place is not None and place == turn.state.last_pass:
            bury(turn, worker, f"worker {worker.number} {how}{where}")
            fail_job(
                turn,
                f"virtual node {place[2]} of step {place[0]} killed two workers in a row, the second was worker "
                f"{worker.number}; a third would end the same. Look at its examples and at the workers' logs.",
            )
            return
        turn.set(last_pass=place)
    bury(turn, worker, f"worker {worker.number} {how}{where}{said}")
