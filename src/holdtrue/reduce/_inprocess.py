"""Several workers as threads of one process, one running at a time: fast and repeatable, for tests.

Random number generators and other globals of the process belong to whichever worker runs, so the
baton changes hands only inside a collective, and each worker's own globals are put back when it
takes the baton again.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch

from holdtrue.errors import CallMismatchError, WaitTimeoutError, WorkerLostError

from ._group import Group, Pending

Key = tuple[int, str, int]
"""Generation, stream of collectives, and the number of the call in it."""


@dataclass(slots=True, kw_only=True)
class _Wait:
    """A worker that has given up the baton until something holds."""

    what: str
    can_end: Callable[[], bool]


class InProcessJob:
    """The shared half of in-process groups: the baton and the mailbox.

    Args:
        world_size: Workers that start the job; others may start later.
        timeout_s: Bound of every wait, in seconds.
        save_globals: Takes what belongs to the worker that runs and lives in globals of the process.
        restore_globals: Puts it back.
        on_stuck: Called when all workers wait and nothing can end a wait, such as to let simulated time pass; it says
            whether something happened. Otherwise the wait is an error.
    """

    def __init__(
        self,
        world_size: int,
        *,
        timeout_s: float = 60.0,
        save_globals: Callable[[], Any] = lambda: None,  # Any: opaque to this file
        restore_globals: Callable[[Any], None] = lambda saved: None,
        on_stuck: Callable[[], bool] = lambda: False,
    ) -> None:
        self._on_stuck = on_stuck
        self.world_size = world_size
        self.timeout_s = timeout_s
        self._condition = threading.Condition()
        self._save, self._restore = save_globals, restore_globals
        self._mail: dict[Key, dict[int, Any]] = {}
        self._hidden: dict[tuple[Key, int], frozenset[int]] = {}
        """Workers that never see a payload: its sender died while it was on its way."""
        self._alive = set(range(world_size))
        self._gone: dict[int, str] = {}
        self._left: set[tuple[int, int]] = set()
        """(generation, worker) of those who closed their group."""
        self._waiting: dict[int, _Wait] = {}
        self._baton: int | None = None
        self._stuck = ""
        self.on_end: Callable[[int, str], None] = lambda worker, why: None
        """Called when a worker has ended, with how, before anybody else runs."""

    def group(self, rank: int) -> "InProcessGroup":
        """The endpoint of worker `rank` in the group of all who start the job."""
        return self.group_of(rank, tuple(range(self.world_size)), 0)

    def group_of(self, worker: int, members: tuple[int, ...], generation: int) -> "InProcessGroup":
        """The endpoint of a worker in the group of one generation: `members` are workers in rank order."""
        return InProcessGroup(self, worker, members, generation)

    def expect(self, worker: int) -> None:
        """Count a worker as alive before its thread runs."""
        with self._condition:
            self._alive.add(worker)

    @contextmanager
    def running(self, worker: int) -> Iterator[None]:
        """Hold the baton while a worker runs; on leaving, those who wait for it are told."""
        with self._condition:
            self._alive.add(worker)
            self._take_baton(worker)
        why = "left"
        try:
            yield
        except BaseException as error:
            why = f"failed ({type(error).__name__})"
            raise
        finally:
            with self._condition:
                self._gone[worker] = why
                self._alive.discard(worker)
                self.on_end(worker, why)
                self._find_stuck()
                self._baton = None
                self._condition.notify_all()

    def _take_baton(self, worker: int) -> None:
        while self._baton is not None:
            self._condition.wait()
        self._baton = worker

    def leave(
        self,
        worker: int,
        key: Key,
        payload: Any,  # Any: a mailbox
        hidden_from: frozenset[int] = frozenset(),
    ) -> None:
        """Put this worker's payload of the collective `key` into the mailbox; returns at once."""
        with self._condition:
            self._mail.setdefault(key, {})[worker] = payload
            if hidden_from:
                self._hidden[key, worker] = hidden_from
            self._condition.notify_all()

    def has_all(self, worker: int, key: Key, members: tuple[int, ...]) -> bool:
        """Whether every member has left its payload where `worker` sees it."""
        return self._seen_by(worker, key) >= set(members)

    def _seen_by(self, worker: int, key: Key) -> set[int]:
        return {m for m in self._mail.get(key, ()) if worker not in self._hidden.get((key, m), ())}

    def close(self, generation: int, worker: int) -> None:
        """Take a worker out of a generation: those who wait for it there are told."""
        with self._condition:
            self._left.add((generation, worker))
            self._condition.notify_all()

    def collect(self, worker: int, key: Key, members: tuple[int, ...], what: str) -> list[Any]:
        """Everyone's payloads in rank order; others run until they have arrived."""
        with self._condition:

            def lost() -> list[int]:
                missing = set(members) - self._seen_by(worker, key)
                return sorted(m for m in missing if m in self._gone or (key[0], m) in self._left)

            def is_complete() -> bool:
                return self.has_all(worker, key, members)

            self._let_others_run(worker, lambda: is_complete() or bool(lost()), what)
            if is_complete():
                return [self._mail[key][m] for m in members]
            if lost():
                first = lost()[0]
                raise WorkerLostError(f"worker {first} {self._gone.get(first, 'left')} before {what}.")
            raise WaitTimeoutError(
                f"waited {self.timeout_s:.0f} s for {what}; only workers {sorted(self._seen_by(worker, key))} came."
            )

    def wait_until(self, worker: int, holds: Callable[[], bool], what: str) -> None:
        """Let others run until `holds()`.

        Raises:
            WaitTimeoutError: it did not within the time-out.
        """
        with self._condition:
            self._let_others_run(worker, holds, what)
            if not holds():
                raise WaitTimeoutError(f"waited {self.timeout_s:.0f} s for {what}.")

    def give_way(self, worker: int) -> None:
        """Let all others run until they wait: for a worker that is alone in its group and never waits itself."""
        with self._condition:
            self._let_others_run(
                worker,
                lambda: all(
                    w in self._waiting and not self._waiting[w].can_end() for w in self._alive - {worker}
                ),
                "the others",
            )

    def tell(self) -> None:
        """Wake those who wait, after something that they wait for may have changed."""
        with self._condition:
            self._condition.notify_all()

    def _let_others_run(self, worker: int, can_end: Callable[[], bool], what: str) -> None:
        if can_end():
            return
        saved = self._save()
        self._waiting[worker] = _Wait(what=what, can_end=can_end)
        self._find_stuck()
        self._baton = None
        self._condition.notify_all()
        self._condition.wait_for(lambda: can_end() or bool(self._stuck) or not self._alive, self.timeout_s)
        del self._waiting[worker]
        self._take_baton(worker)
        self._restore(saved)
        if not can_end() and self._stuck:
            raise CallMismatchError(f"{self._stuck}; every worker makes the same calls in the same order.")

    def _find_stuck(self) -> None:
        """Notice when all living workers wait and none of their waits can end."""
        if not self._alive:
            return
        while self._waiting.keys() >= self._alive and not any(w.can_end() for w in self._waiting.values()):
            if self._on_stuck():
                continue
            self._stuck = "; ".join(
                f"worker {w} waits for {wait.what}" for w, wait in sorted(self._waiting.items())
            )
            break


