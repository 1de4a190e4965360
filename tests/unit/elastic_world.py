"""A model of a whole job: the real controller and the real agents' books, with channels, workers and faults around them.

A world is one hashable value; `moves` lists everything that can happen next. Channels keep order and delay at will. A worker
is what docs/design/0030-elastic.md says of it: steps that end in a gather, so that survivors are at most one step apart;
groups that form when all members have come; collectives that fail when a member is gone.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from holdtrue.elastic import (
    Decision,
    Event,
    HostDropped,
    HostSaid,
    JobSettings,
    Member,
    ResizeAsked,
    State,
    StopAsked,
    Tell,
    TellHost,
    Ticked,
    View,
    WorkerDropped,
    WorkerSaid,
    decide,
    first_state,
    next_deadline_s,
)
from holdtrue.elastic._book import Book
from holdtrue.elastic._memory import memory_of, recall
from holdtrue.wire import (
    End,
    Ended,
    Finish,
    HostHello,
    HostMessage,
    Kill,
    Lost,
    Over,
    Remap,
    Start,
    ToHost,
    ToWorker,
    WorkerMessage,
)

WAITING, COMPUTING, GATHERING, FORMING, ENDED = "waiting", "computing", "gathering", "forming", "ended"


class BrokenPromiseError(AssertionError):
    """The world is in a state that it must never reach."""


@dataclass(frozen=True, slots=True)
class W:
    """One worker's process."""

    number: int
    book: Book
    doing: str = WAITING
    generation: int = 0
    """Of the group that it is in, forms, or lost."""
    step: int = 0
    has_state: bool = False
    is_alive: bool = True
    is_stopped: bool = False
    inbox: tuple[ToWorker, ...] = ()
    outbox: tuple[WorkerMessage | None, ...] = ()
    """None: the connection breaks here."""


@dataclass(frozen=True, slots=True)
class Faults:
    """What may still happen to this world."""

    kills: int = 0
    stops: int = 0
    resizes: tuple[int, ...] = ()
    leaves: int = 0
    restarts: int = 0
    """Of the controller."""
    drops: int = 0
    """Of one worker's connection."""
    quick_ends: bool = True
    """Whether the words of a worker that ends in order are heard at once: fewer worlds, where ends are not the question."""
    remaps: int = 0
    """Mappings that a main worker finds."""
    host_cuts: int = 0
    """Of the host's connection: what either side says after it is lost until the host connects again."""
    no_starts: int = 0
    """Orders to start a worker that the host gives up, as where no device is free."""
    asks_to_stop: int = 0
    """Of a user, who wants the job to end at the next boundary."""


@dataclass(frozen=True, slots=True)
class World:
    """Everything."""

    control: State
    now: float
    workers: tuple[W, ...]
    faults: Faults
    last_step: int
    host_inbox: tuple[ToHost, ...] = ()
    host_outbox: tuple[HostMessage, ...] = ()
    running: tuple[int, ...] = ()
    ended: tuple[Ended, ...] = ()
    is_host_cut: bool = False
    was_host_cut: bool = False
    arrivals: frozenset[tuple[int, int, int, int, bool]] = frozenset()
    """Generation, step, worker, newest planned view, whether it is to stop: messages of the gather that ends a step."""
    formers: frozenset[tuple[int, int, bool, int]] = frozenset()
    """Generation, worker, whether it has the state, step: those who came to form a group."""
    furthest: int = 0
    """Steps that some worker completed, dead ones too."""
    views: tuple[tuple[int, View], ...] = ()
    """Every view that was ever sent, by generation."""
    killed: frozenset[int] = frozenset()

    def worker(self, number: int) -> W:
        """The worker of that number."""
        return next(w for w in self.workers if w.number == number)

    def put(self, w: W) -> "World":
        """The world with a worker changed."""
        others = [other for other in self.workers if other.number != w.number]
        return replace(self, workers=tuple(sorted([*others, w], key=lambda each: each.number)))


decide_once = lru_cache(maxsize=200_000)(decide)


def begin(settings: JobSettings, faults: Faults, *, last_step: int) -> World:
    """A world in which the host has just connected and runs the founders."""
    founders = range(settings.workers)
    world = World(
        control=first_state(settings),
        now=1.0,
        workers=tuple(_new_worker(number) for number in founders),
        faults=faults,
        last_step=last_step,
        running=tuple(founders),
    )
    return replace(world, host_outbox=(_host_hello(world),))


