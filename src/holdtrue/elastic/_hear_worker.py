"""What a worker said, noted. Pure."""

from holdtrue.wire import (
    End,
    Entered,
    Hello,
    Leaving,
    Lost,
    Over,
    Ready,
    Remap,
    Stop,
    ViewSent,
    Welcome,
    WorkerMessage,
)

from ._ending import fail_job
from ._events import Refuse
from ._learning import learn_views
from ._state import Worker
from ._translate import view_to_text
from ._turn import Turn
from ._view import Member


def hear_worker(turn: Turn, number: int, message: WorkerMessage) -> None:
    """Note a worker's message."""
    if isinstance(message, Hello):
        _hear_hello(turn, message)
        return
    worker = turn.state.worker(number)
    if worker is None or worker.phase == "gone" or turn.state.phase == "over":
        return
    match message:
        case Ready(after=after):
            if worker.phase == "waiting" and after >= worker.void and turn.state.phase == "running":
                turn.set_worker(worker, phase="ready", ready_s=turn.now)
        case Entered():
            _hear_entered(turn, worker, message)
        case Lost():
            _hear_lost(turn, worker, message)
        case Leaving(reason=reason):
            _hear_leaving(turn, worker, reason)
        case Remap():
            _hear_remap(turn, worker, message)
        case End():
            _hear_end(turn, worker, message)
        case _:
            pass  # progress is for those who look


def drop_worker(turn: Turn, number: int) -> None:
    """Note that a worker's connection is gone."""
    worker = turn.state.worker(number)
    if worker is None or worker.phase == "gone" or not worker.is_connected:
        return
    if worker.phase == "dismissed":
        turn.part_with(worker, "dismissed")
    else:
        turn.set_worker(worker, is_connected=False, dropped_s=turn.now)


def _hear_hello(turn: Turn, hello: Hello) -> None:
    known = turn.state.worker(hello.worker)
    refusal = _refusal_of(turn, known, hello)
    if refusal:
        turn.actions.append(Refuse(sentence=refusal))
        return
    address = Member(worker=hello.worker, host=hello.host, port=hello.port, device=hello.device)
    worker = known or Worker(number=hello.worker, phase="starting", since_s=turn.now)
    turn.set_worker(
        worker,
        address=address,
        pid=hello.pid,
        is_connected=True,
        dropped_s=None,
        phase="waiting" if worker.phase == "starting" else worker.phase,
        step=max(worker.step, hello.step),
        is_leaving=worker.is_leaving or hello.worker in turn.state.leaving_before,
    )
    if turn.state.first_hello_s is None:
        turn.set(first_hello_s=turn.now)
    if not learn_views(turn, hello, was_known=known is not None):
        turn.actions.append(
            Refuse(sentence=f"the job went on without worker {hello.worker}; it is no member")
        )
        turn.part_with(turn.state.worker(hello.worker) or worker, "expelled")
        return
    _answer(turn, hello)


def _refusal_of(turn: Turn, known: Worker | None, hello: Hello) -> str:
    state = turn.state
    if state.phase == "over":
        return f"the job is over: {state.over_reason}"
    if hello.worker in state.gone or (known is not None and not known.is_living):
        return f"worker {hello.worker} is no member of the job any more; its number is not given again"
    if known is not None and known.pid not in (0, hello.pid):
        return (
            f"worker {hello.worker} is process {known.pid}, and process {hello.pid} gave the same number; "
            f"a number is never given twice"
        )
    return ""


def _answer(turn: Turn, hello: Hello) -> None:
    """Welcome a worker, and tell it what it does not know yet."""
    state = turn.state
    worker = state.worker(hello.worker)
    assert worker is not None
    is_joiner = state.phase == "running" and not worker.has_state
    turn.tell(hello.worker, Welcome(is_joiner=is_joiner, life=state.settings.life))
    if state.stop_reason is not None:
        turn.tell(hello.worker, Stop(reason=state.stop_reason))
    knows = {view.generation for view in hello.views}
    concerned = False
    for view in state.chain:
        concerned |= view.rank_of(hello.worker) is not None
        if concerned and view.generation > hello.generation and view.generation not in knows:
            turn.tell(hello.worker, ViewSent(view=view_to_text(view)))
    if worker.phase == "waiting" and worker.void and state.newest is not None:
        turn.tell(
            hello.worker, ViewSent(view=view_to_text(state.newest))
        )  # it was left out while it was away
    if hello.generation > worker.generation:
        entered = Entered(generation=hello.generation, step=hello.step, seconds=0.0)
        _hear_entered(turn, worker, entered)


