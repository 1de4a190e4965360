"""What the page shows, as JSON values, from what jobs and runs left on the disk and what their controllers say."""

import json
import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, final

from holdtrue.elastic import ControlClient, read_tokens
from holdtrue.errors import GroupError, HoldtrueError, UsageError
from holdtrue.launch import JobEntry, JobState, list_jobs
from holdtrue.mapping import parse_mapping
from holdtrue.record import compare_runs, read_run, workers_over_steps

from ._curves import downsample
from ._steplog import StepLog

MOST_EVENTS = 300
MOST_DIGESTS = 50
_ASK_TIMEOUT_S = 2.0

Facts = dict[str, Any]  # Any: JSON values


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Shown:
    """What is shown of a run's steps, as JSON values."""

    steps: int
    curve: Facts
    digests: list[list[Any]]
    """Newest of them: step and text."""
    changes: list[list[int]]
    """Newest of them: first step of a generation, and the generation."""
    last: Facts | None
    """The newest step."""


def _show(log: StepLog, batch: int) -> _Shown:
    curve = asdict(downsample(log.steps, log.losses, log.seconds, batch=batch))
    changes = [
        [b, g]
        for (a, b), (f, g) in zip(pairwise(log.steps), pairwise(log.generations), strict=True)
        if f != g
    ]
    last = (
        {"step": log.steps[-1], "loss": curve["losses"][-1], "seconds": log.seconds[-1]} if len(log) else None
    )
    return _Shown(
        steps=len(log),
        curve=curve,
        digests=[[step, log.digests[step]] for step in sorted(log.digests)[-MOST_DIGESTS:]],
        changes=changes[-MOST_EVENTS:],
        last=last,
    )


@final
class _RunRead:
    """One run's steps as far as they were read, and what is shown of them. Used from several threads."""

    def __init__(self, folder: Path) -> None:
        self._log = StepLog(folder / "steps.jsonl")
        self._guard = threading.Lock()
        self._batch, self._shown = 0, _show(self._log, 0)

    def look(self, batch: int) -> _Shown:
        """Read on; computed anew only if there was anything new."""
        with self._guard:
            if self._log.refresh() or batch != self._batch:
                self._batch, self._shown = batch, _show(self._log, batch)
            return self._shown


