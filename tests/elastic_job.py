"""A whole elastic job as threads of one process: real runs, the real membership, simulated time, scripted deaths.

The membership's own pure decision answers the workers' agents; only what carries the words is replaced. A worker that
is killed raises `Killed` in the middle of what it does: the others see what they see when a process dies there.
"""

import contextlib
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from holdtrue.elastic import (
    ControllerAgent,
    Event,
    HostSaid,
    JobSettings,
    MappingAsked,
    ResizeAsked,
    State,
    StopAsked,
    Tell,
    TellHost,
    Ticked,
    View,
    WorkerSaid,
    decide,
    first_state,
    next_deadline_s,
)
from holdtrue.errors import ExpelledError, HoldtrueError, JobOverError
from holdtrue.reduce import AloneGroup, Group, InProcessJob, Pending
from holdtrue.run import Membership, Run, joined_as
from holdtrue.testing import restore_globals, save_globals
from holdtrue.wire import FROM_WORKER, Ended, HostHello, Kill, Start, decode_control, encode_control

HOST = "here"
ROUND = 1000
"""Added to the number of a round of a prediction, where a fault names a step."""


class Killed(BaseException):
    """SIGKILL, for a thread: nothing of ours catches it."""


@dataclass
class Fault:
    """Kill a worker, or ask for something, when it comes to a place."""

    worker: int
    step: int
    phase: str
    """`exchange`, `spread` or `gather` (its nth in the step, before it is sent), `gathered` (after the nth), `partial` (the
    nth gather is seen by nobody but `seen_by`), `form` (while a group is formed), or what the script calls `at` with."""
    nth: int = 0
    act: Callable[["ElasticJob"], None] | None = None
    """What to do instead of killing."""
    seen_by: int | None = None
    has_fired: bool = False
    is_sure: bool = True
    """Whether it is an error if the job never comes to the place."""


class _Line:
    """What carries an agent's words: straight into the decision."""

    def __init__(self, job: "ElasticJob", worker: int) -> None:
        self._job, self._worker = job, worker
        self.changed = contextlib.nullcontext()
        self.is_connected = True

    def say(self, message: Any, *, droppable: bool = False) -> None:
        carried = decode_control(encode_control(message), FROM_WORKER)  # the wire must be able to carry it
        self._die_if_killed()
        if not droppable:
            self._job.hear(self._worker, carried)

    def flush(self, wait_s: float) -> None:
        """Everything is delivered at once here."""

    def wait_until(self, holds: Callable[[], bool], *, timeout_s: float, what: str) -> None:
        self._job.job.wait_until(self._worker, lambda: holds() or self._worker in self._job.killed, what)
        self._die_if_killed()

    def _die_if_killed(self) -> None:
        if self._worker in self._job.killed:
            raise Killed


class LocalAgent(ControllerAgent):
    """An agent whose words are carried within the process."""

    job: "ElasticJob"

    def is_heard(self, timeout_s: float) -> bool:
        """Every word arrives at once here."""
        return True

    @property
    def newest_planned(self) -> int:
        self.job.let_joiners_run(self.worker)
        return super().newest_planned


@contextlib.contextmanager
def edge_of(run: Run, refused: dict[int, str]) -> Iterator[None]:
    """What the edge of a process does with an error of a worker that has only come: it says so, and ends."""
    try:
        yield
    except HoldtrueError as error:
        if not run._core.is_entering:
            raise
        refused[run._core.unlike.number] = str(error)
        run._core.tell_failure(str(error))
        raise Killed from error


@dataclass
class Note:
    """What one worker left behind."""

    result: Any = None
    error: BaseException | None = None
    was_killed: bool = False
    views: list[int] = field(default_factory=list)


