"""A view: who belongs to the job in one generation. Pure."""

from dataclasses import dataclass, field
from typing import final

from holdtrue.errors import UsageError


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One worker of a view."""

    worker: int
    """Number of the worker in the job: given once, from 0, never to another process; not its rank."""
    host: str
    """Address at which the worker's store listens; loopback unless the job listens elsewhere."""
    port: int
    """Port of the worker's store."""
    device: str = "cpu"
    """The device that it drives: `cpu`, `cuda:0`, ..."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The workers of one generation, in rank order.

    Raises:
        UsageError: it has no member, or one twice.
    """

    generation: int
    """1 for the founders' view, +1 at each change; numbers may be skipped and never come again."""
    members: tuple[Member, ...]
    """By rank: those who stay keep their order, joiners come after them. Rank 0's store serves the generation."""
    joiners: tuple[int, ...] = ()
    """Numbers of the workers that have no state yet and get it from the others."""
    is_planned: bool = False
    """True: entered at the step boundary that the workers agree on in their reduce. False: entered at once,
    by whoever lost a worker; it follows a death."""
    mapping: str | None = None
    """Text of the mapping; None for the even one."""
    cause: str = ""
    """Why the membership changed, as a sentence for the record."""
    lost: tuple[int, ...] = field(default=())
    """Workers of the former view that are dead, not merely leaving."""

    def __post_init__(self) -> None:
        numbers = [m.worker for m in self.members]
        if not numbers or len(set(numbers)) != len(numbers):
            raise UsageError(
                f"the view of generation {self.generation} has the workers {numbers}; it needs at least one, each once. "
                f"Build views with the membership's own rules."
            )

    def rank_of(self, worker: int) -> int | None:
        """Rank of a worker, or None if it is not a member."""
        return next((rank for rank, m in enumerate(self.members) if m.worker == worker), None)

    @property
    def stayers(self) -> tuple[int, ...]:
        """Ranks of the members that have the state already."""
        return tuple(rank for rank, m in enumerate(self.members) if m.worker not in self.joiners)