@final
class Observatory:
    """Jobs of the user and runs of a folder. Mutable: it keeps what it read of the runs; used from several threads."""

    def __init__(self, *, jobs: Path, runs: Path) -> None:
        """Look at a folder of jobs, and at the run directories in another."""
        self._jobs, self._runs = jobs, runs
        self._runs_read: dict[Path, _RunRead] = {}
        self._guard = threading.Lock()

    def overview(self) -> list[Facts]:
        """All jobs, newest first, then the runs that no job names."""
        known = [(_id_of(entry), entry, state) for entry, state in list_jobs(self._jobs)]
        found: list[Facts] = [
            {
                "id": key,
                "name": entry.name,
                "state": state,
                "how": entry.ending or "",
                "script": entry.script,
                "started_s": entry.started_s,
                "ended_s": entry.ended_s,
            }
            for key, entry, state in known
        ]
        named = {Path(entry.run_dir) for _, entry, _ in known}
        for folder in sorted(self._runs.glob("*"), reverse=True) if self._runs.is_dir() else ():
            if (folder / "plan.json").is_file() and folder.resolve() not in named:
                started = (folder / "plan.json").stat().st_mtime
                found.append(
                    {
                        "id": f"run/{folder.name}",
                        "name": folder.name,
                        "state": "run",
                        "how": "",
                        "script": "",
                        "started_s": started,
                        "ended_s": None,
                    }
                )
        return found

    def run_dirs(self) -> dict[str, str]:
        """Keys of jobs by their run directory."""
        return {entry.run_dir: _id_of(entry) for entry, _ in list_jobs(self._jobs)}

    def entry(self, key: str) -> tuple[JobEntry, JobState] | None:
        """The job that a key names; None for a run."""
        return next((pair for pair in list_jobs(self._jobs) if _id_of(pair[0]) == key), None)

    def folder(self, key: str) -> Path:
        """The run directory that a key names: one of those in `overview`, and no other path.

        Raises:
            UsageError: there is none.
        """
        return self._find(key)[0]

    def _find(self, key: str) -> tuple[Path, tuple[JobEntry, JobState] | None]:
        """Run directory and job, looked up once: a job may go between two looks."""
        if (pair := self.entry(key)) is not None:
            return Path(pair[0].run_dir), pair
        kind, _, name = key.partition("/")
        if kind == "run" and self._runs.is_dir():
            for folder in self._runs.iterdir():
                if folder.name == name and (folder / "plan.json").is_file():
                    return folder, None
        raise UsageError(f"there is no job or run {key!r} here any more. Go back to the list.")

    def view(self, key: str) -> Facts:
        """Everything that a job's page shows.

        Raises:
            UsageError: there is no such job or run.
        """
        folder, pair = self._find(key)
        plan = _read_json(folder / "plan.json")
        events = _events_of(folder / "events.jsonl")
        shown = self._look(folder, batch=int(plan.get("global_batch_size", 0) or 0))
        job, trouble = _ask(pair)
        mapping = _mapping_now(job, events)
        return {
            "id": key,
            "name": pair[0].name if pair is not None else folder.name,
            "state": pair[1] if pair is not None else "run",
            "how": (pair[0].ending or "") if pair is not None else "",
            "folder": str(folder),
            "plan": plan,
            "job": job,
            "trouble": trouble,
            "curve": shown.curve,
            "steps": shown.steps,
            "last": shown.last,
            "changes": shown.changes,
            "workers": workers_over_steps(events),
            "events": events[-MOST_EVENTS:],
            "digests": shown.digests,
            "mapping": _draw_mapping(mapping, int(plan.get("virtual_nodes", 0) or 0), shown.last),
        }

    def _look(self, folder: Path, *, batch: int) -> "_Shown":
        """What is shown of a run's steps; those that came since the last look are read."""
        with self._guard:
            for gone in [other for other in self._runs_read if not other.is_dir()]:
                del self._runs_read[gone]
            read = self._runs_read.setdefault(folder, _RunRead(folder))
        return read.look(batch)

    def comparison(self, a: str, b: str) -> Facts:
        """Two runs: both views, and what `holdtrue compare` says.

        Raises:
            UsageError: there is no such run.
        """
        views = [self.view(key) for key in (a, b)]
        try:
            found = compare_runs(*(read_run(self.folder(key)) for key in (a, b)))
        except HoldtrueError as error:
            return {"views": views, "verdict": "not compared", "sentences": [str(error)], "first_step": None}
        verdict = (
            "equal"
            if found.equal
            else ("different" if found.first_step is not None else "not shown to be equal")
        )
        return {
            "views": views,
            "verdict": verdict,
            "sentences": list(found.sentences),
            "first_step": found.first_step,
        }

    def act(self, key: str, what: str, workers: int | None) -> str:
        """Resize or stop a running job; returns what became of it.

        Raises:
            UsageError, GroupError: it runs no more, or refuses.
        """
        pair = self.entry(key)
        if pair is None or pair[1] != "running":
            raise UsageError("this job runs no more. Its records stay.")
        client = _client(pair[0], "admin", timeout_s=10.0)
        if what == "stop":
            return client.stop("the dashboard")
        assert workers is not None
        return client.resize(workers)


def _id_of(entry: JobEntry) -> str:
    return f"job/{entry.name}"


def _client(entry: JobEntry, scope: str, *, timeout_s: float) -> ControlClient:
    token = read_tokens(Path(entry.token_file)).by_scope[scope]
    return ControlClient(url=entry.url, token=token, timeout_s=timeout_s)


def _ask(pair: tuple[JobEntry, JobState] | None) -> tuple[Facts | None, str]:
    if pair is None or pair[1] != "running":
        return None, ""
    try:
        return _client(pair[0], "read", timeout_s=_ASK_TIMEOUT_S).job(), ""
    except (GroupError, UsageError) as error:
        return None, str(error)


