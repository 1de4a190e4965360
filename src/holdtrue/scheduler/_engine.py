"""What the scheduler asks of whatever runs its jobs."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from signal import Signals
from typing import Any, final

from ._evidence import Evidence
from ._records import JobRecord
from ._request import JobRequest


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What there is to see of a running job."""

    evidence: Evidence
    facts: Mapping[str, Any] | None = None  # Any: JSON values
    """What its controller says; None while it does not answer."""

    @property
    def held(self) -> int:
        """Worker processes of the present view, coming and going; 0 if the controller has not said."""
        return len(self.facts["workers"]) if self.facts is not None else 0

    @property
    def target(self) -> int | None:
        """Workers that it aims at."""
        return None if self.facts is None else int(self.facts["target"])

    @property
    def can_change(self) -> bool:
        """Whether its membership can be changed now."""
        return self.facts is not None and self.facts["phase"] in ("founding", "running")


class ClusterEngine(ABC):
    """Starts, looks at, resizes and ends jobs. What it knows it finds again after its own process was killed."""

    @abstractmethod
    def begin(self, record: JobRecord, workers: int, slot: int = -1) -> None:
        """Start the present attempt of a job, at most once, whoever is killed in between.

        Args:
            record: The job.
            workers: Devices that it begins with.
            slot: Which shared device, for a job of a part; -1 otherwise.

        Raises:
            UsageError: the attempt runs already.
            OSError: nothing can be started now.
        """

    @abstractmethod
    def look(self, record: JobRecord) -> Look:
        """What there is to see of a job's present attempt.

        Blocks:
            At most 5 s.
        """

    @abstractmethod
    def resize(self, record: JobRecord, workers: int) -> str:
        """Aim at another number of workers; what became of it.

        Raises:
            HoldtrueError: the job cannot, or its controller does not answer.

        Blocks:
            At most 5 s.
        """

    @abstractmethod
    def stop(self, record: JobRecord, reason: str) -> str:
        """Ask a job to end at its next step boundary, with a checkpoint.

        Raises:
            HoldtrueError: its controller does not answer.

        Blocks:
            At most 5 s.
        """

    @abstractmethod
    def signal(self, record: JobRecord, how: Signals) -> None:
        """Send a job's launcher a signal."""

    @abstractmethod
    def keeper(self, record: JobRecord) -> int | None:
        """A process whose end is the attempt's end, if one is known."""

    @abstractmethod
    def last_words(self, record: JobRecord) -> str:
        """The error that a job's launcher printed last, if there is one."""

    @abstractmethod
    def name_is_taken(self, name: str) -> bool:
        """Whether a job of that name runs beside the cluster."""

    def check(self, request: JobRequest) -> None:  # noqa: B027  # most engines take what the cluster takes
        """Refuse a job that could not run on the engine's devices.

        Raises:
            UsageError: it could not.
        """

    def slot(self, record: JobRecord) -> int | None:
        """Shared device with which a job's present attempt was begun, -1 for none; None if nobody wrote it down."""
        return None

    def note_killed(self, record: JobRecord) -> None:  # noqa: B027  # most engines keep no such book
        """Write down that a job's launcher is gone, killed or with its machine, where that could not do it itself."""

    @property
    def trouble(self) -> str:
        """Why no job can be started or grow now, as a sentence; empty if all is well."""
        return ""

    @abstractmethod
    def reap(self, running: Sequence[JobRecord]) -> None:
        """Take the statuses of processes that ended, and end what no running job's present attempt needs."""

    def close(self, *, is_idle: bool) -> None:  # noqa: B027  # most engines hold nothing
        """Let go of everything; where no job runs, end what was started for this cluster alone.

        Blocks:
            At most 45 s.
        """
