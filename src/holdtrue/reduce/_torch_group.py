"""What gloo and nccl have in common: four process groups, bounded waits, errors in our words."""

import contextlib
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, final

import torch
import torch.distributed as dist

from holdtrue.errors import CallMismatchError, WaitTimeoutError, WorkerLostError

from ._group import Group, Pending

SLICE_S = 1.0
"""How long one wait lasts before the group looks around and waits on, in seconds."""

STORE_S = 1.0
"""How long a question to the store may take, in seconds."""

LOOKS = 3
"""How often a worker is seen waiting elsewhere before that is called an error."""

ENDED, FAILED = "the end of the script", "a failure"
LINGER_S = 5.0
"""How long the host of the store outlives its own end for others, in seconds."""


@final
class Works(Pending):
    """Collectives of torch.distributed on their way; keeps their tensors alive until they are done."""

    def __init__(
        self, group: "TorchGroup", works: Sequence[Any], tensors: Sequence[torch.Tensor], what: str
    ) -> None:
        self._group, self._works, self._tensors, self._what = group, list(works), tensors, what

    def wait(self) -> None:
        """See `Pending.wait`."""
        for work in self._works:
            self._group.wait_for(work, self._what)
        self._works.clear()
        self._tensors = ()

    def is_complete(self) -> bool:
        """See `Pending.is_complete`."""
        return all(work.is_completed() for work in self._works)


