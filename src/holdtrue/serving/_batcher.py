"""Which examples go into which pass, on which virtual node: decisions without clock, socket or process."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import final

from holdtrue.mapping import Mapping, even_mapping

PASSES_AT_ONCE = 2
"""Of a worker: one that it computes, and one that lies ready."""
MOST_DEATHS = 3
"""Workers that may die while they compute one example, before the example is blamed."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """One pass."""

    virtual_node: int
    worker: int
    examples: tuple[int, ...]
    """Numbers, in the order of the positions that they take."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """What a worker's death means for the examples that it had."""

    again: tuple[int, ...]
    """They wait again, before all others, and each will have a pass of its own."""
    given_up: tuple[int, ...]
    """They were there at the death of `MOST_DEATHS` workers."""


@final
@dataclass(slots=True)
class _Seat:
    held: tuple[int, ...] = ()
    passes: dict[int, tuple[int, ...]] = field(default_factory=dict)
    is_leaving: bool = False


@final
class Batcher:
    """Examples wait here for a pass. Mutable, owned by the pool; no I/O, so that every order of events can be tried.

    Guarantee:
        An example is in one pass at a time, and leaves by `finish`, `forget` or `Lost.given_up` alone. The oldest goes
        first. A worker that computes gets a second pass only when it would be full.

    >>> batcher = Batcher(virtual_nodes=4, room=2)
    >>> batcher.join(0)
    >>> for number in range(4):
    ...     batcher.put(number)
    >>> [(a.virtual_node, a.examples) for a in batcher.next_passes()]
    [(0, (0, 1)), (1, (2, 3))]
    """

    def __init__(self, *, virtual_nodes: int, room: int) -> None:
        """Begin without workers.

        Args:
            virtual_nodes: V.
            room: Examples that a pass takes, at least 1.
        """
        self.room = room
        self.mapping: Mapping | None = None
        """Virtual nodes of each worker in `order`; None without workers."""
        self.order: tuple[int, ...] = ()
        """Workers that take passes, by rank."""
        self._virtual_nodes = virtual_nodes
        self._waiting: deque[int] = deque()
        self._deaths: dict[int, int] = {}
        self._seats: dict[int, _Seat] = {}

    @property
    def waiting(self) -> int:
        """Examples that are in no pass."""
        return len(self._waiting)

    def put(self, example: int) -> None:
        """Let an example wait, behind the others."""
        self._waiting.append(example)

    def forget(self, example: int) -> None:
        """Drop an example whose answer nobody waits for; one that is in a pass stays there."""
        self._deaths.pop(example, None)
        if example in self._waiting:
            self._waiting.remove(example)

    def join(self, worker: int) -> None:
        """Deal out the virtual nodes anew, with one worker more."""
        self._seats[worker] = _Seat()
        self._deal()

    def dismiss(self, worker: int) -> None:
        """Give a worker no further pass; those that it has it finishes."""
        self._seats[worker].is_leaving = True
        self._deal()

    def is_done(self, worker: int) -> bool:
        """Whether a worker has no pass."""
        return not self._seats[worker].passes

    def leave(self, worker: int) -> Lost:
        """Forget a worker that ended; what it had waits again."""
        seat = self._seats.pop(worker)
        self._deal()
        examples = sorted(example for passed in seat.passes.values() for example in passed)
        again: list[int] = []
        given_up: list[int] = []
        for example in examples:
            self._deaths[example] = self._deaths.get(example, 0) + 1
            (given_up if self._deaths[example] >= MOST_DEATHS else again).append(example)
        self._waiting.extendleft(reversed(again))
        for example in given_up:
            del self._deaths[example]
        return Lost(again=tuple(again), given_up=tuple(given_up))

    def finish(self, worker: int, virtual_node: int) -> tuple[int, ...]:
        """The examples of a pass that was computed; its virtual node is free."""
        examples = self._seats[worker].passes.pop(virtual_node)
        for example in examples:
            self._deaths.pop(example, None)
        return examples

    def next_passes(self) -> list[Assignment]:
        """Passes to begin now."""
        passes: list[Assignment] = []
        while self._waiting and (assigned := self._next_pass()) is not None:
            passes.append(assigned)
        return passes

    def _next_pass(self) -> Assignment | None:
        idle = self._free_worker(passes=0)
        if idle is not None:
            return self._assign(*idle)
        if len(self._waiting) < self.room or self._is_suspect(self._waiting[0]):
            return None  # a suspect has a worker to itself, lest what lies ready behind it is blamed too
        for passes in range(1, PASSES_AT_ONCE):
            ready = self._free_worker(passes=passes)
            if ready is not None:
                return self._assign(*ready)
        return None

    def _free_worker(self, *, passes: int) -> tuple[int, int] | None:
        """The first worker with so many passes, and a virtual node of its that is free everywhere."""
        busy = {v for seat in self._seats.values() for v in seat.passes}
        for worker in self.order:
            seat = self._seats[worker]
            if len(seat.passes) == passes and not any(map(self._is_suspect, chain(*seat.passes.values()))):
                free = next((v for v in seat.held if v not in busy), None)
                if free is not None:
                    return worker, free
        return None

    def _assign(self, worker: int, virtual_node: int) -> Assignment:
        examples = [self._waiting.popleft()]
        # One that was there when a worker died is alone, so that no other has to suffer if it dies again.
        while (
            not self._is_suspect(examples[0])
            and self._waiting
            and len(examples) < self.room
            and not self._is_suspect(self._waiting[0])
        ):
            examples.append(self._waiting.popleft())
        self._seats[worker].passes[virtual_node] = tuple(examples)
        return Assignment(virtual_node=virtual_node, worker=worker, examples=tuple(examples))

    def _is_suspect(self, example: int) -> bool:
        return example in self._deaths

    def _deal(self) -> None:
        self.order = tuple(sorted(w for w, seat in self._seats.items() if not seat.is_leaving))
        self.mapping = even_mapping(self._virtual_nodes, len(self.order)) if self.order else None
        held = dict(zip(self.order, self.mapping.held, strict=True)) if self.mapping is not None else {}
        for worker, seat in self._seats.items():
            seat.held = held.get(worker, ())


def positions_that_agree(sets: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Positions of a pass that every worker found to give the same bits, ascending.

    >>> positions_that_agree([(0, 1, 2, 3), (0, 2)])
    (0, 2)
    """
    return tuple(sorted(set.intersection(*(set(found) for found in sets)))) if sets else ()
