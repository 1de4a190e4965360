"""A worker's side of the membership: what the run asks, whoever answers."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from ._view import View


class Agent(ABC):
    """One worker's line to the membership. The run calls it from the thread that trains; an adapter may have its own.

    A founder waits for the first view in `holdtrue.init`. A joiner runs its script up to the first
    collective call, says that it is ready, and waits for the first view that has it as a member.
    """

    worker: int
    """This worker's number in the job."""
    is_joiner: bool
    """Whether the job trains already: this worker gets its state from the others."""

    @property
    @abstractmethod
    def newest_planned(self) -> int:
        """Generation of the newest planned view that this worker knows, 0 for none: one attribute read, no waiting."""

    @property
    def controller_life(self) -> int:
        """Controllers of the job that died before the one that this worker speaks with: one attribute read."""
        return 0

    @property
    @abstractmethod
    def stop_reason(self) -> str | None:
        """Why the job should end at the next boundary with a checkpoint; None if it should not."""

    @abstractmethod
    def view(self, generation: int) -> View:
        """The view of a generation that this worker knows."""

    @abstractmethod
    def say_ready(self) -> None:
        """A joiner is at its first collective call and can enter."""

    @abstractmethod
    def wait_for_view(self, after: int, *, timeout_s: float, what: str) -> View:
        """The newest view after generation `after` that may be entered at once: the founders', a joiner's first, or one
        that follows a death.

        Blocks:
            At most `timeout_s`.

        Raises:
            WaitTimeoutError: none came in time; the message names what was waited for.
            ExpelledError: this worker is no longer a member; it must end without writing anything.
            JobOverError: the job ended before this joiner entered.
        """

    @abstractmethod
    def wait_for_news(self, generation: int, *, timeout_s: float) -> bool:
        """Whether a view after `generation` is known, or the job is to stop.

        Blocks:
            Until it is so, at most `timeout_s`.
        """

    @abstractmethod
    def newest_forced(self) -> int:
        """Generation of the newest unplanned view that this worker knows, 0 for none: to give up forming an older one."""

    @abstractmethod
    def say_entered(self, generation: int, step: int, *, seconds: float) -> None:
        """The group of `generation` stands, before `step`; `seconds` from the boundary (or the loss) to here."""

    @abstractmethod
    def say_lost(self, generation: int, step: int, *, waited_for: str, silent: bool) -> None:
        """A collective of `generation` failed. `silent`: nobody's connection broke, the time-out ran out."""

    @abstractmethod
    def say_remap(self, generation: int, mapping: str, reason: str) -> None:
        """This worker, the main one, has found a better mapping of the members of `generation`. May be lost."""

    @abstractmethod
    def say_progress(self, facts: Mapping[str, Any]) -> None:  # Any: JSON values
        """Facts of the run for `holdtrue status` (step, total, epoch, loss, mapping, seconds a step): dropped when busy."""

    def is_heard(self, timeout_s: float) -> bool:
        """Whether the controller can be reached, now or within `timeout_s` seconds."""
        return True

    @abstractmethod
    def say_leaving(self, reason: str) -> None:
        """This worker wants to leave at the next boundary: its machine is being taken away."""

    @abstractmethod
    def say_end(
        self, *, how: str, sentence: str = "", virtual_node: int | None = None, step: int | None = None
    ) -> None:
        """This worker ends by itself: `finished`, `left` (as a planned view asked), `interrupted` (as all do at this
        boundary, with a checkpoint), `refused` (a newcomer that does something else than the others) with a sentence, or `failed`
        with a sentence.

        Blocks:
            Until it is delivered, at most two seconds.
        """