def _hear_entered(turn: Turn, worker: Worker, message: Entered) -> None:
    if message.generation <= worker.void and not worker.has_state:
        reason = (
            f"worker {worker.number} entered generation {message.generation}, which the others had given up"
        )
        turn.note(f"{reason}; it is expelled")
        turn.tell(worker.number, Over(how="expelled", reason=reason))
        turn.part_with(worker, "expelled")
        return
    is_answer = message.generation > worker.generation
    turn.set_worker(
        worker,
        phase="member" if worker.is_living else worker.phase,
        has_state=True,
        generation=max(worker.generation, message.generation),
        step=max(worker.step, message.step),
        lost_s=None if is_answer else worker.lost_s,
        kill_s=None if is_answer else worker.kill_s,
    )


def _hear_lost(turn: Turn, worker: Worker, message: Lost) -> None:
    answered = any(
        not view.is_planned
        and view.generation > message.generation
        and view.rank_of(worker.number) is not None
        for view in turn.state.chain
    )
    if (
        answered
        or not worker.is_living
        or message.generation < worker.generation
        or worker.lost_s is not None
    ):
        return
    turn.set_worker(worker, lost_s=turn.now, has_waited=message.silent, step=max(worker.step, message.step))
    how = "nobody answered within the time-out" if message.silent else "a connection broke"
    turn.note(
        f"worker {worker.number} lost the others in step {message.step} of generation {message.generation}, "
        f"waiting for {message.waited_for}: {how}"
    )


def _hear_leaving(turn: Turn, worker: Worker, reason: str) -> None:
    if not worker.is_living or turn.state.stop_reason is not None:
        return
    was_counted = worker in turn.state.counted
    if worker.phase != "member":
        turn.note(f"worker {worker.number} leaves before it entered: {reason}")
        turn.dismiss(turn.set_worker(worker, is_leaving=True), Over(how="left", reason="it asked to leave"))
    elif not worker.is_leaving:
        turn.note(f"worker {worker.number} wants to leave at the next boundary: {reason}")
        turn.set_worker(worker, is_leaving=True)
    if was_counted:
        turn.set(target=max(turn.state.target - 1, 0))


def _hear_remap(turn: Turn, worker: Worker, message: Remap) -> None:
    """Note the main worker's mapping, if nothing has changed since it was found; else it is found anew, or not.

    One worker decides, and one controller orders what is decided: a mapping is entered as any planned view is.
    """
    state = turn.state
    newest = state.newest
    is_current = (
        state.phase == "running"
        and newest is not None
        and len(state.chain) == 1
        and newest.generation == message.generation
        and newest.rank_of(worker.number) == 0
        and len(message.mapping.split("/")) == len(newest.members)
    )
    if is_current and state.stop_reason is None:
        turn.set(mapping=message.mapping, mapping_reason=message.reason)


def _hear_end(turn: Turn, worker: Worker, message: End) -> None:
    if message.how == "failed":
        place = "" if message.virtual_node is None else f" in virtual node {message.virtual_node}"
        place += "" if message.step is None else f" of step {message.step}"
        _fail(turn, worker, f"worker {worker.number} failed{place}: {message.sentence}")
    elif message.how == "refused":
        _refuse(turn, worker, f"worker {worker.number}, which had come, is refused: {message.sentence}")
    elif worker.phase == "dismissed":
        turn.part_with(worker, "dismissed")
    elif message.how == "interrupted":
        turn.part_interrupted(worker)
    else:
        turn.part_with(worker, message.how)
        said = f": {message.sentence}" if message.sentence else ""
        turn.note(f"worker {worker.number} has {message.how}{said}")


def _fail(turn: Turn, worker: Worker, sentence: str) -> None:
    """A script's error ends the job, unless it happened to one that was no member yet, or none any more."""
    if worker.phase == "member" or (worker.is_living and turn.state.phase == "founding"):
        fail_job(turn, sentence)
    else:
        _lose(turn, worker, sentence)


def _refuse(turn: Turn, worker: Worker, sentence: str) -> None:
    """A newcomer does something else than the job, or its script failed on the way; that ends a job that has no others."""
    if any(w.phase == "member" and w.is_living and w is not worker for w in turn.state.workers):
        _lose(turn, worker, sentence)
    else:
        fail_job(turn, sentence)


def _lose(turn: Turn, worker: Worker, sentence: str) -> None:
    """A worker is gone, and another in its place would fare as it did: the job is smaller."""
    was_counted = worker in turn.state.counted
    turn.note(sentence)
    turn.part_with(worker, "died")
    if was_counted:
        turn.set(target=max(turn.state.target - 1, 1))
