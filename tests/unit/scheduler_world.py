"""A world for the live scheduler: jobs without processes, and a scheduler that dies at every place where it can."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from signal import Signals
from typing import Any

from holdtrue.cluster import Cluster
from holdtrue.errors import GroupError
from holdtrue.scheduler import JobRequest
from holdtrue.scheduler._engine import ClusterEngine, Look
from holdtrue.scheduler._evidence import Evidence
from holdtrue.scheduler._records import JobRecord
from holdtrue.scheduler._scheduler import Scheduler
from holdtrue.scheduler._store import Store

TWO = Cluster(devices=(("cpu", 2),))


class SchedulerKilled(BaseException):
    """SIGKILL, for a scheduler that is an object: nothing of ours catches it."""


@dataclass
class Attempt:
    """One attempt's processes."""

    workers: int
    target: int
    percent: int
    left: int
    """Looks until it ends by itself."""
    status: int
    is_started: bool = True
    is_stopping: bool = False
    exit_code: int | None = None
    slot: int = -1
    """Shared device, for a job of a part."""
    leaving: int = 0
    """Workers that were told to leave and are still there."""
    looks: int = 0
    """Looks since they were told."""


@dataclass
class World(ClusterEngine):
    """Jobs as numbers; outlives its schedulers."""

    devices: int = 2
    statuses: dict[str, list[int]] = field(default_factory=dict)
    """Exit status of each attempt, by name; 0 beyond."""
    length: int = 4
    attempts: dict[tuple[int, int], Attempt] = field(default_factory=dict)
    begun: list[tuple[str, int]] = field(default_factory=list)
    deadly: int = -1
    """The scheduler dies at the call of this number."""
    calls: int = 0
    most_held: int = 0
    is_mute: bool = False
    """No controller answers."""
    is_full: bool = False
    """No process can be started."""
    leaves_slowly: int = 0
    """Looks that a worker which was told to leave, or a job that was told to stop, is still there at."""
    on_look: Callable[[], object] | None = None
    signals: list[Signals] = field(default_factory=list)

    def at(self) -> None:
        self.calls += 1
        if self.calls == self.deadly:
            raise SchedulerKilled

    def alive(self) -> list[Attempt]:
        return [a for a in self.attempts.values() if a.exit_code is None]

    def begin(self, record: JobRecord, workers: int, slot: int = -1) -> None:
        self.at()
        if self.is_full:
            raise OSError("no space left")
        key = (record.number, record.attempt)
        assert key not in self.attempts, f"{record.request.name} is started twice: {self.begun}"
        status = dict(enumerate(self.statuses.get(record.request.name, []), 1)).get(record.attempt, 0)
        self.attempts[key] = Attempt(
            workers=workers,
            target=workers,
            percent=record.request.percent,
            left=self.length,
            status=status,
            slot=slot,
        )
        self.begun.append((record.request.name, record.attempt))
        self._count()
        self.at()

    def _count(self) -> None:
        slots: dict[int, int] = {}
        for a in self.alive():
            if a.percent < 100:
                assert a.slot >= 0, "a part without a device"
                slots[a.slot] = slots.get(a.slot, 0) + a.percent
        assert all(percent <= 100 for percent in slots.values()), (
            f"a device is shared beyond its whole: {slots}"
        )
        held = len(slots) + sum(a.workers + a.leaving for a in self.alive() if a.percent == 100)
        self.most_held = max(self.most_held, held)
        assert held <= self.devices, f"{held} workers on {self.devices} devices"

    def look(self, record: JobRecord) -> Look:
        self.at()
        attempt = self.attempts.get((record.number, record.attempt))
        if attempt is None:
            return Look(evidence=Evidence(is_locked=False, is_started=False, exit_code=None))
        if self.on_look is not None:
            self.on_look()
        attempt.left -= 1
        attempt.looks += 1
        if attempt.looks > self.leaves_slowly:
            attempt.leaving = 0
        has_stopped = attempt.is_stopping and attempt.looks > self.leaves_slowly
        if attempt.exit_code is None and (attempt.left <= 0 or has_stopped):
            attempt.exit_code = attempt.status if attempt.left <= 0 else 130
        if attempt.exit_code is not None:
            return Look(evidence=Evidence(is_locked=False, is_started=True, exit_code=attempt.exit_code))
        self._grow(attempt)
        if self.is_mute:
            return Look(evidence=Evidence(is_locked=True, is_started=True, exit_code=None))
        workers = [{"worker": i} for i in range(attempt.workers + attempt.leaving)]
        facts: dict[str, Any] = {
            "workers": workers,
            "target": attempt.target,
            "phase": "running",
            "progress": {"step": max(0, self.length - attempt.left), "total": self.length, "seconds": 0.1},
        }
        return Look(evidence=Evidence(is_locked=True, is_started=True, exit_code=None), facts=facts)

    def _grow(self, attempt: Attempt) -> None:
        attempt.workers = attempt.target
        self._count()

    def resize(self, record: JobRecord, workers: int) -> str:
        self.at()
        attempt = self.attempts[(record.number, record.attempt)]
        if attempt.exit_code is not None:
            raise GroupError("it is over.")
        attempt.leaving, attempt.looks = max(0, attempt.workers - workers), 0
        attempt.workers = min(attempt.workers, workers)
        attempt.target = workers
        self.at()
        return "as asked"

    def stop(self, record: JobRecord, reason: str) -> str:
        self.at()
        attempt = self.attempts[(record.number, record.attempt)]
        if attempt.exit_code is None and not attempt.is_stopping:
            attempt.is_stopping, attempt.looks = True, 0
        self.at()
        return "as asked"

    def signal(self, record: JobRecord, how: Signals) -> None:
        self.signals.append(how)
        if len(self.signals) == 2:
            self.attempts[(record.number, record.attempt)].exit_code = 1

    def keeper(self, record: JobRecord) -> int | None:
        return None

    def last_words(self, record: JobRecord) -> str:
        return "said so"

    def name_is_taken(self, name: str) -> bool:
        return name == "taken"

    def reap(self, running: object) -> None:
        """There is nothing to take."""


class DeadlyStore(Store):  # type: ignore[misc]  # final for users; here a write is a place to die at
    """A store at whose writes the scheduler may die, just before and just after."""

    world: World

    def write(self, **what: Any) -> None:
        self.world.at()
        super().write(**what)
        self.world.at()


def request(name: str, folder: Path, **values: Any) -> JobRequest:
    script = folder / "train.py"
    script.touch()
    return JobRequest(name=name, script=str(script), folder=str(folder), **values)


def take_turns(scheduler: Scheduler, most: int = 60) -> None:
    """Let a scheduler work until all jobs are over."""

    async def work() -> None:
        for _ in range(most):
            if all(record.is_over for record in scheduler.jobs.values()):
                return
            await scheduler._turn()
        raise AssertionError(f"not over after {most} turns: {scheduler.jobs}")

    asyncio.run(work())


def open_store(folder: Path, world: World) -> Store:
    store = DeadlyStore(folder / "cluster.sqlite")
    store.world = world
    return store