def found(settings: JobSettings, faults: Faults, *, last_step: int) -> World:
    """A world in which the founders have just entered their view, and all that was said was heard."""
    world = begin(settings, Faults(), last_step=last_step)
    while any(w.doing != COMPUTING or w.inbox or w.outbox for w in world.workers) or world.host_outbox:
        _, world = next((n, w) for n, w in _ordinary_moves(world) if "arrives" not in n)
    return replace(world, faults=faults)


def _new_worker(number: int) -> W:
    me = Member(worker=number, host="127.0.0.1", port=1000 + number)
    book = Book(me=me, pid=100 + number)
    return W(number=number, book=book, outbox=book.first_words())


def _host_hello(world: World) -> HostHello:
    return HostHello(name="here", address="127.0.0.1", slots=8, adds=0, running=world.running)


def moves(world: World) -> Iterator[tuple[str, World]]:
    """All that can happen next, with a name for each. Time passes only when nothing else can happen."""
    quiet = True
    for name, after in _ordinary_moves(world):
        quiet = False
        yield name, after
    yield from _fault_moves(world)
    if quiet:
        yield from _late_moves(world)


def _ordinary_moves(world: World) -> Iterator[tuple[str, World]]:
    if world.is_host_cut:
        yield "host is back", _connect_host(world)
    if world.host_outbox:
        yield f"host says {world.host_outbox[0].event}", _hear_host(world)
    if world.host_inbox:
        yield "host obeys", _obey(world)
        if world.faults.no_starts and isinstance(world.host_inbox[0], Start):
            yield "HOST CANNOT START", _give_up_start(world)
    for w in world.workers:
        if w.outbox:
            yield f"{w.number} is heard", _deliver(world, w)
        if w.is_alive and not w.is_stopped and w.doing != ENDED:
            if w.inbox:
                yield f"{w.number} hears", _hear(world, w)
            yield from _work(world, w)


def feed(world: World, event: Event) -> World:
    """Let the controller decide, and put what it sends into the channels."""
    decision: Decision = decide_once(world.control, event, world.now)
    _judge_failure(world, decision.state)
    world = replace(world, control=decision.state)
    for view in decision.state.chain:
        world = _note_view(world, view)
    for action in decision.actions:
        if isinstance(action, Tell):
            target = next((w for w in world.workers if w.number == action.worker), None)
            if target is not None and target.is_alive:
                world = world.put(replace(target, inbox=(*target.inbox, action.message)))
        elif isinstance(action, TellHost):
            if not world.is_host_cut:
                world = replace(world, host_inbox=(*world.host_inbox, action.message))
        elif isinstance(event, WorkerSaid):  # refused: the service answers so
            w = world.worker(event.worker)
            over = Over(how="expelled", reason=action.sentence)
            world = world.put(replace(w, inbox=(*w.inbox, over)))
    return world


def _judge_failure(world: World, control: State) -> None:
    """A job is not given up while a member has its state; one that was told to leave is no member."""
    if control.how_over == "failed" and control.phase != world.control.phase:
        named = {member.worker for view in world.control.chain for member in view.members}
        told = (w for w in world.control.workers if "dismissed" in (w.phase, w.how_gone))
        named -= {worker.number for worker in told}
        holders = [
            w.number
            for w in world.workers
            if w.number in named and w.has_state and w.is_alive and w.doing != ENDED
        ]
        if holders:
            raise BrokenPromiseError(f"workers {holders} have the state, and: {control.over_reason}")


def _note_view(world: World, view: View) -> World:
    """A generation has one view, and it shares a member that has the state with the one before."""
    known = dict(world.views)
    if view.generation in known:
        if known[view.generation] != view:
            raise BrokenPromiseError(f"two views of generation {view.generation}")
        return world
    if known:
        before = {m.worker for m in known[max(known)].members}
        kept = {m.worker for m in view.members} & before - set(view.joiners)
        lost_all = not any(w.has_state and w.is_alive for w in world.workers if w.number in before)
        if not kept and not lost_all:
            raise BrokenPromiseError(f"{view} shares nobody with {known[max(known)]}")
    return replace(world, views=(*world.views, (view.generation, view)))


