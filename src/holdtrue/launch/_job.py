"""A job as the launcher knows it: what to start, and how it ended."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import final

from holdtrue.errors import UsageError
from holdtrue.wire import ORPHAN_WAIT_S, Setting

DEVICES: tuple[str, ...] = ("cpu", "cuda", "auto")
"""Kinds of device that a job can be started on; `auto` is cuda where there is one."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """What to start: a script as some processes on this machine.

    Raises:
        UsageError: a field is out of its range.
    """

    script: str
    """Path of the script, from the current folder; with `is_module`, the name of a module."""
    arguments: tuple[str, ...] = ()
    """Arguments of the script."""
    run_dir: Path
    """The run's directory; logs are written to its `logs/`."""
    name: str = "job"
    """Name of the job."""
    is_name_given: bool = True
    """Elastic: refuse the job where another of its name lives; otherwise a number is added to the name."""
    workers: int = 1
    """Processes to start."""
    least_workers: int = 1
    """Elastic: the job goes on while it has so many."""
    most_workers: int | None = None
    """Elastic: devices that come by are taken up to so many; None takes none unasked."""
    restarts: int = 0
    """Elastic: workers that are replaced after they died, in all."""
    is_elsewhere: bool = False
    """Elastic: start no worker on this machine; the job begins when hosts with `workers` devices in all have joined."""
    listen: str = "127.0.0.1"
    """Elastic: address of this machine on which controller and workers listen."""
    listen_port: int = 0
    """Elastic: port of the controller; 0 for any that is free."""
    join_token: str | None = field(default=None, repr=False)
    """Elastic: the token of scope join; None makes one."""
    mapping: str | None = None
    """Text form of the mapping; None for the even one."""
    device: str = "auto"
    """`cpu`, `cuda` or `auto`."""
    devices: tuple[str, ...] | None = None
    """The device of each worker, by rank, such as `cpu` or `cuda:0`; None assigns those of `device`."""
    variables: tuple[Mapping[str, str], ...] = ()
    """Environment variables of single workers, by number, stronger than all others; the rest has none of its own."""
    threads: int = 1
    """Intra-op threads of each worker."""
    settings: Mapping[str, Setting] = field(default_factory=lambda: MappingProxyType({}))
    """Settings that the command line gives; they are stronger than all others."""
    is_module: bool = False
    """Start `python -m SCRIPT`."""
    group_timeout_s: float = 300.0
    """Elastic: bound of every wait between workers, in seconds."""
    resume_command: str = ""
    """The command that goes on with it after its end, for people; empty if there is none."""
    interrupt_wait_s: float = 300.0
    """Seconds that the workers have to reach a step boundary after the first Ctrl-C."""
    orphan_wait_s: float = ORPHAN_WAIT_S + 2.0
    """Seconds from the launcher's death until its guard kills the workers; they end by themselves before."""

    def __post_init__(self) -> None:
        for name in ("workers", "threads"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise UsageError(f"{name} is {value!r}; it must be a whole number. Pass an int.")
        if self.workers < 1:
            raise UsageError(f"workers is {self.workers}; a job has at least 1. Ask for 1 or more.")
        if self.threads < 1:
            raise UsageError(f"threads is {self.threads}; a worker has at least 1. Ask for 1 or more.")
        if not 1 <= self.least_workers <= self.workers or self.restarts < 0:
            raise UsageError(
                f"a job of {self.workers} worker(s) is to go on with {self.least_workers} and {self.restarts} restart(s); "
                f"the least is from 1 to the workers it starts with, restarts are 0 or more. Give such numbers."
            )
        if self.listen in ("0.0.0.0", "::", "", "*"):
            raise UsageError(
                f"listen is {self.listen!r}; the job listens on one address, by which the others reach it. "
                f"Give an address of this machine in a private network (see `ip address`)."
            )
        if self.device not in DEVICES:
            raise UsageError(
                f"device is {self.device!r}; the devices are {', '.join(DEVICES)}. Ask for one of them."
            )

    @property
    def title(self) -> str:
        """What the job runs, for sentences."""
        return self.name if self.is_module else self.script


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerEnd:
    """How one worker ended."""

    worker: int
    """Its number in the job; in a fixed group its rank."""
    status: int
    """Exit status; the negative number of the signal for a worker that was killed."""
    joined: bool
    """Whether it called `holdtrue.init`."""
    finished: bool = False
    """Whether it came to the end of its script."""
    interrupted: bool = False
    """Whether it ended in order before that, as all workers do when the job is stopped."""
    kind: str | None = None
    """Class name of the error that it reported."""
    sentence: str | None = None
    """Message of the error that it reported."""
    where: str | None = None
    """Where in the script, as it reported."""
    was_stopped: bool = False
    """Whether the launcher had sent it a signal before."""
    log: Path
    """File with its output."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One cause of a job's failure, shown once."""

    workers: tuple[int, ...]
    """Numbers of the workers that failed alike, ascending."""
    how: str
    """How they ended: `ended with exit status 1`, `was killed by SIGKILL`."""
    kind: str | None
    """Class name of the error, where the worker reported one."""
    sentence: str | None
    """What was wrong, where that is known: a sentence for the user, or the last lines of the log."""
    is_tail: bool = False
    """Whether those are the last lines of the log: they may say anything."""
    where: str | None = None
    """Where in the script, where that is known."""
    log: Path
    """Log file of the first of them."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """How a job ended."""

    exit_code: int
    """0; the script's own status; 1 after a death by signal; 2 for wrong use; 130 after Ctrl-C."""
    failures: tuple[Failure, ...]
    """Causes of the failure; empty if there was none."""
    was_interrupted: bool
    """Whether Ctrl-C or SIGTERM ended the job."""
    ends: tuple[WorkerEnd, ...]
    """The end of each worker, by number."""
    steps: int | None
    """Steps of the whole run that are done, as far as the main worker told."""
    digest: str | None
    """Digest of the training state at the end, as the main worker told."""
    loss: float | None
    """Loss of the last step that the main worker told."""
    checkpoint_step: int | None
    """Step of the last checkpoint that was written, as far as known."""
    has_finished: bool = False
    """Elastic: whether the training came to its end, whatever status its script then gave."""
    reason: str | None = None
    """Elastic: why the job is over, as its controller said."""
    generation: int | None = None
    """Elastic: the last membership's number, as far as known."""
    seconds: float
    """From the start of the first process to the end of the last."""
