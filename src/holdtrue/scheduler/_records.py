"""What the scheduler keeps of each job."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

from ._request import JobRequest

JobState = Literal["waiting", "running", "finished", "failed", "cancelled"]
Purpose = Literal["", "cancel", "preempt"]
OVER: tuple[JobState, ...] = ("finished", "failed", "cancelled")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """One job as the scheduler's file has it."""

    number: int
    """From 1, ascending by arrival; policies know the job by it."""
    request: JobRequest
    state: JobState = "waiting"
    attempt: int = 0
    """Times that it was started; the present one's number."""
    crashes: int = 0
    """Attempts that ended by a failure."""
    purpose: Purpose = ""
    """Why a running job was asked to end."""
    submitted_s: float
    """Seconds since 1970, as all times here."""
    started_s: float | None = None
    """Of the first attempt."""
    ended_s: float | None = None
    exit_code: int | None = None
    """Of the last attempt; the negative number of a signal."""
    ending: str = ""
    """What there is to say about how it ended, or why it waits."""

    @property
    def id(self) -> str:
        """Its name for policies."""
        return str(self.number)

    @property
    def is_over(self) -> bool:
        """Whether nothing more happens to it."""
        return self.state in OVER


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the scheduler keeps what."""

    folder: Path

    @property
    def database(self) -> Path:
        """Jobs and the log."""
        return self.folder / "cluster.sqlite"

    @property
    def lock(self) -> Path:
        """Locked as long as a scheduler lives here."""
        return self.folder / "scheduler.lock"

    @property
    def tokens(self) -> Path:
        """Who may ask."""
        return self.folder / "scheduler.tokens"

    @property
    def address(self) -> Path:
        """Where the living scheduler listens."""
        return self.folder / "scheduler.json"

    @property
    def log(self) -> Path:
        """The scheduler's own words."""
        return self.folder / "scheduler.log"

    @property
    def leases(self) -> Path:
        """Who drives which CUDA device."""
        return self.folder / "leases"

    def run_dir(self, record: JobRecord) -> Path:
        """Run directory of a job."""
        return self.folder / "runs" / f"{record.request.name}-{record.number}"

    def attempt(self, record: JobRecord) -> Path:
        """Folder of a job's present attempt: its order, its output, how it ended."""
        return self.folder / "attempts" / f"{record.number}-{record.attempt}"