def _obey(world: World) -> World:
    order, *rest = world.host_inbox
    world = replace(world, host_inbox=tuple(rest))
    if isinstance(order, Start):
        if any(w.number == order.worker for w in world.workers):
            if world.was_host_cut:
                return world  # it may be said again
            raise BrokenPromiseError(f"number {order.worker} is given twice")
        return replace(world.put(_new_worker(order.worker)), running=(*world.running, order.worker))
    if isinstance(order, Kill):
        w = next((w for w in world.workers if w.number == order.worker and w.is_alive), None)
        return world if w is None or w.doing == ENDED else end_process(world, w, status=-9)
    assert isinstance(order, Finish)
    for w in world.workers:
        if w.is_alive and w.doing != ENDED:
            world = end_process(world, w, status=-15)
    return world


def _give_up_start(world: World) -> World:
    """The host starts no worker of a number that it was given, and says so."""
    faults = replace(world.faults, no_starts=world.faults.no_starts - 1)
    known = {w.number for w in world.workers}
    world = _obey(replace(world, faults=faults))
    number = max(w.number for w in world.workers)
    if number in known:
        return world  # it was said again
    w = replace(world.worker(number), is_alive=False, doing=ENDED, outbox=())
    ended = Ended(worker=number, status=0, sentence="no device is free", at=None, was_started=False)
    return replace(
        world.put(w),
        running=tuple(n for n in world.running if n != number),
        ended=(*world.ended, ended),
        host_outbox=world.host_outbox if world.is_host_cut else (*world.host_outbox, ended),
    )


def end_process(world: World, w: W, *, status: int, has_left: bool = False) -> World:
    """A process ends: what it said is still on its way, then its connection breaks, and its host says so."""
    ended = Ended(worker=w.number, status=status, sentence="", at=None, has_left=has_left)
    dead = replace(w, is_alive=False, is_stopped=False, doing=ENDED, inbox=(), outbox=(*w.outbox, None))
    world = replace(
        world.put(dead),
        running=tuple(n for n in world.running if n != w.number),
        ended=(*world.ended, ended),
        host_outbox=world.host_outbox if world.is_host_cut else (*world.host_outbox, ended),
    )
    if status < 0:
        return replace(world, killed=world.killed | {w.number})
    return _hear_out(world, w.number) if world.faults.quick_ends else world


def _hear_out(world: World, number: int) -> World:
    """Deliver all that a worker said, and then all that the host did."""
    while world.worker(number).outbox:
        world = _deliver(world, world.worker(number))
    while world.host_outbox:
        world = _hear_host(world)
    return world


def _hear_host(world: World) -> World:
    first, *rest = world.host_outbox
    return feed(replace(world, host_outbox=tuple(rest)), HostSaid(host="here", message=first))


def _deliver(world: World, w: W) -> World:
    first, *rest = w.outbox
    after = world.put(replace(w, outbox=tuple(rest)))
    if first is None:
        return feed(after, WorkerDropped(worker=w.number))
    return feed(after, WorkerSaid(worker=w.number, message=first))


def _hear(world: World, w: W) -> World:
    """The agent hears one message; a worker that waits takes the view that came, or ends."""
    book, said = w.book.hear(w.inbox[0])
    w = replace(w, book=book, inbox=w.inbox[1:], outbox=(*w.outbox, *said))
    if book.is_joiner and w.doing == WAITING and not any(m.event == "ready" for m in book.standing):
        book, said = book.say_ready()
        w = replace(w, book=book, outbox=(*w.outbox, *said))
    return world.put(w)


def _work(world: World, w: W) -> Iterator[tuple[str, World]]:
    """What a living worker can do by itself."""
    if w.doing == WAITING:
        if w.book.over is not None:
            yield f"{w.number} ends", end_process(world, w, status=0, has_left=True)
        elif (view := w.book.enterable(w.generation)) is not None:
            yield f"{w.number} forms {view.generation}", _form(world, w, view)
    elif w.doing == FORMING:
        if w.book.newest_forced > w.generation:
            yield f"{w.number} gives up {w.generation}", world.put(replace(w, doing=WAITING))
        elif (after := _enter(world, w)) is not None:
            yield f"{w.number} enters {w.generation}", after
    elif w.doing == COMPUTING:
        yield f"{w.number} arrives at {w.step}", _arrive(world, w)
    elif w.doing == GATHERING:
        yield from _gather(world, w)


def _form(world: World, w: W, view: View) -> World:
    former = (view.generation, w.number, w.has_state or not view.joiners, w.step)
    formed = replace(w, doing=FORMING, generation=view.generation)
    return replace(world.put(formed), formers=world.formers | {former})