@final
class Letter(Pending):
    """A collective whose payload is in the mailbox; `deliver` puts the others' into place."""

    def __init__(
        self, group: "InProcessGroup", key: Key, what: str, deliver: Callable[[list[Any]], None]
    ) -> None:
        self._group, self._key, self._what, self._deliver = group, key, what, deliver
        self._open = True

    def wait(self) -> None:
        """See `Pending.wait`."""
        if self._open:
            self._deliver(self._group.collect(self._key, self._what))
            self._open = False

    def is_complete(self) -> bool:
        """See `Pending.is_complete`."""
        return self._group.has_all(self._key)


@final
class InProcessGroup(Group):
    """One worker's endpoint of an `InProcessJob`."""

    def __init__(self, job: InProcessJob, worker: int, members: tuple[int, ...], generation: int) -> None:
        super().__init__(rank=members.index(worker), world_size=len(members), device=torch.device("cpu"))
        self._job, self._worker, self._members, self._generation = job, worker, members, generation
        self.hidden_from: frozenset[int] = frozenset()
        """Workers that do not see what this one sends from now on, as if it died while sending."""
        self._count = {"calls": 0, "bytes": 0, "exchange": 0, "spread": 0}

    def collect(self, key: Key, what: str) -> list[Any]:  # Any: a mailbox
        """Everyone's payloads of `key`."""
        return self._job.collect(self._worker, key, self._members, what)

    def has_all(self, key: Key) -> bool:
        """Whether every worker has called."""
        return self._job.has_all(self._worker, key, self._members)

    def _leave(self, stream: str, payload: Any) -> Key:  # Any: a mailbox
        self._count[stream] += 1
        key = (self._generation, stream, self._count[stream])
        self._job.leave(self._worker, key, payload, self.hidden_from)
        return key

    def gather_calls(self, payload: bytes, *, what: str) -> list[bytes]:
        """See `Group.gather_calls`."""
        return self.collect(self._leave("calls", payload), what)

    def gather_bytes(self, payload: bytes, *, what: str) -> list[bytes]:
        """See `Group.gather_bytes`."""
        return self.collect(self._leave("bytes", payload), what)

    def exchange(
        self,
        output: torch.Tensor,
        input: torch.Tensor,
        output_sizes: Sequence[int],
        input_sizes: Sequence[int],
        *,
        what: str,
    ) -> Pending:
        """See `Group.exchange`."""

        def deliver(everyone: list[Any]) -> None:
            for target, source in zip(output.split(list(output_sizes)), everyone, strict=True):
                target.copy_(source[self.rank])

        key = self._leave("exchange", [piece.clone() for piece in input.split(list(input_sizes))])
        return Letter(self, key, what, deliver)

    def spread(self, flat: torch.Tensor, bounds: Sequence[int], *, what: str) -> Pending:
        """See `Group.spread`."""

        def deliver(everyone: list[Any]) -> None:
            for rank, piece in enumerate(everyone):
                flat[bounds[rank] : bounds[rank + 1]].copy_(piece)

        key = self._leave("spread", flat[bounds[self.rank] : bounds[self.rank + 1]].clone())
        return Letter(self, key, what, deliver)

    def close(self) -> None:
        """See `Group.close`."""
        self._job.close(self._generation, self._worker)

    @property
    def overlaps(self) -> bool:
        """True: the collectives are started from hooks as in the other adapters."""
        return True
