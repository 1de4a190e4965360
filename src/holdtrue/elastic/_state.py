"""What the controller knows of a job, as one frozen value. Pure."""

from bisect import bisect_left
from dataclasses import dataclass, replace
from typing import Any, Literal, final

from holdtrue.errors import UsageError

from ._view import Member, View

MOST_WORKERS = 4096
"""Workers of one job: bounds what a view can hold."""

GENERATIONS_OF_A_LIFE = 100_000
"""Each controller of a job numbers views from its own range."""

NUMBERS_OF_A_LIFE = 10_000
"""Each controller of a job numbers the workers that it orders from its own range: one that lived before may have given
numbers to workers that died since, of whom nobody can tell."""

LEFT = 256
"""Stands for the exit status of a worker that ended in order before the end of the script."""

Phase = Literal["starting", "waiting", "ready", "member", "dismissed", "gone"]
"""starting: ordered from a host, or running there without a word. waiting: said hello, a founder or a joiner that
still runs up to its first collective call. ready: a joiner that can enter. member: has been put into a view.
dismissed: told to end. gone: its process has ended, or it was expelled."""

HowGone = Literal["finished", "left", "died", "expelled", "dismissed"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class JobSettings:
    """What a controller is told of its job; times in seconds.

    Raises:
        UsageError: a field is out of its range.
    """

    name: str
    workers: int
    """Workers that the job asks for at its start."""
    least: int
    """Workers with which it may begin once the grace is over."""
    most: int | None = None
    """Workers that it never has more of; None for no bound of its own."""
    restarts: int = 0
    """Dead workers that are replaced."""
    group_timeout_s: float = 30.0
    """Bound of a wait between workers: nobody is expelled for a shorter silence."""
    mapping: str | None = None
    """Mapping of the founders' view; None for the even one."""
    life: int = 0
    """Controllers of this job that lived before this one: with any, workers may train already."""
    grace_s: float = 5.0
    """How long `least` founders wait for the others."""
    starting_grace_s: float = 30.0
    """The same while processes of the others start."""
    settle_s: float = 10.0
    """How long a restarted controller listens before it starts workers, or founds."""
    start_timeout_s: float = 300.0
    """From the order to start a worker to its first word."""
    host_wait_s: float = 15.0
    """How long a worker that said nothing yet is waited for after the connection of its host was lost: above the pauses
    after which a host connects again."""
    gather_s: float = 2.0
    """How long a ready joiner waits for others that are on their way."""
    silence_grace_s: float = 5.0
    """After one worker waited out a whole group time-out: what the others have to notice."""
    word_wait_s: float = 0.25
    """After a death, what a joiner that is entering has to say that it has the state."""
    reconnect_s: float = 2.0
    """The same for one whose connection is broken: it tries again at least once a second."""
    kill_wait_s: float = 2.0
    """From the order to kill a silent worker to its expulsion."""
    lost_host_s: float = 10.0
    """How long a member is waited for that the others lost, while neither it nor its host can be reached."""
    dark_s: float = 120.0
    """How long the controller waits when neither a worker nor a host can be reached."""

    def __post_init__(self) -> None:
        most = self.most if self.most is not None else MOST_WORKERS
        if not 1 <= self.least <= self.workers <= most <= MOST_WORKERS:
            raise UsageError(
                f"job {self.name!r} has least {self.least}, workers {self.workers}, most {self.most}; it needs "
                f"1 <= least <= workers <= most <= {MOST_WORKERS}. Give such numbers."
            )
        waits = {name: getattr(self, name) for name in self.__slots__ if name.endswith("_s")}
        if (
            self.restarts < 0
            or not 0 <= self.life < 10**6
            or not all(0 < wait < 1e6 for wait in waits.values())
        ):
            raise UsageError(
                f"job {self.name!r} has {self.restarts} restarts, {self.life} lives and the waits {waits}; the first two "
                f"are 0 or more, and waits are seconds above 0. Give such numbers."
            )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """One worker as the controller knows it; times are the caller's clock in seconds."""

    number: int
    phase: Phase
    host: str | None = None
    """Name of the host that runs it, if one said so."""
    address: Member | None = None
    """Where its store listens, as it said."""
    pid: int = 0
    is_connected: bool = False
    since_s: float
    """When it was ordered or first heard of; for one that is gone, when it went."""
    ready_s: float = 0.0
    generation: int = 0
    """Newest generation that it entered."""
    step: int = 0
    void: int = 0
    """It may enter no view up to this generation: it was left out of a forced one while it joined."""
    has_state: bool = False
    """Whether it holds the training state, as far as it said."""
    is_leaving: bool = False
    """Whether it asked to leave, and the target was lowered for it."""
    is_added: bool = False
    """The target was raised for it, since its host asked for a worker: its place goes where its host goes."""
    dropped_s: float | None = None
    """When its connection was lost; None while it is connected, or was never."""
    lost_s: float | None = None
    """When it first said that a collective failed, and no newer view answered it."""
    has_waited: bool = False
    """Whether it had waited out the group's time-out when it said so."""
    kill_s: float | None = None
    """When its host was told to kill it for its silence."""
    how_gone: HowGone | None = None

    @property
    def is_living(self) -> bool:
        """Whether it may still act as a member or a joiner."""
        return self.phase not in ("gone", "dismissed")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One machine that starts workers."""

    name: str
    address: str
    slots: int
    adds: int = 0
    """Workers that it asked for and was not given yet."""
    raised: int = 0
    """By how much the target was raised for those."""
    running: tuple[int, ...] = ()
    is_connected: bool = True
    dropped_s: float | None = None

    @property
    def free(self) -> int:
        """Workers that it can still start."""
        return max(0, self.slots - len(self.running)) if self.is_connected else 0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Everything that a decision rests on."""

    settings: JobSettings
    phase: Literal["founding", "running", "over"] = "founding"
    began_s: float | None = None
    """Time of the first event."""
    first_hello_s: float | None = None
    target: int
    """Workers that the job should have."""
    workers: tuple[Worker, ...] = ()
    """By number; those who are gone stay until no view of the chain names them."""
    hosts: tuple[Host, ...] = ()
    """By name."""
    chain: tuple[View, ...] = ()
    """First the newest view that all its living members entered, then those sent since, ascending."""
    generation: int = 0
    """Newest generation that is known to anyone."""
    next_worker: int = 0
    gone: frozenset[int] = frozenset()
    """Numbers of all workers that are gone: one that comes back is refused."""
    mapping: str | None = None
    mapping_reason: str = ""
    """Why that mapping was asked for, as far as whoever asked said."""
    restarts_left: int
    no_start: str = ""
    """Why a host could not start a worker at all, the last time."""
    stop_reason: str | None = None
    last_pass: tuple[int, int, int] | None = None
    """Step, round and virtual node of the pass in which the last dead worker died."""
    is_finishing: bool = False
    """Whether a member came to the end of the script: the others are about to, and nobody joins any more."""
    has_main_finished: bool = False
    """Whether a main worker did: then everything that the job writes is written."""
    ended_before: tuple[tuple[int, int], ...] = ()
    """Numbers and exit statuses of workers that ended before this controller had heard of them."""
    errors_before: tuple[tuple[int, str], ...] = ()
    """Those of them that ended with an error of the script, and its sentence."""
    remembers: bool = False
    """Whether `target` and what else is asked for come from the controller before this one."""
    has_begun: bool = False
    """Whether the job trained under the controller before this one: it is not founded again."""
    leaving_before: frozenset[int] = frozenset()
    """Numbers of workers that had asked it to leave."""
    adds_before: tuple[tuple[str, int], ...] = ()
    """By host, the workers that it had asked for and not been given when that controller wrote it down."""
    how_over: Literal["finished", "stopped", "failed"] | None = None
    over_reason: str = ""

    def worker(self, number: int) -> Worker | None:
        """The worker of that number, if it is known."""
        at = bisect_left(self.workers, number, key=lambda each: each.number)
        return self.workers[at] if at < len(self.workers) and self.workers[at].number == number else None

    def host(self, name: str | None) -> Host | None:
        """The host of that name, if it is known."""
        return next((host for host in self.hosts if host.name == name), None)

    @property
    def number_to_give(self) -> int:
        """A worker's number that no worker of the job has or had."""
        return max(self.next_worker, self.settings.life * NUMBERS_OF_A_LIFE)

    @property
    def newest(self) -> View | None:
        """The newest view that was sent."""
        return self.chain[-1] if self.chain else None

    @property
    def next_generation(self) -> int:
        """A number that no view has, not even one that another controller sent to somebody who did not say so yet."""
        return max(self.generation, self.settings.life * GENERATIONS_OF_A_LIFE) + 1

    @property
    def members(self) -> tuple[Worker, ...]:
        """Living workers of the newest view, by rank."""
        if not self.chain:
            return ()
        known = {worker.number: worker for worker in self.workers}
        return tuple(
            worker
            for member in self.chain[-1].members
            if (worker := known.get(member.worker)) is not None and worker.is_living
        )

    @property
    def counted(self) -> tuple[Worker, ...]:
        """Workers that are, or will be, members once everything under way is done."""
        mine = {member.worker for member in self.chain[-1].members} if self.chain else set()
        return tuple(
            worker
            for worker in self.workers
            if worker.is_living
            and not worker.is_leaving
            and (worker.phase != "member" or worker.number in mine)
        )

    def with_worker(self, worker: Worker) -> "State":
        """This state with a worker added or replaced."""
        at = bisect_left(self.workers, worker.number, key=lambda each: each.number)
        found = at < len(self.workers) and self.workers[at].number == worker.number
        return replace(
            self,
            workers=(*self.workers[:at], worker, *self.workers[at + found :]),
            next_worker=max(self.next_worker, worker.number + 1),
        )

    def with_host(self, host: Host) -> "State":
        """This state with a host added or replaced."""
        others = [other for other in self.hosts if other.name != host.name]
        return replace(self, hosts=tuple(sorted([*others, host], key=lambda each: each.name)))


def first_state(settings: JobSettings) -> State:
    """The state of a controller that has heard of nobody."""
    return State(
        settings=settings,
        target=settings.workers,
        mapping=settings.mapping,
        restarts_left=settings.restarts,
    )


def change(worker: Worker, **changes: Any) -> Worker:  # Any: fields of Worker, checked by its constructor
    """The worker with some fields changed."""
    return replace(worker, **changes)
