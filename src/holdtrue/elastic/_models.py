"""Bodies of the HTTP requests and answers. Loaded where the web framework is, and nowhere else."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from holdtrue.service.web import Body
from holdtrue.wire import MOST_MAPPING

from ._state import MOST_WORKERS


def _read_whole(value: object) -> object:
    """2.0 is a whole number in JSON, as a schema understands it."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


class ResizeBody(Body):
    """The workers that the job should have."""

    workers: Annotated[int, Field(ge=1, le=MOST_WORKERS), BeforeValidator(_read_whole)]


class StopBody(Body):
    """Why the job should stop."""

    reason: Annotated[str, Field(max_length=1000)] = "asked by the user"


class MappingBody(Body):
    """The mapping from the next boundary on; null for the even one."""

    mapping: Annotated[str, Field(min_length=1, max_length=MOST_MAPPING)] | None


class Answer(Body):
    """What became of a request."""

    reason: str
    """Sentences, one a line."""
    generation: int
    target: int


class HealthAnswer(Body):
    """The controller answers."""

    name: str
    phase: str


class DescriptionAnswer(Body):
    """What a host that joins is told of the job."""

    description: dict[str, Any]  # Any: plain JSON values that the launcher wrote


class EventAnswer(Body):
    """One thing that happened to the membership."""

    number: int
    """From 1, ascending; numbers are not given twice by one controller."""
    time_s: float
    """Seconds since 1970."""
    sentence: str


class EventsAnswer(Body):
    """The newest events after a number."""

    events: list[EventAnswer]
    newest: int
    """Number of the newest event; ask for those after it next."""
    dropped: int
    """Events after the number asked for that the controller keeps no more."""


class WorkerAnswer(Body):
    """One worker."""

    worker: int
    rank: int | None
    phase: str
    device: str | None
    address: str | None
    host: str | None
    pid: int
    generation: int
    step: int
    is_connected: bool


class HostAnswer(Body):
    """One host."""

    name: str
    address: str
    slots: int
    running: list[int]
    is_connected: bool


class JobAnswer(Body):
    """The job now."""

    name: str
    phase: str
    """founding, running, stopping, finished, stopped or failed."""
    reason: str
    generation: int
    target: int
    most: int | None
    mapping: str | None
    cause: str
    step: int
    restarts_left: int
    unplaced: int
    """Workers that wait for a host with room."""
    workers: list[WorkerAnswer]
    hosts: list[HostAnswer]
    progress: dict[str, Any]  # Any: plain JSON values that the run said
