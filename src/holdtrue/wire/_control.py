"""Messages of elastic membership, version 1: JSON objects, one in each WebSocket message.

    worker -> controller   Hello, Ready, Entered, Lost, Leaving, Remap, Progress, End
    controller -> worker   Welcome, ViewSent, Stop, Over
    host -> controller     HostHello, Ended
    controller -> host     Start, Kill, Finish

Nothing of a step is in them, and each is safe to repeat: after a broken connection, worker and host say again what
still holds.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar, final

from holdtrue.errors import GroupError, UsageError

from ._codec import MisfitError, load_object, read_fields, to_json
from ._text import escape_text

CONTROL_VERSION = 1
"""Version of these messages; all processes of a job have the same."""
MOST_MESSAGE_BYTES = 2**20
"""Bytes of one message."""

HowOver = Literal["left", "expelled", "finished", "stopped", "failed"]
"""`left` and `expelled` concern one worker; the others the whole job."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MemberText:
    """One worker of a view."""

    worker: int
    host: str
    port: int
    device: str

    def __post_init__(self) -> None:
        _check_worker(self.worker)
        _check_port(self.port)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ViewText:
    """The workers of one generation, in rank order: `elastic.View` says what the fields mean."""

    generation: int
    members: tuple[MemberText, ...]
    joiners: tuple[int, ...]
    is_planned: bool
    mapping: str | None
    cause: str
    lost: tuple[int, ...]

    def __post_init__(self) -> None:
        numbers = [member.worker for member in self.members]
        if self.generation < 1 or not numbers or len(set(numbers)) != len(numbers):
            raise UsageError(
                f"a view of generation {self.generation} has the workers {numbers}; it needs at least one, each once"
            )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """A worker is here: the first message of each of its connections."""

    event: ClassVar[str] = "hello"
    worker: int
    host: str
    """Address at which its store listens."""
    port: int
    device: str
    pid: int
    generation: int
    """Newest generation that it entered, 0 for none."""
    step: int
    """Step before which it stands, or which it computes."""
    total: int | None
    """Steps of the whole run, if that is known."""
    is_joiner: bool
    """Whether it was welcomed as a joiner before."""
    views: tuple[ViewText, ...]
    """Views that it knows from the one it is in, ascending: a controller without memory learns from them."""

    def __post_init__(self) -> None:
        _check_worker(self.worker)
        _check_port(self.port)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A joiner is at its first collective call. It has entered no view, and will enter none up to `after`."""

    event: ClassVar[str] = "ready"
    after: int
    """Newest generation that it gave up, 0 for none."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Entered:
    """The group of a generation stands on this worker, with the whole state."""

    event: ClassVar[str] = "entered"
    generation: int
    step: int
    seconds: float
    """From the boundary, or the loss, to here."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """A collective of a generation failed on this worker, which now waits for the next view."""

    event: ClassVar[str] = "lost"
    generation: int
    step: int
    waited_for: str
    silent: bool
    """No connection broke: a time-out ran out."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Leaving:
    """The worker wants to leave at the next boundary: its machine is being taken away."""

    event: ClassVar[str] = "leaving"
    reason: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Remap:
    """The main worker has found a mapping of the same members that is worth a change. Not said again: if it is lost, the
    worker finds one anew.
    """

    event: ClassVar[str] = "remap"
    generation: int
    """The generation for which it was found; in another one it means nothing."""
    mapping: str
    reason: str

    def __post_init__(self) -> None:
        if not self.mapping:
            raise UsageError(
                f"the mapping for generation {self.generation} is empty; it has a part for each worker"
            )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Facts of the run for those who look."""

    event: ClassVar[str] = "progress"
    facts: Mapping[str, Any]  # Any: plain JSON values


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """The worker ends by itself."""

    event: ClassVar[str] = "end"
    how: Literal["finished", "left", "interrupted", "failed", "refused"]
    """`left`: as a planned view asked. `interrupted`: all workers end at this boundary, after a checkpoint. `refused`: it came to
    a running job, and would do something else than the others do."""
    sentence: str
    virtual_node: int | None = None
    """Where a failure happened, if in a pass."""
    step: int | None = None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """Answer to `Hello`."""

    event: ClassVar[str] = "welcome"
    is_joiner: bool
    """Whether the job trains already."""
    life: int = 0
    """Controllers of the job that lived before this one."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ViewSent:
    """A view: of this worker's next generation, or one that leaves it out."""

    event: ClassVar[str] = "view"
    view: ViewText


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """The job ends at the next boundary, with a checkpoint."""

    event: ClassVar[str] = "stop"
    reason: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Over:
    """The worker is a member no more, or the job has ended."""

    event: ClassVar[str] = "over"
    how: HowOver
    reason: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class HostHello:
    """A host is here: the first message of each of its connections."""

    event: ClassVar[str] = "host"
    name: str
    """Tells it from the job's other hosts; the same after a reconnection."""
    address: str
    slots: int
    """Workers that it can run at once."""
    adds: int
    """Workers that it asks to be given beyond the job's present size, less those that it was given."""
    running: tuple[int, ...]
    """Numbers of the workers that it runs."""

    def __post_init__(self) -> None:
        if not self.name or min(self.slots, self.adds, *self.running, 0) < 0:
            raise UsageError(
                f"a host {self.name!r} has {self.slots} slots, adds {self.adds} and runs {self.running}; "
                f"it needs a name, and no number of it is negative"
            )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PassPlace:
    """The pass in which a worker died."""

    step: int
    round: int
    virtual_node: int


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A worker's process has ended. Said again on each new connection."""

    event: ClassVar[str] = "ended"
    worker: int
    status: int
    """Exit status; the negative number of the signal for one that was killed."""
    sentence: str
    """An error of its script that must fail the job; empty for a death, or an end in order. Why it was not started."""
    at: PassPlace | None
    has_left: bool = False
    """It ended in order before the end of the script: with status 0 by itself, with another one as all do at a stop."""
    was_started: bool = True
    """False for one that was given up before it had a process: nobody died, and `status` says nothing."""

    def __post_init__(self) -> None:
        _check_worker(self.worker)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Start a worker."""

    event: ClassVar[str] = "start"
    worker: int
    device: str | None
    """The device that it drives; None leaves it to the host."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """End a worker's process with SIGKILL."""

    event: ClassVar[str] = "kill"
    worker: int
    reason: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """The job is over: end what still runs."""

    event: ClassVar[str] = "finish"
    how: Literal["finished", "stopped", "failed"]
    reason: str


