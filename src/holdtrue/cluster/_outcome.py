"""What a simulation is told about costs, and what it gives back."""

import math
from dataclasses import dataclass

from holdtrue.errors import UsageError

from ._jobs import Cluster, Grant, Job


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Seconds that changes of a job's devices take; each is charged on its own.

    Raises:
        UsageError: a cost is negative.
    """

    start_s: float = 0.0
    """First start: devices are held, no steps are made."""
    resume_s: float = 0.0
    """Start from a checkpoint after a stop: devices are held, no steps are made."""
    checkpoint_s: float = 0.0
    """Written when a job is stopped; charged to the job when it resumes, with its devices held."""
    grow_s: float = 0.0
    """New devices are held and not yet used, while the old ones go on."""
    shrink_s: float = 0.0
    """No steps are made after devices were taken away."""

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if not 0 <= getattr(self, name) < float("inf"):
                raise UsageError(
                    f"{name} is {getattr(self, name)}; a cost is 0 or more seconds. Pass such a number."
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """Decide and move jobs at the ends of rounds only.

    Raises:
        UsageError: a length is not positive.
    """

    length_s: float = 360.0
    """Longest round; a round ends with the last job in it."""
    decide_every_s: float = 0.0
    """Shares are computed anew at most this often; 0 stands for every round in which jobs came or went."""
    whole_steps: bool = True
    """A job makes a whole number of steps in a round."""

    def __post_init__(self) -> None:
        if not 0 < self.length_s < float("inf") or not 0 <= self.decide_every_s < float("inf"):
            raise UsageError(
                f"rounds are {self.length_s} s long and decisions {self.decide_every_s} s apart; a round takes more "
                "than 0 s and ends. Pass positive numbers."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One job holding one set of devices for a while."""

    start_s: float
    """From."""
    end_s: float
    """To."""
    grant: Grant
    """The devices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOutcome:
    """What became of one job."""

    job: Job
    """The job."""
    started_s: float
    """When it first held devices."""
    finished_s: float
    """When its last step was done."""
    done: float
    """Steps counted segment by segment; equals `job.work` up to rounding."""
    useful_device_s: float
    """Device-seconds that made steps."""
    segments: tuple[Segment, ...]
    """Devices that it held, in order."""
    resizes: int
    """Changes of its devices while it ran."""
    stops: int
    """Times that it lost all devices before it was done."""
    neighbours: float
    """Jobs in the cluster while it was there, itself among them, averaged over time."""

    @property
    def jct_s(self) -> float:
        """Job completion time: from arrival to the last step, seconds."""
        return self.finished_s - self.job.arrival_s

    @property
    def queuing_s(self) -> float:
        """From arrival to the first devices, seconds."""
        return self.started_s - self.job.arrival_s

    @property
    def held_device_s(self) -> float:
        """Device-seconds held, useful or not."""
        return math.fsum(
            (s.end_s - s.start_s) * s.grant.devices * s.grant.percent / 100 for s in self.segments
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One simulated schedule."""

    policy: str
    """Name of the policy."""
    cluster: Cluster
    """The devices."""
    jobs: tuple[JobOutcome, ...]
    """Jobs in the order of the trace."""
    decisions: int
    """Times that the policy was asked."""
