"""The writing side of a run directory."""

import errno
import fcntl
import os
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from holdtrue.errors import PlanError, UsageError
from holdtrue.plan import Plan

from ._differences import plan_differences, value_differences
from ._files import Json, LineFile, read_last_lines, read_whole, write_whole
from ._reader import read_plan
from ._records import DigestRecord, StepRecord

LINE_FILES = ("steps", "digests", "events", "metrics")
TAIL_BYTES = 1 << 20
"""How far back `count_lines` looks."""


class RunDirectory:
    """The run directory of a living run, held by its main worker: the only writer of the folder.

    Every `append_...` writes one complete line. An OSError from it (a full disk, a read-only one) leaves
    the files valid, and later lines may be tried: the run can go on with a warning.
    """

    path: Path
    """The folder."""
    resumed: bool
    """Whether the folder held this run before."""
    notes: tuple[str, ...]
    """Sentences about what was found in the folder, for the user."""

    def __init__(self, *, path: Path, lock: int, generation: int, now: Callable[[], float]) -> None:
        """Use `RunDirectory.create`."""
        self.path = path
        self.resumed = False
        self.notes = ()
        self.generation = generation
        """Membership of the writer; it is written into every line."""
        self._now = now
        self._lock: int | None = lock
        self._files: dict[str, LineFile] = {}
        self._begins: dict[str, Json] = {}
        # A forked child (a data loader's worker) shares the lock and may outlive a killed run: it lets go.
        alive = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _let_go(alive()))

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        plan: Plan,
        environment: Mapping[str, Json],
        generation: int,
        resume: bool,
        workers: Sequence[int] = (),
        now: Callable[[], float] = time.time,
    ) -> "RunDirectory":
        """Makes a run directory, or opens that of a run which ended, and holds it until `close`.

        Writes plan.json and environment.json on a fresh start, cuts torn last lines off on a resume, and
        writes the event `started` or `resumed`; the latter names differences of environment.

        Args:
            path: The folder; made where it is missing.
            plan: The plan of the run.
            environment: Device, versions, threads: nested values for `compare_runs`.
            generation: Membership of the writer.
            resume: Go on with the run in the folder; where there is none, start afresh.
            workers: Numbers of the workers that begin, for the event.
            now: Seconds since 1970.

        Raises:
            UsageError: the folder holds a run and `resume` is false; a run is alive in it; it is damaged.
            PlanError: the run in the folder has another plan.
            OSError: the disk refuses.
        """
        folder = Path(path)
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"{folder} is a file; a run directory is a folder. Pass another --run-dir.")
        folder.mkdir(parents=True, exist_ok=True)
        directory = cls(path=folder, lock=_take_lock(folder), generation=generation, now=now)
        directory._begins = {"pid": os.getpid()} | ({"workers": list(workers)} if workers else {})
        try:
            if _holds_run(folder):
                directory._reopen(plan, environment, resume=resume)
            else:
                directory._start(plan, environment, resume=resume)
        except BaseException:
            directory.close()
            raise
        return directory

    @classmethod
    def take_over(
        cls, path: str | os.PathLike[str], *, generation: int, now: Callable[[], float] = time.time
    ) -> "RunDirectory":
        """Holds the folder of a run whose main worker died, left or was expelled: the writer before it is fenced off.

        Args:
            path: The folder.
            generation: Membership of the writer.
            now: Seconds since 1970.

        Raises:
            OSError: the disk refuses.
        """
        folder = Path(path)
        directory = cls(path=folder, lock=_replace_lock(folder), generation=generation, now=now)
        try:
            directory._cut_torn_lines()
        except BaseException:
            directory.close()
            raise
        return directory

    def count_lines(self, name: str, first_step: int) -> dict[int, int]:
        """How many of the last lines of a file there are of each step from `first_step` on."""
        counts: dict[int, int] = {}
        for values in read_last_lines(self.path / f"{name}.jsonl", TAIL_BYTES):
            step = values.get("step")
            if isinstance(step, int) and step >= first_step:
                counts[step] = counts.get(step, 0) + 1
        return counts

    def append_step(
        self, *, step: int, epoch: int, loss: float | None, seconds: float, digest: str | None = None
    ) -> None:
        """Writes a step to steps.jsonl.

        Raises:
            OSError: the disk refuses.
        """
        record = StepRecord(
            step=step, epoch=epoch, loss=loss, seconds=seconds, generation=self.generation, digest=digest
        )
        self._append("steps", record.to_dict())

    def append_digests(self, digests: DigestRecord) -> None:
        """Writes the digests of a step to digests.jsonl.

        Raises:
            OSError: the disk refuses.
        """
        self._append("digests", digests.to_dict())

    def append_event(
        self, kind: str, *, step: int | None, reason: str, details: Mapping[str, Json] | None = None
    ) -> None:
        """Writes an event, its time and its reason (a sentence) to events.jsonl.

        Raises:
            OSError: the disk refuses.
        """
        self._append(
            "events",
            {
                "kind": kind,
                "step": step,
                "reason": reason,
                "details": details or {},
                "time_s": self._now(),
                "generation": self.generation,
            },
        )

    def append_metrics(self, *, step: int, values: Mapping[str, Json]) -> None:
        """Writes what the script logged at a step to metrics.jsonl.

        Raises:
            OSError: the disk refuses.
        """
        self._append("metrics", {"step": step, "values": values, "time_s": self._now()})

    def close(self) -> None:
        """Gives the folder back; a second call does nothing."""
        _let_go(self)

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _append(self, name: str, values: Mapping[str, Json]) -> None:
        """The one place through which lines reach the disk, and OSErrors come out."""
        assert self._lock is not None, f"{self.path} was closed before a line of {name}.jsonl was written"
        if not _is_ours(self.path, self._lock):
            raise OSError(errno.ESTALE, "a later generation writes this run directory")
        if name not in self._files:
            self._files[name] = LineFile(self.path / f"{name}.jsonl")
        self._files[name].append(values)

    def _start(self, plan: Plan, environment: Mapping[str, Json], *, resume: bool) -> None:
        write_whole(self.path / "environment.json", environment)
        write_whole(self.path / "plan.json", plan.to_dict())  # last: with it, the folder holds a run
        reason = "The run starts."
        if resume:
            reason = f"{self.path} holds no run to resume; the run starts afresh."
            self.notes = (reason,)
        self.append_event("started", step=None, reason=reason, details=self._begins)

    def _reopen(self, plan: Plan, environment: Mapping[str, Json], *, resume: bool) -> None:
        if not resume:
            raise UsageError(
                f"{self.path} already holds a run; a folder holds one. "
                f"Pass another --run-dir, or --resume to go on with it."
            )
        _check_plan(self.path, plan)
        self.resumed = True
        self.notes = self._cut_torn_lines()
        differences = value_differences(read_whole(self.path / "environment.json"), environment)
        if differences:
            changed = "; ".join(map(str, differences))
            self.notes += (f"The environment is not that of the run's start: {changed}.",)
        self.append_event(
            "resumed",
            step=None,
            reason=" ".join(("The run is resumed.", *self.notes)),
            details={**self._begins, "environment": {d.key: [d.a, d.b] for d in differences}},
        )

    def _cut_torn_lines(self) -> tuple[str, ...]:
        notes: list[str] = []
        for name in LINE_FILES:
            path = self.path / f"{name}.jsonl"
            if path.exists():
                self._files[name] = LineFile(path)
                torn_bytes = self._files[name].torn_bytes
                if torn_bytes:
                    notes.append(f"An unfinished last line of {torn_bytes} bytes was cut off {path.name}.")
        return tuple(notes)