def _enter(world: World, w: W) -> World | None:
    """Enter if all members came; joiners and those who are one step behind get what they lack."""
    view = w.book.view(w.generation)
    assert view is not None
    came = {former[1]: former for former in world.formers if former[0] == w.generation}
    if any(m.worker not in came for m in view.members):
        return None
    steps = [step for _, number, has_state, step in came.values() if has_state and number not in view.joiners]
    if not steps:
        raise BrokenPromiseError(f"nobody in generation {w.generation} has the state")
    if max(steps) - min(steps) > 1:
        raise BrokenPromiseError(f"members of generation {w.generation} are at steps {steps}")
    if max(steps) < world.furthest - 1:
        raise BrokenPromiseError(
            f"generation {w.generation} begins at {max(steps)}, and {world.furthest} was done"
        )
    for former in came.values():
        if former[1] in view.joiners and former[2]:
            raise BrokenPromiseError(f"joiner {former[1]} of generation {w.generation} has the state already")
    book, said = w.book.say_entered(w.generation, max(steps), 0.0)
    entered = replace(
        w, book=book, doing=COMPUTING, step=max(steps), has_state=True, outbox=(*w.outbox, *said)
    )
    return world.put(entered)


def _arrive(world: World, w: W) -> World:
    if w.step >= world.last_step:
        return _finish(world, w)
    arrival = (w.generation, w.step, w.number, w.book.newest_planned, w.book.stop_reason is not None)
    return replace(world.put(replace(w, doing=GATHERING)), arrivals=world.arrivals | {arrival})


def _finish(world: World, w: W) -> World:
    book, said = w.book.say_end(End(how="finished", sentence=""))
    return end_process(world, replace(w, book=book, outbox=(*w.outbox, *said)), status=0)


def _gather(world: World, w: W) -> Iterator[tuple[str, World]]:
    view = w.book.view(w.generation)
    assert view is not None
    arrived = {a[2]: a for a in world.arrivals if a[0] == w.generation and a[1] == w.step}
    if all(m.worker in arrived for m in view.members):
        agreed = min(a[3] for a in arrived.values())
        stops = any(a[4] for a in arrived.values())
        yield f"{w.number} completes {w.step}", _complete(world, w, agreed, stops=stops)
    if any(_is_gone(world.worker(m.worker), w, arrived) for m in view.members):
        yield f"{w.number} loses {w.generation}", _lose(world, w, silent=False)


def _is_gone(other: W, w: W, arrived: dict[int, tuple[int, int, int, int, bool]]) -> bool:
    """Whether a connection to another member can break: it ended, lost the group itself, or went on from it."""
    if not other.is_alive or other.doing == ENDED:
        return True
    went_on = other.doing in (FORMING, WAITING) and other.number != w.number
    return went_on and (other.doing == WAITING or other.generation > w.generation)


def _complete(world: World, w: W, agreed: int, *, stops: bool) -> World:
    step = w.step + 1
    for other in world.workers:
        if other.doing == COMPUTING and other.step > step and _has(other, w):
            raise BrokenPromiseError(
                f"{other.number} is at {other.step} of generation {other.generation}; {w}"
            )
    world = replace(world, furthest=max(world.furthest, step))
    w = replace(w, step=step, doing=COMPUTING)
    if stops:
        book, said = w.book.say_end(End(how="interrupted", sentence=""))
        ends = replace(w, book=book, outbox=(*w.outbox, *said))
        return end_process(world, ends, status=130, has_left=True)
    if agreed <= w.generation:
        return world.put(w)
    view = w.book.view(agreed)
    assert view is not None, f"{w} agreed on a view that it does not know"
    if view.rank_of(w.number) is None:
        book, said = w.book.say_end(End(how="left", sentence=""))
        return end_process(world, replace(w, book=book, outbox=(*w.outbox, *said)), status=0, has_left=True)
    return _form(world.put(w), w, view)


def _has(other: W, w: W) -> bool:
    """Whether another worker computes in a newer group that has `w` as a member."""
    view = other.book.view(other.generation)
    return view is not None and other.generation > w.generation and view.rank_of(w.number) is not None


