"""A job as the launcher knows it: what to start, and how it ended."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import final

from holdtrue.errors import UsageError
from holdtrue.wire import Setting

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
    workers: int = 1
    """Processes to start."""
    mapping: str | None = None
    """Text form of the mapping; None for the even one."""
    device: str = "auto"
    """`cpu`, `cuda` or `auto`."""
    devices: tuple[str, ...] | None = None
    """The device of each worker, by rank, such as `cpu` or `cuda:0`; None assigns those of `device`."""
    threads: int = 1
    """Intra-op threads of each worker."""
    settings: Mapping[str, Setting] = field(default_factory=lambda: MappingProxyType({}))
    """Settings that the command line gives; they are stronger than all others."""
    is_module: bool = False
    """Start `python -m SCRIPT`."""
    interrupt_wait_s: float = 300.0
    """Seconds that the workers have to reach a step boundary after the first Ctrl-C."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise UsageError(f"workers is {self.workers}; a job has at least 1. Ask for 1 or more.")
        if self.threads < 1:
            raise UsageError(f"threads is {self.threads}; a worker has at least 1. Ask for 1 or more.")
        if self.device not in DEVICES:
            raise UsageError(
                f"device is {self.device!r}; the devices are {', '.join(DEVICES)}. Ask for one of them."
            )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerEnd:
    """How one worker ended."""

    rank: int
    status: int
    """Exit status; the negative number of the signal for a worker that was killed."""
    joined: bool
    """Whether it called `holdtrue.init`."""
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

    ranks: tuple[int, ...]
    """Workers that failed alike, in order of rank."""
    how: str
    """How they ended: `ended with exit status 1`, `was killed by SIGKILL`."""
    kind: str | None
    """Class name of the error, where the worker reported one."""
    sentence: str | None
    """What was wrong, where that is known: a sentence for the user, or the last lines of the log."""
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
    """The end of each worker, by rank."""
    steps: int | None
    """Steps of the whole run that are done, as far as the main worker told."""
    digest: str | None
    """Digest of the training state at the end, as the main worker told."""
    loss: float | None
    """Loss of the last step that the main worker told."""
    checkpoint_step: int | None
    """Step of the last checkpoint that was written, as far as known."""
    seconds: float
    """From the start of the first process to the end of the last."""