class ElasticJob:
    """Runs `main` on workers that come and go.

    Args:
        main: Calls `holdtrue.init` and trains; runs once in each worker.
        workers: Founders.
        faults: What happens when.
        restarts: Dead workers that are replaced.
        mapping: Mapping of the founders' view.
    """

    def __init__(
        self,
        main: Callable[[], Any],
        *,
        workers: int = 2,
        faults: Sequence[Fault] = (),
        restarts: int = 0,
        mapping: str | None = None,
        order: Any = None,
    ) -> None:
        self._main, self.faults, self._order = main, list(faults), order
        self.job = InProcessJob(
            0, save_globals=save_globals, restore_globals=restore_globals, on_stuck=self._let_time_pass
        )
        self.job.on_end = self._see_end
        settings = JobSettings(name="test", workers=workers, least=1, restarts=restarts, mapping=mapping)
        self.state: State = first_state(settings)
        self.now = 0.0
        self.sentences: list[str] = []
        self.agents: dict[int, ControllerAgent] = {}
        self.notes: dict[int, Note] = {}
        self._threads: list[threading.Thread] = []
        self._start = save_globals()
        self._waiting_acts: list[Callable[[ElasticJob], None]] = []
        self.killed: set[int] = set()
        """Whom the host was told to kill: one that was ordered and is not needed any more, before it said a word."""

    # ---- the outside ----

    def run(self) -> dict[int, Note]:
        """What every worker left behind, by number, once the job is over."""
        self._decide(
            HostSaid(host=HOST, message=HostHello(name=HOST, address="here", slots=64, adds=0, running=()))
        )
        while any(thread.is_alive() for thread in self._threads):
            for thread in list(self._threads):
                thread.join()
        restore_globals(self._start)
        for fault in self.faults:
            assert fault.has_fired or not fault.is_sure, f"{fault} never fired; {self.sentences}"
        for note in self.notes.values():
            if note.error is not None:
                raise note.error
        return self.notes

    def resize(self, workers: int) -> None:
        self._decide(ResizeAsked(workers=workers))

    def stop(self) -> None:
        self._decide(StopAsked(reason="the test stops it"))

    def map(self, mapping: str | None) -> None:
        self._decide(MappingAsked(mapping=mapping))

    def hear(self, worker: int, message: Any) -> None:
        self._decide(WorkerSaid(worker=worker, message=message))

    def at(self, worker: int, step: int, phase: str) -> None:
        """The script is at a place: faults of it fire."""
        for fault in self.faults:
            if not fault.has_fired and (fault.worker, fault.step, fault.phase) == (worker, step, phase):
                if fault.nth > 0:
                    fault.nth -= 1
                    continue
                fault.has_fired = True
                if fault.act is None:
                    raise Killed
                fault.act(self)

    def let_joiners_run(self, worker: int) -> None:
        if len(self.state.members) == 1 and [m.number for m in self.state.members] == [worker]:
            self.job.give_way(worker)

    # ---- the decision ----

    def _decide(self, event: Event) -> None:
        self.now += 0.001
        decision = decide(self.state, event, self.now)
        self.state = decision.state
        if decision.reason:
            self.sentences += decision.reason.split("\n")
        starts = [
            a.message.worker
            for a in decision.actions
            if isinstance(a, TellHost) and isinstance(a.message, Start)
        ]
        for worker in starts:
            self.job.expect(worker)
        for action in decision.actions:
            if isinstance(action, Tell):
                self.agents[action.worker]._hear(action.message)
            elif isinstance(action, TellHost) and isinstance(action.message, Start):
                self._start_worker(action.message.worker)
            elif isinstance(action, TellHost) and isinstance(action.message, Kill):
                self.killed.add(action.message.worker)
        self.job.tell()

    def _let_time_pass(self) -> bool:
        deadline = next_deadline_s(self.state, self.now)
        if deadline is None or deadline > self.now + 1000:
            return False
        self.now = deadline
        self._decide(Ticked())
        return True

    def _see_end(self, worker: int, why: str) -> None:
        note = self.notes[worker]
        status = -9 if note.was_killed else int(note.error is not None)
        sentence = str(note.error) if note.error is not None else ""
        ended = Ended(worker=worker, status=status, sentence=sentence, at=None)
        self._decide(HostSaid(host=HOST, message=ended))

    # ---- workers ----

    def _start_worker(self, worker: int) -> None:
        self.notes[worker] = Note()
        thread = threading.Thread(target=self._work, args=(worker,), name=f"worker-{worker}")
        self._threads.append(thread)
        thread.start()

    def _work(self, worker: int) -> None:
        note = self.notes[worker]
        with contextlib.suppress(Killed, SystemExit, Exception), self.job.running(worker):
            torch.set_rng_state(self._start[0])
            random.setstate(self._start[1])
            np.random.set_bit_generator(np.random.MT19937(0))
            try:
                note.result = self._run_main(worker, note)
            except Killed:
                note.was_killed = True
                raise
            except (SystemExit, ExpelledError, JobOverError):
                raise
            except BaseException as error:
                note.error = error
                raise

    def _run_main(self, worker: int, note: Note) -> Any:
        agent = LocalAgent(
            url="http://127.0.0.1:1", token="", worker=worker, host="here", port=1, device="cpu"
        )
        agent.job = self
        agent._link = _Line(self, worker)  # type: ignore[assignment]
        self.agents[worker] = agent
        for message in agent._book.first_words():
            self.hear(worker, message)
        if self.state.phase == "over":
            raise SystemExit(0)

        membership = Membership(
            rank=0,
            device="cpu",
            agent=agent,
            meet=lambda device, settings: LocalFormer(self, worker),
            in_process=True,
            order=self._order,
        )
        with joined_as(membership):
            return self._main()