class TorchGroup(Group):
    """A group over four `torch.distributed` process groups, one for each stream of collectives.

    Process groups are made directly on a store, not through `init_process_group`: a process may belong
    to several generations one after another, and the user's own default group stays the user's.
    """

    def __init__(
        self, store: Any, *, rank: int, world_size: int, device: torch.device, timeout_s: float, name: str
    ) -> None:
        super().__init__(rank=rank, world_size=world_size, device=device)
        self.timeout_s = timeout_s
        self._is_stuck = False
        self._is_broken = False
        self._asking: threading.Thread | None = None
        self._store = dist.PrefixStore(f"{name}/positions", store)
        self._groups = {
            stream: self._make(dist.PrefixStore(f"{name}/{stream}", store))
            for stream in ("calls", "bytes", "exchange", "spread")
        }

    @abstractmethod
    def _make(self, store: Any) -> Any:
        """One process group on `store`."""

    def wait_for(self, work: Any, what: str) -> None:
        """Wait for one collective in slices, looking around after each; see `Pending.wait`."""
        started = time.monotonic()
        looks = 0
        try:
            while True:
                try:
                    work.wait(timedelta(seconds=min(SLICE_S, self.timeout_s)))
                    self._is_stuck = False
                    return
                except RuntimeError as error:
                    if not is_timeout(error):
                        self._is_stuck = False
                        raise self._lost(what) from error
                self._is_stuck = True  # unless this wait ends well
                if time.monotonic() - started > self.timeout_s:
                    raise WaitTimeoutError(
                        f"waited {self.timeout_s:.0f} s for {what} and not every worker came. Another worker hangs or is far "
                        f"slower: give more time with --timeout, or look at the other workers' logs."
                    )
                looks = self._look_around(what, looks)
                self.on_slow_wait(what)
        finally:
            if time.monotonic() - started > SLICE_S:
                self._publish("")

    def _publish(self, text: str) -> None:
        self._ask_store(lambda: self._store.set(str(self.rank), text))

    def _positions(self) -> dict[int, str]:
        """What other workers last said of where they are; only those who wait, or have ended, say it."""
        others = [r for r in range(self.world_size) if r != self.rank]
        found: dict[int, str] = {}

        def read() -> None:
            for r in others:
                if self._store.check([str(r)]):
                    found[r] = self._store.get(str(r)).decode()

        return dict(found) if self._ask_store(read) else {}

    def _ask_store(self, ask: Callable[[], object]) -> bool:
        """Do something with the store, and return whether it was done in `STORE_S`.

        The store lives in worker 0. If that is stopped the call never returns, if it is gone it raises: so
        it runs in a thread of its own, and while one such call is open no other begins.
        """
        if self._asking is not None and self._asking.is_alive():
            return False
        done: list[bool] = []

        def run() -> None:
            with contextlib.suppress(RuntimeError):
                ask()
                done.append(True)

        self._asking = threading.Thread(target=run, name="holdtrue-store", daemon=True)
        self._asking.start()
        self._asking.join(STORE_S)
        return bool(done)

    def _look_around(self, what: str, looks: int) -> int:
        """Say where this worker waits; three looks at a worker who waits elsewhere are enough to be sure."""
        self._publish(self.position)
        elsewhere = {r: at for r, at in self._positions().items() if at not in ("", FAILED, self.position)}
        if not elsewhere:
            return 0
        if looks < LOOKS - 1:
            return looks + 1
        rank, at = min(elsewhere.items())
        raise CallMismatchError(
            f"worker {self.rank} is at {self.position or 'no call'} and waits for {what}, while worker {rank} is at {at}; every "
            f"worker makes the same calls in the same order. Leave a loop on all workers at the same step: decide by values "
            f"that are the same everywhere (step.loss, run.evaluate), or call run.stop(reason)."
        )

    def _lost(self, what: str) -> WorkerLostError | CallMismatchError:
        self._is_broken = True
        ended = sorted(r for r, at in self._positions().items() if at == ENDED)
        if ended:
            return CallMismatchError(
                f"worker {ended[0]} came to the end of the script while worker {self.rank} was at {self.position} and waited for "
                f"{what}; every worker makes the same calls. Leave a loop on all workers at the same "
                f"step, or call run.stop(reason)."
            )
        return WorkerLostError(
            f"the connection to another worker broke during {what} ({self.position}): it died or left. "
            f"Its log file says why; the launcher names it."
        )

    @contextlib.contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        """Starting a collective can fail at once where a connection is known to be broken."""
        try:
            yield
        except RuntimeError as error:
            raise self._lost(what) from error

    def say_ended(self, *, has_failed: bool) -> None:
        """Leave word that this worker came to the end of its script."""
        self._publish(FAILED if has_failed else ENDED)

    def let_others_end(self) -> None:
        """Where this worker hosts the store: a worker that still waits learns from it who left."""
        until_s = time.monotonic() + LINGER_S
        while self.rank == 0 and time.monotonic() < until_s:
            if sum(at in (ENDED, FAILED) for at in self._positions().values()) == self.world_size - 1:
                return
            time.sleep(0.005)

    def gather_calls(self, payload: bytes, *, what: str) -> list[bytes]:
        """See `Group.gather_calls`."""
        return self._gather(payload, "calls", what)

    def gather_bytes(self, payload: bytes, *, what: str) -> list[bytes]:
        """See `Group.gather_bytes`."""
        return self._gather(payload, "bytes", what)

    def _gather(self, payload: bytes, stream: str, what: str) -> list[bytes]:
        """Two fixed-size collectives: lengths, then payloads padded to the longest."""
        device = self._bytes_device()
        lengths = self._all_gather(
            torch.tensor([len(payload)], dtype=torch.int64, device=device), stream, what
        )
        sizes = [int(n.item()) for n in lengths]
        padded = torch.zeros(max(1, *sizes), dtype=torch.uint8)
        if payload:
            padded[: len(payload)] = torch.frombuffer(bytearray(payload), dtype=torch.uint8)
        parts = self._all_gather(padded.to(device), stream, what)
        return [part.cpu().numpy().tobytes()[:size] for part, size in zip(parts, sizes, strict=True)]

    def gather_fixed(self, payload: bytes, *, what: str) -> list[bytes]:
        """As `gather_bytes`, for payloads that all have one length: a single collective."""
        own = torch.frombuffer(bytearray(payload), dtype=torch.uint8).to(self._bytes_device())
        return [part.cpu().numpy().tobytes() for part in self._all_gather(own, "bytes", what)]

    def _all_gather(self, own: torch.Tensor, stream: str, what: str) -> list[torch.Tensor]:
        parts = [torch.empty_like(own) for _ in range(self.world_size)]
        with self._translated(what):
            work = self._groups[stream].allgather([parts], [own])
        self.wait_for(work, what)
        return parts

    def _bytes_device(self) -> torch.device:
        return torch.device("cpu")

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
        with self._translated(what):
            work = self._groups["exchange"].alltoall_base(
                output, input, list(output_sizes), list(input_sizes), dist.AllToAllOptions()
            )
        return Works(self, [work], (output, input), what)

    def spread(self, flat: torch.Tensor, bounds: Sequence[int], *, what: str) -> Pending:
        """See `Group.spread`. A broadcast by each owner: uneven all-gathers do not exist in gloo, and padding is slower."""
        if self.world_size == 2:
            return self._swap_halves(flat, bounds[1], what)
        works = []
        for owner in range(self.world_size):
            if bounds[owner] < bounds[owner + 1]:
                options = dist.BroadcastOptions()
                options.rootRank, options.rootTensor = owner, 0
                with self._translated(what):
                    works.append(
                        self._groups["spread"].broadcast([flat[bounds[owner] : bounds[owner + 1]]], options)
                    )
        return Works(self, works, (flat,), what)

    def _swap_halves(self, flat: torch.Tensor, middle: int, what: str) -> Pending:
        """`spread` for two workers: one collective in place of two broadcasts."""
        halves = flat[:middle], flat[middle:]
        own, other = halves[self.rank], halves[1 - self.rank]
        sent, received = [0, 0], [0, 0]
        sent[1 - self.rank], received[1 - self.rank] = own.numel(), other.numel()
        with self._translated(what):
            work = self._groups["spread"].alltoall_base(other, own, received, sent, dist.AllToAllOptions())
        return Works(self, [work], (flat,), what)

    def close(self) -> None:
        """Leave: connections are closed; a peer that waits for this worker is told at once."""
        if self._is_stuck:
            _graveyard.append(self)
            return
        for group in self._groups.values():
            with contextlib.suppress(RuntimeError):
                group.abort()
        if self._is_broken:
            _broken.append(self._groups)
        else:
            _parting[:] = [self._groups]
        self._groups = {}


_graveyard: list[TorchGroup] = []
"""Groups with a collective that still waits for a worker: to abort or to free them would hold up the whole
process (torch keeps the interpreter's lock) until gloo's own time-out. They live as long as the process."""

_broken: list[dict[str, Any]] = []
"""The process groups of generations that ended with a loss. What was begun with the one that died may never end, and to free
them would wait for it: they live as long as the process, a few threads and sockets for each loss."""

_parting: list[dict[str, Any]] = []
"""The process groups of the generation that was left last. Freeing them was seen to wait, even after `abort`, for what had been
begun with another survivor, who waited in the same way; by the next close nobody is in them. See docs/log.md."""


def is_timeout(error: RuntimeError) -> bool:
    """Whether torch says that a wait ran out, and not that a connection broke."""
    text = str(error).lower()
    return "timed out" in text or "timeout" in text
