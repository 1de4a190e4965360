"""Several workers as threads of one process, one running at a time: fast and repeatable, for tests.

Random number generators and other globals of the process belong to whichever worker runs, so the
baton changes hands only inside a collective, and each worker's own globals are put back when it
takes the baton again.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, final

import torch

from holdtrue.errors import CallMismatchError, WaitTimeoutError, WorkerLostError

from ._group import Group, Pending

Key = tuple[str, int]
"""Stream of collectives, and the number of the call in it."""


class InProcessJob:
    """The shared half of an in-process group: the baton and the mailbox."""

    def __init__(
        self,
        world_size: int,
        *,
        timeout_s: float = 60.0,
        save_globals: Callable[[], Any] = lambda: None,  # Any: opaque to this file
        restore_globals: Callable[[Any], None] = lambda saved: None,
    ) -> None:
        self.world_size = world_size
        self.timeout_s = timeout_s
        self._condition = threading.Condition()
        self._save, self._restore = save_globals, restore_globals
        self._mail: dict[Key, dict[int, Any]] = {}
        self._gone: dict[int, str] = {}
        self._waiting: dict[int, tuple[dict[int, Any], str]] = {}
        self._baton: int | None = None
        self._stuck = ""

    def group(self, rank: int) -> "InProcessGroup":
        """The endpoint of worker `rank`."""
        return InProcessGroup(self, rank)

    @contextmanager
    def running(self, rank: int) -> Iterator[None]:
        """Hold the baton while worker `rank` runs; on leaving, those who wait for it are told."""
        with self._condition:
            self._take_baton(rank)
        why = "left"
        try:
            yield
        except BaseException as error:
            why = f"failed ({type(error).__name__})"
            raise
        finally:
            with self._condition:
                self._gone[rank] = why
                self._baton = None
                self._condition.notify_all()

    def _take_baton(self, rank: int) -> None:
        while self._baton is not None:
            self._condition.wait()
        self._baton = rank

    def leave(self, rank: int, key: Key, payload: Any) -> None:  # Any: a mailbox
        """Put this worker's payload of the collective `key` into the mailbox; returns at once."""
        with self._condition:
            self._mail.setdefault(key, {})[rank] = payload
            self._condition.notify_all()

    def has_all(self, key: Key) -> bool:
        """Whether every worker has left its payload."""
        return len(self._mail[key]) == self.world_size

    def collect(self, rank: int, key: Key, what: str) -> list[Any]:  # Any: a mailbox
        """Everyone's payloads in rank order; others run until they have arrived."""
        with self._condition:
            box = self._mail[key]
            if len(box) < self.world_size:
                self._let_others_run(rank, box, what)
            if len(box) == self.world_size:
                return [box[r] for r in range(self.world_size)]
            lost = {r: why for r, why in self._gone.items() if r not in box}
            if lost:
                raise WorkerLostError(f"worker {min(lost)} {lost[min(lost)]} before {what}.")
            if self._stuck:
                raise CallMismatchError(
                    f"{self._stuck}; every worker makes the same calls in the same order."
                )
            raise WaitTimeoutError(
                f"waited {self.timeout_s:.0f} s for {what}; only workers {sorted(box)} came."
            )

    def _let_others_run(self, rank: int, box: dict[int, Any], what: str) -> None:
        saved = self._save()
        self._waiting[rank] = box, what
        self._find_stuck()
        self._baton = None
        self._condition.notify_all()
        self._condition.wait_for(
            lambda: len(box) == self.world_size or bool(set(self._gone) - set(box)) or bool(self._stuck),
            self.timeout_s,
        )
        del self._waiting[rank]
        self._take_baton(rank)
        self._restore(saved)

    def _find_stuck(self) -> None:
        """Notice when all living workers wait and none of their waits can end."""
        alive = self.world_size - len(self._gone)
        if len(self._waiting) == alive and all(
            len(box) < self.world_size and not set(self._gone) - set(box) for box, _ in self._waiting.values()
        ):
            self._stuck = "; ".join(
                f"worker {r} waits for {what}" for r, (_, what) in sorted(self._waiting.items())
            )


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

    def __init__(self, job: InProcessJob, rank: int) -> None:
        super().__init__(rank=rank, world_size=job.world_size, device=torch.device("cpu"))
        self._job = job
        self._count = {"calls": 0, "bytes": 0, "exchange": 0, "spread": 0}

    def collect(self, key: Key, what: str) -> list[Any]:  # Any: a mailbox
        """Everyone's payloads of `key`."""
        return self._job.collect(self.rank, key, what)

    def has_all(self, key: Key) -> bool:
        """Whether every worker has called."""
        return self._job.has_all(key)

    def _leave(self, stream: str, payload: Any) -> Key:  # Any: a mailbox
        self._count[stream] += 1
        key = (stream, self._count[stream])
        self._job.leave(self.rank, key, payload)
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
        """Nothing to do: leaving `running` tells the others."""

    @property
    def overlaps(self) -> bool:
        """True: the collectives are started from hooks as in the other adapters."""
        return True