WorkerMessage = Hello | Ready | Entered | Lost | Leaving | Remap | Progress | End
ToWorker = Welcome | ViewSent | Stop | Over
HostMessage = HostHello | Ended
ToHost = Start | Kill | Finish
ControlMessage = WorkerMessage | ToWorker | HostMessage | ToHost
M = TypeVar("M", bound=ControlMessage)

FROM_WORKER: tuple[type[WorkerMessage], ...] = (Hello, Ready, Entered, Lost, Leaving, Remap, Progress, End)
TO_WORKER: tuple[type[ToWorker], ...] = (Welcome, ViewSent, Stop, Over)
FROM_HOST: tuple[type[HostMessage], ...] = (HostHello, Ended)
TO_HOST: tuple[type[ToHost], ...] = (Start, Kill, Finish)


def encode_control(message: ControlMessage) -> str:
    """The message as one JSON object.

    >>> encode_control(Ready(after=0))
    '{"version": 1, "event": "ready", "after": 0}'
    """
    values = to_json(message)
    assert isinstance(values, dict)
    return json.dumps({"version": CONTROL_VERSION, "event": message.event} | values, allow_nan=False)


def decode_control(text: str | bytes, kinds: tuple[type[M], ...]) -> M:
    """The message that `text` is, one of `kinds`; control characters in its texts are escaped.

    Raises:
        GroupError: it is longer than `MOST_MESSAGE_BYTES`, not such a message, or of another version.

    >>> decode_control('{"version": 1, "event": "ready", "after": 3}', FROM_WORKER)
    Ready(after=3)
    """
    try:
        values = load_object(text, most_bytes=MOST_MESSAGE_BYTES)
        if (version := values.pop("version", None)) != CONTROL_VERSION or isinstance(version, bool):
            raise MisfitError(f"its version is {version!r:.20} and not {CONTROL_VERSION}")
        event = values.pop("event", None)
        kind = next((kind for kind in kinds if kind.event == event), None)
        if kind is None:
            raise MisfitError(f"its event is not one of {', '.join(kind.event for kind in kinds)}")
        return read_fields(kind, values)
    except MisfitError as misfit:
        start = text[:80].decode(errors="replace") if isinstance(text, bytes) else text[:80]
        raise GroupError(
            f"the control message {escape_text(start)!r} cannot be read: {misfit}. "
            f"Use the same holdtrue for all processes of a job."
        ) from None


def _check_worker(number: int) -> None:
    if number < 0:
        raise UsageError(f"worker is {number}; it is a number from 0")


def _check_port(port: int) -> None:
    if not 0 <= port <= 65535:
        raise UsageError(f"port is {port}; it is from 0 to 65535")
