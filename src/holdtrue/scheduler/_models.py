"""Bodies of the scheduler's HTTP requests and answers. Loaded where the web framework is, and nowhere else."""

from typing import Annotated, Any

from pydantic import Field

from holdtrue.service.web import Body


class SubmitBody(Body):
    """Jobs to take, all of them or none."""

    jobs: Annotated[
        list[dict[str, Any]], Field(min_length=1, max_length=1000)
    ]  # Any: checked as a job's file is


class CancelBody(Body):
    """The job to end."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,63}$")]


class PolicyBody(Body):
    """The policy from now on."""

    policy: Annotated[str, Field(min_length=1, max_length=63)]


class StopBody(Body):
    """How to end the scheduler."""

    ends_jobs: bool = False
    """Ask running jobs to end with a checkpoint; they wait for the next start."""


class Answer(Body):
    """What became of a request, as a sentence."""

    reason: str


class SubmitAnswer(Body):
    """Names of the jobs that were taken."""

    names: list[str]


class StopAnswer(Body):
    """Names of the jobs that run."""

    running: list[str]


class HealthAnswer(Body):
    """The scheduler answers."""

    pid: int
    policy: str


class JobAnswer(Body):
    """One job."""

    number: int
    name: str
    state: str
    """waiting, running, finished, failed or cancelled."""
    devices: int
    """That the last decision gives it."""
    workers: int | None
    """Processes of it that live, coming and going; None while nobody knows."""
    min_devices: int
    max_devices: int
    percent: int
    weight: float
    queue: str
    step: int | None
    total: int | None
    attempt: int
    crashes: int
    purpose: str
    submitted_s: float
    started_s: float | None
    ended_s: float | None
    exit_code: int | None
    ending: str
    run_dir: str
    output: str


class QueueAnswer(Body):
    """The cluster now, and a page of its jobs."""

    policy: str
    devices: dict[str, int]
    queues: dict[str, int]
    reason: str
    """Of the last decision."""
    trouble: str
    """Why nothing can be started now; empty if all is well."""
    epoch_s: float
    """Beginning of the log, in seconds since 1970."""
    newest: int
    """Number of the log's last record."""
    counts: dict[str, int]
    """All jobs of the cluster, by state."""
    jobs: list[JobAnswer]
    """The page that was asked for."""
    next: int | None
    """Give it as `after` to have the next page; None where this is the last."""


class LogAnswer(Body):
    """Records of the log after a number."""

    records: list[dict[str, Any]]  # Any: as `record_to_values` writes them
    newest: int