class LocalFormer:
    """Forms groups of threads."""

    def __init__(self, job: ElasticJob, worker: int) -> None:
        self._job, self._worker = job, worker

    def form(self, view: View, rank: int) -> Group:
        self._job.notes[self._worker].views.append(view.generation)
        self._job.at(self._worker, -1, "form")
        members = tuple(m.worker for m in view.members)
        inner: Group = AloneGroup()
        if len(members) > 1:
            inner = self._job.job.group_of(self._worker, members, view.generation)
        return FaultyGroup(self._job, self._worker, inner)

    def give_up(self, view: View) -> None:
        self._job.job.close(view.generation, self._worker)


class FaultyGroup(Group):
    """A group in which a worker can die."""

    def __init__(self, job: ElasticJob, worker: int, inner: Group) -> None:
        self._inner = inner
        super().__init__(rank=inner.rank, world_size=inner.world_size, device=inner.device)
        self._job, self._worker = job, worker

    @property
    def _step(self) -> int:
        words = self.position.split()
        if words[0:1] == ["round"]:
            return ROUND + int(words[1])
        return int(words[1]) if len(words) == 2 and words[0] == "step" else -1

    def _at(self, phase: str) -> None:
        self._job.at(self._worker, self._step, phase)

    def _gather(self, name: str, payload: bytes, what: str) -> list[bytes]:
        self._at("gather")
        for fault in self._job.faults:
            if (fault.worker, fault.step, fault.phase) == (
                self._worker,
                self._step,
                "partial",
            ) and not fault.has_fired:
                if fault.nth > 0:
                    fault.nth -= 1
                    continue
                fault.has_fired = True
                if isinstance(self._inner, AloneGroup):
                    raise Killed  # nobody could see it
                others = {w for w in self._job.notes if w not in (self._worker, fault.seen_by)}
                self._inner.hidden_from = frozenset(others)  # type: ignore[attr-defined]
                self._inner._leave({"gather_calls": "calls"}.get(name, "bytes"), payload)  # type: ignore[attr-defined]
                raise Killed
        found: list[bytes] = getattr(self._inner, name)(payload, what=what)
        self._at("gathered")
        return found

    def gather_calls(self, payload: bytes, *, what: str) -> list[bytes]:
        return self._gather("gather_calls", payload, what)

    def gather_bytes(self, payload: bytes, *, what: str) -> list[bytes]:
        return self._gather("gather_bytes", payload, what)

    def exchange(self, *args: Any, what: str) -> Pending:
        self._at("exchange")
        return self._inner.exchange(*args, what=what)

    def spread(self, *args: Any, what: str) -> Pending:
        self._at("spread")
        return self._inner.spread(*args, what=what)

    def close(self) -> None:
        self._inner.close()

    @property
    def overlaps(self) -> bool:
        return self._inner.overlaps
