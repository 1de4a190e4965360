"""The workers of one generation as one endpoint: what every adapter provides."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import final

import torch


class Pending(ABC):
    """A collective on its way."""

    @abstractmethod
    def wait(self) -> None:
        """Return when the tensors of the collective may be read and reused.

        Blocks:
            Until the collective is complete, at most the group's time-out.

        Raises:
            GroupError: a worker left, or the time-out ran out; the message names what was awaited.
        """

    @abstractmethod
    def is_complete(self) -> bool:
        """Whether `wait` would return at once."""


@final
class Done(Pending):
    """A collective that needed no waiting."""

    def wait(self) -> None:
        """Return at once."""

    def is_complete(self) -> bool:
        """True."""
        return True


class Group(ABC):
    """The workers of one generation; every method but `close` is called by all of them in the same order.

    Four streams of collectives are ordered each by itself and may overlap in time: `gather_calls`,
    `gather_bytes`, `exchange`, `spread`.
    """

    def __init__(self, *, rank: int, world_size: int, device: torch.device) -> None:
        self.rank = rank
        self.world_size = world_size
        self.device = device
        """Where the tensors of `exchange` and `spread` live."""
        self.on_slow_wait: Callable[[str], None] = lambda what: None
        """Called about once a second while a wait lasts, with what is awaited; may raise to end it."""
        self.position = ""
        """Where this worker is in its script, for others to read when they wait long."""

    @abstractmethod
    def gather_calls(self, payload: bytes, *, what: str) -> list[bytes]:
        """As `gather_bytes`, in a stream of its own: for agreeing on which call of the script comes next."""

    @abstractmethod
    def gather_bytes(self, payload: bytes, *, what: str) -> list[bytes]:
        """The payload of every worker, by rank. Payloads may differ in length.

        Blocks:
            Until every worker has called, at most the group's time-out.
        """

    def gather_fixed(self, payload: bytes, *, what: str) -> list[bytes]:
        """As `gather_bytes`, for payloads that all workers know to have one length: cheaper on some adapters."""
        return self.gather_bytes(payload, what=what)

    @abstractmethod
    def exchange(
        self,
        output: torch.Tensor,
        input: torch.Tensor,
        output_sizes: Sequence[int],
        input_sizes: Sequence[int],
        *,
        what: str,
    ) -> Pending:
        """Start an all-to-all of one-dimensional contiguous tensors.

        Args:
            output: Receives `output_sizes[r]` elements from each worker r, in rank order.
            input: Holds `input_sizes[r]` elements for each worker r, in rank order.
            output_sizes: Elements from each worker; 0 for none.
            input_sizes: Elements for each worker; 0 for none.
            what: What is exchanged, for messages.
        """

    @abstractmethod
    def spread(self, flat: torch.Tensor, bounds: Sequence[int], *, what: str) -> Pending:
        """Start filling `flat` on every worker: worker r sends `flat[bounds[r]:bounds[r + 1]]` to the others."""

    def say_ended(self, *, has_failed: bool) -> None:  # noqa: B027 - nobody to tell in most adapters
        """Leave word that this worker came to the end of its script, for those who still wait for it."""

    def let_others_end(self) -> None:  # noqa: B027 - most adapters have nothing that outlives the group
        """Stay for what others may still read of this worker's store, after `close`.

        Blocks:
            Until all workers came to an end, at most 5 s.
        """

    @abstractmethod
    def close(self) -> None:
        """Leave the group. Returns at once; further calls are errors."""

    @property
    @abstractmethod
    def overlaps(self) -> bool:
        """Whether collectives may start while a backward pass still runs."""


@final
class AloneGroup(Group):
    """A group of one worker: nothing is sent."""

    def __init__(self, device: torch.device | None = None) -> None:
        super().__init__(rank=0, world_size=1, device=device or torch.device("cpu"))

    def gather_calls(self, payload: bytes, *, what: str) -> list[bytes]:
        """This worker's payload alone."""
        return [payload]

    def gather_bytes(self, payload: bytes, *, what: str) -> list[bytes]:
        """This worker's payload alone."""
        return [payload]

    def exchange(
        self,
        output: torch.Tensor,
        input: torch.Tensor,
        output_sizes: Sequence[int],
        input_sizes: Sequence[int],
        *,
        what: str,
    ) -> Pending:
        """Copy input to output."""
        output.copy_(input)
        return Done()

    def spread(self, flat: torch.Tensor, bounds: Sequence[int], *, what: str) -> Pending:
        """Nothing to do."""
        return Done()

    def close(self) -> None:
        """Nothing to do."""

    @property
    def overlaps(self) -> bool:
        """False: there is nothing to overlap with."""
        return False
