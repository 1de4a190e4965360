"""Worker processes, and the examples that they compute: the acting side of the batcher."""

import asyncio
import contextlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

import numpy as np

from holdtrue.errors import DataError, GroupError, UsageError, WaitTimeoutError
from holdtrue.launch import choose_device

from ._batcher import MOST_DEATHS, Assignment, Batcher, positions_that_agree
from ._examples import ExampleSpec
from ._frames import Array, Frame
from ._metrics import Metrics
from ._settings import ServeSettings, check_workers
from ._worker_process import WorkerProcess, WorkerRefusedError, start_worker

_END_TIMEOUT_S = 10.0
_LONGEST_PAUSE_S = 30.0
"""Between two starts of a worker that dies before it is ready."""

Output = dict[str, Array]
Kind = Literal["started", "ready", "grown", "shrunk", "left", "died", "audit", "stopped"]
Note = Callable[[Kind, str], None]


class ExampleFailedError(DataError):
    """The model failed on one example alone."""


@final
@dataclass(slots=True, kw_only=True)
class _Seat:
    process: WorkerProcess
    device: str
    phase: Literal["starting", "member", "leaving"] = "starting"
    is_in_batcher: bool = False
    sent: dict[int, tuple[tuple[int, ...], asyncio.TimerHandle]]
    """By virtual node: the examples of a pass in their order, and what ends a worker that does not answer."""
    passes: int = 0
    pass_seconds: float = 0.0