def _read_json(path: Path) -> Facts:
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _events_of(path: Path) -> list[Facts]:
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except OSError:
        return []
    found: list[Facts] = []
    for line in lines:
        try:
            values = json.loads(line)
            found.append(
                {
                    "kind": str(values["kind"]),
                    "step": values["step"],
                    "reason": str(values["reason"]),
                    "details": dict(values["details"]),
                    "time_s": float(values["time_s"]),
                    "generation": int(values["generation"]),
                }
            )
        except (ValueError, KeyError, TypeError):
            continue
    return found


def _mapping_now(job: Facts | None, events: Sequence[Facts]) -> Facts | None:
    """Workers, devices and mapping text: what the controller says, or else the last change on record."""
    if job is not None and any(
        w.get("virtual_nodes") for w in job["workers"]
    ):  # a server says it of each worker
        members = [w for w in job["workers"] if w["rank"] is not None]
        return {
            "workers": [w["worker"] for w in members],
            "devices": [w["device"] for w in members],
            "held": [w["virtual_nodes"] for w in members],
            "pass_s": [w.get("pass_seconds") or None for w in members],
        }
    recorded = next((e["details"] for e in reversed(events) if "mapping" in e["details"]), None)
    progress = job["progress"] if job is not None else {}
    if job is None and recorded is None:
        return None
    members = (
        sorted((w for w in job["workers"] if w["rank"] is not None), key=lambda w: w["rank"]) if job else []
    )
    text = progress.get("mapping") or (recorded or {}).get("mapping") or (job or {}).get("mapping")
    return {
        "workers": [w["worker"] for w in members] or (recorded or {}).get("workers", []),
        "devices": [w["device"] for w in members] or (recorded or {}).get("devices", []),
        "text": text,
        "pass_s": _measured(progress) if members else _numbers((recorded or {}).get("pass_s")),
    }


def _measured(progress: Facts) -> list[float | None]:
    """Seconds of a virtual node by rank, as the run measured them in the step that it last told of."""
    try:
        parts = str(progress["pass_s"]).split(" ")
        return _numbers([None if part == "-" else float(part) for part in parts])
    except (KeyError, ValueError):
        return []


def _numbers(values: object) -> list[float | None]:
    """Numbers of a record, which anybody may have written; empty if they are none."""
    if not isinstance(values, list):
        return []
    are_plain = all(v is None or (type(v) in (int, float) and math.isfinite(v)) for v in values)
    return values if are_plain else []


def _draw_mapping(now: Facts | None, virtual_nodes: int, last: Mapping[str, Any] | None) -> list[Facts]:
    """One row for each worker: its device, its virtual nodes, and seconds of a pass where they are known."""
    if now is None or not now["workers"]:
        return []
    held = now.get("held")
    if held is None:
        try:
            held = [list(ids) for ids in parse_mapping(str(now["text"]), virtual_nodes).held]
        except HoldtrueError:
            held = _even(virtual_nodes, len(now["workers"]))
    if len(held) != len(now["workers"]):
        held = _even(virtual_nodes, len(now["workers"]))  # a change is under way
    most = max((len(ids) for ids in held), default=0)
    # Measured where the run says so; else a step's seconds over the passes of the busiest worker, exchange included.
    bound = last["seconds"] / most if last is not None and most else None
    passes = now.get("pass_s") or []
    if len(passes) != len(held):
        passes = [None] * len(held)  # a change is under way, or a run that measured none
    return [
        {
            "worker": w,
            "device": d or "",
            "virtual_nodes": ids,
            "pass_s": (bound if p is None else p) if ids else None,
            "is_measured": p is not None,
        }
        for w, d, ids, p in zip(now["workers"], now["devices"], held, passes, strict=False)
    ]


def _even(virtual_nodes: int, workers: int) -> list[list[int]]:
    from holdtrue.mapping import even_mapping

    return (
        [list(ids) for ids in even_mapping(virtual_nodes, max(1, workers)).held]
        if virtual_nodes
        else [[]] * workers
    )
