"""The pool with stand-ins for worker processes: devices, deaths, and those who gave up waiting."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from holdtrue.serving import ArraySpec, ExampleSpec, Frame, ServeSettings
from holdtrue.serving import _pool as pool_module
from holdtrue.serving._pool import Kind, WorkerPool
from holdtrue.serving._worker_process import Hello

SPEC = ExampleSpec(kind="array", arrays={"input": ArraySpec(shape=(), dtype="float32")})
LIMIT_S = 20.0


class Worker:
    """Does what the test says."""

    pid = 1

    def __init__(self, device: str, *, dies_at_once: bool = False) -> None:
        self.device, self._dies_at_once = device, dies_at_once
        self.sent: list[Frame] = []
        self._answers: asyncio.Queue[Frame | None] = asyncio.Queue()

    async def hello(self) -> Hello:
        if self._dies_at_once:
            raise asyncio.IncompleteReadError(b"", 1)
        return Hello(values={"spec": SPEC.to_dict(), "positions": [0], "sentence": "passes of 1"})

    async def next_answer(self) -> Frame:
        if (frame := await self._answers.get()) is None:
            raise asyncio.IncompleteReadError(b"", 1)
        return frame

    def send(self, frame: Frame) -> None:
        self.sent.append(frame)

    def answer(self, virtual_node: int, value: float) -> None:
        head = {"pass": virtual_node, "seconds": 0.0, "errors": {}, "audit": None}
        self._answers.put_nowait(Frame(head=head, arrays={"output": np.array([value])}))

    def close(self) -> None:
        self._answers.put_nowait(None)

    kill = close

    async def ended(self, timeout_s: float) -> int:
        return -9


class World:
    """A pool, its stand-ins in the order of their starts, and what was said."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **given: Any) -> None:
        self.workers: list[Worker] = []
        self.said: list[tuple[Kind, str]] = []
        self.dying_starts = given.pop("dying_starts", 0)
        monkeypatch.setattr(pool_module, "start_worker", self._start)
        self.pool = WorkerPool(
            ServeSettings(model="net.py", **given),
            logs=folder,
            devices=("cuda:0", "cuda:1"),
            note=lambda kind, sentence: self.said.append((kind, sentence)),
        )

    async def _start(self, settings: ServeSettings, *, log: Path, device: str) -> Worker:
        await asyncio.sleep(0)
        dies = len(self.workers) < self.dying_starts
        self.workers.append(Worker(device, dies_at_once=dies))
        return self.workers[-1]

    def ask(self, value: float) -> "asyncio.Task[Any]":
        return asyncio.ensure_future(self.pool.compute({"input": np.float32(value)}))


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not holds():
            await asyncio.sleep(0.001)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def test_the_first_workers_are_spread_over_the_devices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        world = World(tmp_path, monkeypatch, workers=4)
        await world.pool.start()
        await until(lambda: len(world.workers) == 4)
        assert sorted(w.device for w in world.workers) == ["cuda:0", "cuda:0", "cuda:1", "cuda:1"]
        await world.pool.close()

    run(work())


def test_an_example_whose_asker_gave_up_holds_up_nobody_after_a_death(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        world = World(tmp_path, monkeypatch, timeout_s=3.0)
        await world.pool.start()
        gone, stays = world.ask(1.0), world.ask(2.0)
        await until(lambda: len(world.workers[0].sent) == 2)
        gone.cancel()
        await asyncio.wait([gone])
        world.workers[0].close()
        await until(lambda: len(world.workers) == 2 and bool(world.workers[1].sent))
        (frame,) = world.workers[1].sent
        assert frame.arrays["input"].tolist() == [2.0]
        world.workers[1].answer(frame.head["pass"], 4.0)
        assert (await stays)["output"] == 4.0
        assert b"holdtrue_serve_retried_examples_total 1.0" in world.pool.metrics.text()
        assert b"holdtrue_serve_passes_total 1.0" in world.pool.metrics.text(), "no series for each worker"
        await world.pool.close()

    run(work())


def test_a_worker_that_answers_what_nobody_asked_is_buried_and_another_computes_what_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)  # the fault is meant
        world = World(tmp_path, monkeypatch, timeout_s=3.0)
        await world.pool.start()
        asked = world.ask(2.0)
        await until(lambda: bool(world.workers[0].sent))
        world.workers[0].answer(15, 9.0)
        await until(lambda: len(world.workers) == 2 and bool(world.workers[1].sent))
        assert [w["worker"] for w in world.pool.workers()] == [1]
        world.workers[1].answer(world.workers[1].sent[0].head["pass"], 4.0)
        assert (await asked)["output"] == 4.0
        await world.pool.close()

    run(work())


def test_a_worker_that_dies_before_it_takes_passes_had_none_that_others_compute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        world = World(tmp_path, monkeypatch, dying_starts=1)
        await world.pool.start()
        assert [s for k, s in world.said if k == "died"] == [
            "Worker 0 ended by signal 9 before it took passes."
        ]
        assert b"holdtrue_serve_worker_deaths_total 0.0" in world.pool.metrics.text()
        world.workers[1].close()
        await until(lambda: len(world.workers) == 3)
        assert [s for k, s in world.said if k == "died"][1:] == [
            "Worker 1 ended by signal 9; its passes are computed by others."
        ]
        assert b"holdtrue_serve_worker_deaths_total 1.0" in world.pool.metrics.text()
        await world.pool.close()

    run(work())