@final
class WorkerPool:
    """The workers of a server. Mutable; lives in one event loop.

    Guarantee:
        An example that was taken is answered, or refused with a sentence, within `timeout_s`; a worker's death is not
        seen by those who wait.
    """

    def __init__(self, settings: ServeSettings, *, logs: Path, devices: tuple[str, ...], note: Note) -> None:
        """Prepare; nothing is started yet."""
        self._settings, self._logs, self._devices, self._note = settings, logs, devices, note
        self._numbers = itertools.count()
        self._examples = itertools.count()
        self._asked: dict[int, tuple[str | Output, asyncio.Future[Output]]] = {}
        self._seats: dict[int, _Seat] = {}
        self._batcher: Batcher | None = None
        self._positions: tuple[int, ...] = ()
        self._is_closing = False
        self._closing = asyncio.Event()
        self._coming: list[str] = []
        """Devices of the workers whose process is being started."""
        self._first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self.metrics = Metrics()
        self.spec: ExampleSpec | None = None
        self.sentence = ""
        """What the first worker found of its model."""
        self.target = settings.workers
        self.generation = 0
        self.cause = "start"
        self.refusal: WorkerRefusedError | None = None
        """Why no worker can serve the model."""

    # -- membership

    async def start(self) -> None:
        """Start the workers.

        Raises:
            GroupError, UsageError: the first ones cannot serve the model.

        Blocks:
            Until one is ready, at most `start_timeout_s`.
        """
        self._fill_up()
        try:
            await asyncio.wait_for(asyncio.shield(self._first), self._settings.start_timeout_s)
        except TimeoutError:
            raise WaitTimeoutError(
                f"no worker was ready within {self._settings.start_timeout_s:g} s; a worker loads the model and tries it. "
                f"See {self._logs}, or give a larger --start-timeout."
            ) from None

    def resize(self, workers: int) -> str:
        """Aim at another number of workers; those that leave finish what they have.

        Returns:
            What becomes of it, as a sentence.
        """
        check_workers(workers)
        if self._is_closing:
            raise UsageError("the server is ending and changes no more.")
        before, self.target = self.target, workers
        if workers == before:
            return f"The server has {workers} workers already."
        self._note(
            "grown" if workers > before else "shrunk",
            f"Asked for {workers} worker{'s' * (workers != 1)}; there were {before}.",
        )
        counted = sorted(n for n, seat in self._seats.items() if seat.phase != "leaving")
        for number in counted[workers:]:
            self._dismiss(number)
        self._fill_up()
        return f"{before} workers become {workers}; requests go on."

    def _dismiss(self, number: int) -> None:
        seat = self._seats[number]
        seat.phase = "leaving"
        if self._batcher is not None and seat.is_in_batcher:
            self._batcher.dismiss(number)
            self._change(f"worker {number} leaves")
            self._let_go(number)
        else:
            seat.process.kill()  # it has nothing yet

    def _let_go(self, number: int) -> None:
        """End a worker that leaves and has nothing more to do."""
        seat = self._seats.get(number)
        if (
            seat is not None
            and seat.phase == "leaving"
            and self._batcher is not None
            and self._batcher.is_done(number)
        ):
            seat.process.close()

    def _fill_up(self) -> None:
        for _ in range(self.target - self._counted()):
            self._begin(0.0)

    def _counted(self) -> int:
        return len(self._coming) + sum(1 for seat in self._seats.values() if seat.phase != "leaving")

    def _begin(self, pause_s: float) -> None:
        """Start a worker; `pause_s` is the pause before the next, if it dies before it is ready."""
        in_use = (*self._coming, *(seat.device for seat in self._seats.values()))
        device = choose_device(self._devices, in_use)
        self._coming.append(device)  # at once: the next that begins must see it
        self._spawn(self._staff(next(self._numbers), device, pause_s))

    def _spawn(self, work: Any) -> None:  # Any: a coroutine without a result
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _staff(self, number: int, device: str, pause_s: float) -> None:
        """The life of one worker, and of who comes in its place."""
        log = self._logs / f"worker-{number}.log"
        process = None
        try:
            process = await start_worker(self._settings, log=log, device=device)
        except OSError as error:
            self._note("died", f"Worker {number} could not be started ({error.strerror}).")
        finally:
            self._coming.remove(device)
        if process is None:
            await self._replace(pause_s)
            return
        seat = self._seats[number] = _Seat(process=process, device=device, sent={})
        self._note("started", f"Worker {number} starts on {device}, process {process.pid}.")
        if self._is_closing or self._counted() > self.target:  # the target fell meanwhile
            self._dismiss(number)
        try:
            pause_s = await self._hear_all(number, seat, pause_s)
        finally:  # also after an answer that nobody expected: what the worker had goes to others
            if self._batcher is not None and seat.is_in_batcher:
                self._batcher.dismiss(number)  # at once, lest it is given more
            status = await process.ended(_END_TIMEOUT_S if seat.phase == "leaving" else 0.5)
            self._bury(number, status)
            await self._replace(pause_s)

    async def _hear_all(self, number: int, seat: _Seat, pause_s: float) -> float:
        """Hear a worker until it ends; returns the pause before its successor starts."""
        process = seat.process
        try:
            hello = await asyncio.wait_for(process.hello(), self._settings.start_timeout_s)
            self._welcome(number, hello.values)
            pause_s = 0.0
            while True:
                self._hear(number, await process.next_answer())
        except WorkerRefusedError as error:
            self.refusal = error
            self._tell_first(UsageError(str(error)) if error.is_wrong_use else GroupError(str(error)))
        except (asyncio.IncompleteReadError, ConnectionError, GroupError, TimeoutError):
            pass  # it ended, or its line broke: then it is ended
        return pause_s

    async def _replace(self, pause_s: float) -> None:
        if self.refusal is not None and self.spec is None:
            return  # none can serve the model
        if pause_s:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), pause_s)
        if not self._is_closing and self._counted() < self.target:
            self._begin(min(_LONGEST_PAUSE_S, 2 * pause_s + 0.5))

    def _welcome(self, number: int, hello: dict[str, Any]) -> None:  # Any: JSON values
        seat = self._seats[number]
        if seat.phase == "leaving":
            return
        seat.phase = "member"
        found = tuple(int(p) for p in hello["positions"])
        if self._batcher is None:
            self.spec = ExampleSpec.from_dict(hello["spec"])
            self.sentence = str(hello["sentence"])
            self._positions = found
            self._batcher = Batcher(virtual_nodes=self._settings.virtual_nodes, room=len(found))
        else:
            self._use_positions(positions_that_agree([self._positions, found]))
        self._batcher.join(number)
        seat.is_in_batcher = True
        self._change(f"worker {number} joined")
        self._note("ready", f"Worker {number} takes passes: {hello['sentence']}.")
        self._tell_first(None)
        self._dispatch()

    def _use_positions(self, positions: tuple[int, ...]) -> None:
        assert self._batcher is not None
        self._positions = positions or (0,)
        self._batcher.room = len(self._positions)

    def _tell_first(self, error: Exception | None) -> None:
        if not self._first.done():
            if error is None:
                self._first.set_result(None)
            else:
                self._first.set_exception(error)

    def _change(self, cause: str) -> None:
        self.generation += 1
        self.cause = cause
        self.metrics.generation.set(self.generation)
        self.metrics.workers.set(len(self._batcher.order) if self._batcher is not None else 0)

    def _bury(self, number: int, status: int) -> None:
        seat = self._seats.pop(number)
        for _, timer in seat.sent.values():
            timer.cancel()
        was_leaving = seat.phase == "leaving" or self._is_closing
        if self._batcher is not None and seat.is_in_batcher:
            lost = self._batcher.leave(number)
            self._change(f"worker {number} {'left' if was_leaving else 'died'}")
            for example in lost.again:
                if example in self._asked:
                    self.metrics.retries.inc()
                else:  # whoever asked gave up: it would take a worker for nobody
                    self._batcher.forget(example)
            for example in lost.given_up:
                self._refuse(
                    example,
                    GroupError(
                        f"{MOST_DEATHS} workers died while they computed this request; it is not tried again. See their logs."
                    ),
                )
        if was_leaving:
            self._note("left", f"Worker {number} left.")
        else:
            how = f"by signal {-status}" if status < 0 else f"with status {status}"
            if seat.is_in_batcher:
                self.metrics.deaths.inc()
                self._note("died", f"Worker {number} ended {how}; its passes are computed by others.")
            else:
                self._note("died", f"Worker {number} ended {how} before it took passes.")
        self._dispatch()

    # -- work

    @property
    def waiting(self) -> int:
        """Examples that are in no pass."""
        return self._batcher.waiting if self._batcher is not None else 0

    async def compute(self, example: str | Output) -> Output:
        """Outputs of one example.

        Raises:
            ExampleFailedError: the model fails on it.
            GroupError: workers died of it.
            WaitTimeoutError: there was no answer in time.

        Blocks:
            At most `timeout_s`.
        """
        assert self._batcher is not None
        number = next(self._examples)
        future: asyncio.Future[Output] = asyncio.get_running_loop().create_future()
        self._asked[number] = (example, future)
        self._batcher.put(number)
        self._dispatch()
        try:
            return await asyncio.wait_for(future, self._settings.timeout_s)
        except TimeoutError:
            raise WaitTimeoutError(
                f"there was no answer within {self._settings.timeout_s:g} s, with {self.waiting} examples waiting and "
                f"{len(self._batcher.order)} workers. Send less at once, or give the server more workers."
            ) from None
        finally:
            del self._asked[number]
            self._batcher.forget(number)

    def _dispatch(self) -> None:
        if self._batcher is None:
            return
        for assigned in self._batcher.next_passes():
            self._send(assigned)
        self.metrics.waiting.set(self._batcher.waiting)

    def _send(self, assigned: Assignment) -> None:
        seat = self._seats[assigned.worker]
        head: dict[str, Any] = {
            "do": "pass",
            "pass": assigned.virtual_node,
            "positions": list(self._positions),
        }
        examples = [self._asked[n][0] for n in assigned.examples]
        arrays: dict[str, Array] = {}
        if isinstance(examples[0], str):
            head["texts"] = examples
        else:
            arrays = {
                name: np.stack([e[name] for e in examples if not isinstance(e, str)]) for name in examples[0]
            }
        bound_s = self._settings.pass_timeout_s * (1 + len(seat.sent))
        timer = asyncio.get_running_loop().call_later(bound_s, self._overdue, assigned.worker)
        seat.sent[assigned.virtual_node] = (assigned.examples, timer)
        seat.process.send(Frame(head=head, arrays=arrays))

    def _overdue(self, number: int) -> None:
        seat = self._seats.get(number)
        if seat is not None:
            self._note(
                "died",
                f"Worker {number} did not answer within {self._settings.pass_timeout_s:g} s and is killed.",
            )
            seat.process.kill()

    def _hear(self, number: int, frame: Frame) -> None:
        assert self._batcher is not None
        virtual_node = int(frame.head["pass"])
        examples, timer = self._seats[number].sent.pop(virtual_node)
        timer.cancel()
        self._batcher.finish(number, virtual_node)
        seat = self._seats[number]
        seat.passes += 1
        seat.pass_seconds = float(frame.head["seconds"])
        self.metrics.passes.inc()
        self.metrics.pass_seconds.observe(seat.pass_seconds)
        self.metrics.pass_examples.observe(len(examples))
        if (audit := frame.head["audit"]) is not None:
            self._judge_audit(number, str(audit))
        errors = frame.head["errors"]
        row = itertools.count()
        for place, example in enumerate(examples):
            if (sentence := errors.get(str(place))) is not None:
                self._refuse(example, ExampleFailedError(sentence))
                continue
            i = next(row)
            asked = self._asked.get(example)
            if asked is not None and not asked[1].done():
                asked[1].set_result({name: array[i] for name, array in frame.arrays.items()})
        self._let_go(number)
        self._dispatch()

    def _refuse(self, example: int, error: Exception) -> None:
        asked = self._asked.get(example)
        if asked is not None and not asked[1].done():
            asked[1].set_exception(error)

    def _judge_audit(self, number: int, result: str) -> None:
        self.metrics.audits.labels(result).inc()
        if result == "differs" and len(self._positions) > 1:
            self._use_positions((0,))
            self._note(
                "audit",
                f"A pass of worker {number} had other bits when it was computed again at other positions; from here on each "
                f"example has a pass of its own, at position 0. Its answers were those of position 0.",
            )

    # -- end, and facts

    async def close(self) -> None:
        """End the workers, after the passes that they have.

        Blocks:
            At most 11 s: what workers still have has 10 s, and their ends one more.
        """
        self._is_closing = True
        self._closing.set()
        for seat in self._seats.values():
            seat.phase = "leaving"
            if seat.is_in_batcher:
                seat.process.close()
            else:
                seat.process.kill()
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=_END_TIMEOUT_S + 1)
        for seat in self._seats.values():
            seat.process.kill()
        self._note("stopped", "The server ended.")

    def workers(self) -> list[dict[str, Any]]:
        """Facts of each worker, by number, as JSON values."""
        order = self._batcher.order if self._batcher is not None else ()
        mapping = self._batcher.mapping if self._batcher is not None else None
        found = []
        for number, seat in sorted(self._seats.items()):
            rank = order.index(number) if number in order else None
            found.append(
                {
                    "worker": number,
                    "rank": rank,
                    "phase": seat.phase,
                    "device": seat.device,
                    "pid": seat.process.pid,
                    "virtual_nodes": list(mapping.held[rank])
                    if mapping is not None and rank is not None
                    else [],
                    "passes": seat.passes,
                    "pass_seconds": seat.pass_seconds,
                }
            )
        return found

    @property
    def mapping(self) -> str:
        """Virtual nodes of each worker by rank, as text; empty without workers."""
        return str(self._batcher.mapping) if self._batcher is not None and self._batcher.mapping else ""
