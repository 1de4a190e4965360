"""What the scheduler asks of whatever lends it devices: hosts of jobs, one device each, placed by somebody else.

A *host* is what `holdtrue worker --join` runs: it joins a job's controller with one device, and starts and ends that
device's worker as the controller says. With the embedded engine the job's launcher is the only host, and there is
nothing to ask for.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import final


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class HostOrder:
    """A host to start."""

    name: str
    """`NUMBER-ATTEMPT-XXXXXX`: of a job, its attempt, and this host; never given twice. The job knows it by that name."""
    job: str
    """Name of the job, for people."""
    kind: str
    """Kind of the device: `cpu` or `cuda`."""
    percent: int
    """Per cent of one device."""
    url: str
    """Where the job's controller listens."""
    token: str = field(repr=False)
    """Of scope join."""
    folder: str
    """Folder in which the job runs, on whichever machine."""
    environment: Mapping[str, str]
    """Variables besides those of the machine."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class HostEnd:
    """How a host ended."""

    status: int | None
    """As `holdtrue worker --join` would have ended; None if it was killed or lost."""
    sentence: str = ""
    """What there is to say about it."""
    with_machine: bool = False
    """Whether the machine, or the whole cluster, went with it."""
    has_run: bool = True
    """Whether it had a worker; the status of one that had none says nothing about the job's script."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class HostLook:
    """What there is to see."""

    living: frozenset[str] = frozenset()
    """Names of hosts that were asked for and have not ended, those that wait for a place included."""
    waiting: frozenset[str] = frozenset()
    """Those of them that have no place yet."""
    ended: Mapping[str, HostEnd] = field(default_factory=dict)
    """Hosts that ended and were not forgotten yet."""
    trouble: str = ""
    """Why nothing can be started now, as a sentence; empty if all is well."""


class HostEngine(ABC):
    """Lends devices. None of these calls waits for the cluster: what is asked for shows in a later `look`.

    Guarantee:
        Hosts outlive the process that asked for them, and are found again by its successor.
    """

    @abstractmethod
    def devices(self) -> Mapping[str, int]:
        """Devices that there are by kind, in use or not."""

    @abstractmethod
    def start(self, order: HostOrder) -> None:
        """Ask for a host. One that was asked for counts as living from now on."""

    @abstractmethod
    def stop(self, name: str, *, at_once: bool) -> None:
        """Have a host leave its job at the next step boundary, or end at once; unknown names are passed over."""

    @abstractmethod
    def look(self) -> HostLook:
        """What there is to see."""

    @abstractmethod
    def forget(self, name: str) -> None:
        """The end of a host was noted."""

    @abstractmethod
    def close(self, *, ends_all: bool) -> None:
        """Let go of it, and end what was started for the scheduler alone where `ends_all` says that no job needs it.

        Blocks:
            At most 45 s.
        """


def attempt_of(name: str) -> str:
    """`NUMBER-ATTEMPT` of a host's name.

    >>> attempt_of("7-2-a1b2c3")
    '7-2'
    """
    return name.rpartition("-")[0]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class HostPlan:
    """What is to be done about the hosts of one attempt."""

    more: int = 0
    """Hosts to ask for."""
    leave: tuple[str, ...] = ()
    """To leave politely."""
    end: tuple[str, ...] = ()
    """To end at once: they have no place yet."""


def plan_hosts(
    wanted: int,
    hosts: Collection[str],
    *,
    waiting: Collection[str],
    busy: Collection[str],
    leaving: Collection[str],
) -> HostPlan:
    """What to do about the hosts of one attempt. Pure.

    Args:
        wanted: Workers that the job aims at.
        hosts: Names of its living hosts.
        waiting: Those that have no place yet.
        busy: Those that run a worker, as the job's controller says.
        leaving: Those that were told to end.

    Returns:
        As many more as are missing; or else those to end that run nothing: who runs a worker ends with it, and the
        controller chooses which worker leaves.

    >>> plan_hosts(2, ["1-1-a"], waiting=[], busy=["1-1-a"], leaving=[]).more
    1
    >>> plan_hosts(1, ["1-1-a", "1-1-b", "1-1-c"], waiting=["1-1-c"], busy=["1-1-a"], leaving=[])
    HostPlan(more=0, leave=('1-1-b',), end=('1-1-c',))
    """
    there = [name for name in sorted(hosts) if name not in leaving]
    surplus = len(there) - wanted
    if surplus <= 0:
        return HostPlan(more=-surplus)
    idle = [name for name in there if name not in busy]
    idle.sort(key=lambda name: name not in waiting)
    spare: Sequence[str] = idle[:surplus]
    return HostPlan(
        leave=tuple(name for name in spare if name not in waiting),
        end=tuple(name for name in spare if name in waiting),
    )