def _lose(world: World, w: W, *, silent: bool) -> World:
    lost = Lost(generation=w.generation, step=w.step, waited_for="a gather", silent=silent)
    book, said = w.book.say_lost(lost)
    return world.put(replace(w, book=book, doing=WAITING, outbox=(*w.outbox, *said)))


def _fault_moves(world: World) -> Iterator[tuple[str, World]]:
    faults = world.faults
    if world.control.phase == "over":
        return
    for w in world.workers:
        if not w.is_alive or w.doing == ENDED:
            continue
        if faults.kills:
            less = replace(world, faults=replace(faults, kills=faults.kills - 1))
            yield f"KILL {w.number}", end_process(less, w, status=-9)
        if faults.stops and not w.is_stopped:
            less = replace(world, faults=replace(faults, stops=faults.stops - 1))
            yield f"STOP {w.number}", less.put(replace(w, is_stopped=True))
        if (
            faults.leaves
            and world.control.phase == "running"
            and not any(said.event == "leaving" for said in w.book.standing)
        ):
            less = replace(world, faults=replace(faults, leaves=faults.leaves - 1))
            book, said = w.book.say_leaving("SIGTERM")
            yield f"TERM {w.number}", less.put(replace(w, book=book, outbox=(*w.outbox, *said)))
        view = w.book.view(w.generation)
        if faults.remaps and w.has_state and view is not None and view.rank_of(w.number) == 0:
            less = replace(world, faults=replace(faults, remaps=faults.remaps - 1))
            mapping = "/".join(str(faults.remaps) for _ in view.members)
            asked = Remap(generation=w.generation, mapping=mapping, reason="it pays")
            yield f"REMAP {w.number}", less.put(replace(w, outbox=(*w.outbox, asked)))
        if faults.drops and w.book.is_welcome:
            less = replace(world, faults=replace(faults, drops=faults.drops - 1))
            yield f"CUT {w.number}", less.put(replace(w, inbox=(), outbox=(None, *w.book.first_words())))
    if faults.resizes and world.control.phase == "running":
        less = replace(world, faults=replace(faults, resizes=faults.resizes[1:]))
        yield f"RESIZE {faults.resizes[0]}", feed(less, ResizeAsked(workers=faults.resizes[0]))
    if faults.asks_to_stop and world.control.phase == "running":
        less = replace(world, faults=replace(faults, asks_to_stop=faults.asks_to_stop - 1))
        yield "ASK TO STOP", feed(less, StopAsked(reason="the user asked"))
    if faults.host_cuts and not world.is_host_cut:
        less = replace(world, faults=replace(faults, host_cuts=faults.host_cuts - 1))
        yield "CUT HOST", replace(less, is_host_cut=True, was_host_cut=True, host_inbox=(), host_outbox=())
    if faults.restarts and world.control.phase == "running":
        yield "RESTART", _restart(replace(world, faults=replace(faults, restarts=faults.restarts - 1)))


def _restart(world: World) -> World:
    """Another controller: what was on its way is lost, but for what the old one had written down; everybody connects
    again."""
    settings = replace(world.control.settings, life=world.control.settings.life + 1)
    workers = tuple(
        replace(w, inbox=(), outbox=w.book.first_words() if w.is_alive and w.doing != ENDED else ())
        for w in world.workers
    )
    world = replace(
        world,
        control=recall(settings, memory_of(world.control)),
        workers=workers,
        host_inbox=(),
        host_outbox=(),
    )
    return replace(world, is_host_cut=False, host_outbox=(_host_hello(world), *world.ended))


def _connect_host(world: World) -> World:
    """The host notices that its connection is gone, and makes another."""
    world = feed(world, HostDropped(host="here"))
    return replace(world, is_host_cut=False, host_outbox=(_host_hello(world), *world.ended))


def _late_moves(world: World) -> Iterator[tuple[str, World]]:
    """Time passes: a deadline of the controller comes, or else a wait between workers runs out."""
    if world.control.phase == "over":
        return
    for w in world.workers:
        if w.is_stopped:
            yield f"CONT {w.number}", world.put(replace(w, is_stopped=False))
    waits = [w for w in world.workers if w.is_alive and not w.is_stopped and w.doing in (GATHERING, FORMING)]
    for w in waits:
        yield f"{w.number} times out", _lose(world, w, silent=True)
    at_s = next_deadline_s(world.control, world.now)
    if at_s is not None and not waits:
        after = replace(world, now=at_s)
        yield f"time {at_s:g}", feed(after, Ticked())