def _let_go(directory: RunDirectory | None) -> None:
    if directory is not None and directory._lock is not None:
        for file in directory._files.values():
            file.close()
        os.close(directory._lock)
        directory._lock = None


def _holds_run(folder: Path) -> bool:
    """Whether a run wrote here: any of its files counts, so that a damaged folder is not overwritten."""
    names = ("plan.json", *(f"{name}.jsonl" for name in LINE_FILES), "checkpoints")
    return any((folder / name).exists() for name in names)


def _check_plan(folder: Path, plan: Plan) -> None:
    recorded = read_plan(folder / "plan.json")
    differences = plan_differences(recorded, plan)
    if differences:
        fields = "; ".join(f"{d.key} is {d.b} here and {d.a} there" for d in differences)
        raise PlanError(
            f"the run in {folder} has another plan: {fields}. A plan never changes while a job lives. "
            f"Resume with the plan of the folder, or pass another --run-dir."
        )


def _is_ours(folder: Path, lock: int) -> bool:
    """Whether the folder's lock is still this one: who takes a folder over puts another file in its place."""
    try:
        return os.stat(folder / "lock").st_ino == os.fstat(lock).st_ino
    except FileNotFoundError:
        return True  # a folder that somebody cleans up is no later writer's


def _replace_lock(folder: Path) -> int:
    """Descriptor of a new DIR/lock, locked; the former one locks nothing any more, even if its holder still lives."""
    aside = folder / f"lock.{os.getpid()}"
    lock = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        os.replace(aside, folder / "lock")
    except OSError:
        os.close(lock)
        raise
    return lock


def _take_lock(folder: Path) -> int:
    """Descriptor of DIR/lock, locked and with this process's id in it, for as long as it is open."""
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError:
        pid = os.pread(lock, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(lock)
        raise UsageError(
            f"a run with process id {pid} is alive in {folder}; a folder holds one run at a time. "
            f"Wait for it, stop it, or pass another --run-dir."
        ) from None
    except OSError:
        os.close(lock)
        raise
    return lock
