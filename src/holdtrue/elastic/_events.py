"""What happens to a job, and what the controller does about it. Pure values."""

from dataclasses import dataclass
from typing import final

from holdtrue.wire import HostMessage, ToHost, ToWorker, WorkerMessage

from ._state import State


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSaid:
    """A worker sent a message."""

    worker: int
    message: WorkerMessage


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerDropped:
    """The newest connection of a worker is gone. That alone is no death."""

    worker: int


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class HostSaid:
    """A host sent a message."""

    host: str
    message: HostMessage


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class HostDropped:
    """The newest connection of a host is gone."""

    host: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ResizeAsked:
    """A user, or the scheduler, wants another number of workers."""

    workers: int


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StopAsked:
    """A user wants the job to end with a checkpoint."""

    reason: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MappingAsked:
    """A user, or the solver, wants another mapping of the same members; None for the even one."""

    mapping: str | None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Ticked:
    """Time has passed."""


Event = WorkerSaid | WorkerDropped | HostSaid | HostDropped | ResizeAsked | StopAsked | MappingAsked | Ticked


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Tell:
    """Send a message to a worker, if it is connected."""

    worker: int
    message: ToWorker


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TellHost:
    """Send a message to a host, if it is connected."""

    host: str
    message: ToHost


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse:
    """Answer whoever asked that it will not be done."""

    sentence: str


Action = Tell | TellHost | Refuse


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The answer to one event."""

    state: State
    actions: tuple[Action, ...]
    """In this order."""
    reason: str
    """Sentences for the record, one a line; empty if nothing worth a word happened."""
    moves_deadlines: bool = True
    """False if nothing that time alone decides has come nearer."""
