"""Jobs as `holdtrue run` processes on this machine, each with a keeper of its own.

Embedded engine      the launcher is the job's host: it starts the workers itself
with a host engine   the launcher starts none; hosts are asked for, join it, and run one worker each
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from signal import Signals
from typing import Any, final

from holdtrue.elastic import ControlClient, read_tokens
from holdtrue.errors import HoldtrueError, UsageError
from holdtrue.launch import (
    LEASES_VARIABLE,
    LEAST_PART_BYTES,
    JobEntry,
    Leases,
    end_lost,
    find_job,
    jobs_folder,
    take_lock,
)
from holdtrue.units import format_bytes

from ._engine import ClusterEngine, Look
from ._engine_choice import Lent
from ._evidence import STOPPED, Evidence
from ._hosts import HostEngine
from ._records import JobRecord, Place
from ._request import JobRequest
from ._staffing import Staffing, own_environment, read_left, without_scheduler_variables

_KEEPER = Path(__file__).with_name("_keeper.py")
_ASK_S = 5.0
"""Bound of each question to a job's controller."""
_LAST_BYTES = 4096


@final
class LauncherEngine(ClusterEngine):
    """Starts, looks at, resizes and ends jobs. All is found again by name and by folder.

    Args:
        place: The folders of the cluster.
        hosts: Who lends devices; None has the launchers use this machine's.
        listen: Address on which jobs listen for hosts; None for this machine alone.
        lent: What the devices are.
    """

    def __init__(
        self,
        place: Place,
        hosts: HostEngine | None = None,
        listen: str | None = None,
        lent: Lent | None = None,
    ) -> None:
        self._place, self._listen, self._lent = place, listen, lent or Lent()
        self._staffing = Staffing(place, hosts, self._lent) if hosts is not None else None
        self._children: list[subprocess.Popen[bytes]] = []

    def begin(self, record: JobRecord, workers: int, slot: int = -1) -> None:
        """Start the present attempt of a job.

        Guarantee:
            Whoever is killed in between, the attempt runs at most once: its lock is taken before the keeper is
            forked, and is held by the keeper from its first moment.

        Raises:
            UsageError: the attempt runs already, or no host can be had now.
        """
        if self.trouble:
            raise UsageError(self.trouble)
        folder = self._place.attempt(record)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = take_lock(folder / "lock", wait_s=0.0)
        if lock is None:
            raise UsageError(
                f"attempt {record.attempt} of job {record.request.name!r} runs already. Nothing was started."
            )
        try:
            (folder / "order.json").write_text(json.dumps(self._order(record, workers, slot)))
            (folder / "order.json").chmod(0o600)
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_KEEPER), str(folder), str(lock)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(lock,),
                start_new_session=True,
                cwd="/",
            )
        finally:
            os.close(lock)
        self._children.append(process)

    def reap(self, running: Sequence[JobRecord]) -> None:
        """Take the statuses of keepers that ended (what they have to say is in their folders), and end stray hosts."""
        self._children = [child for child in self._children if child.poll() is None]
        if self._staffing is not None:
            self._staffing.sweep(running)

    @property
    def trouble(self) -> str:
        """Why no host can be had now."""
        return self._staffing.trouble if self._staffing is not None else ""

    def close(self, *, is_idle: bool) -> None:
        """Let go of whoever lends devices."""
        if self._staffing is not None:
            self._staffing.close(ends_all=is_idle)

    def _order(self, record: JobRecord, workers: int, slot: int) -> dict[str, Any]:  # Any: JSON values
        request, run_dir = record.request, self._place.run_dir(record)
        words = [
            "--name",
            request.name,
            "--workers",
            str(workers),
            "--device",
            self._lent.kind,
            "--run-dir",
            str(run_dir),
        ]
        if self._staffing is not None:
            words.append("--elsewhere")
            words += ["--listen", self._listen] if self._listen is not None else []
        if (run_dir / "plan.json").exists():
            words.append("--resume")
        for option in (
            "virtual_nodes",
            "global_batch_size",
            "seed",
            "numerics",
            "digest_every",
            "checkpoint_every",
        ):
            if (value := getattr(request, option)) is not None:
                words += [f"--{option.replace('_', '-')}", str(value)]
        return {
            "workers": workers,
            "slot": slot,
            "command": [
                sys.executable,
                "-P",
                "-m",
                "holdtrue",
                "run",
                *words,
                request.script,
                *request.arguments,
            ],
            "folder": request.folder,
            "environment": without_scheduler_variables(os.environ)
            | own_environment(record, self._lent)
            | self._leases(slot),
        }

    def _leases(self, slot: int) -> dict[str, str]:
        """What a job's launcher is told of devices that its workers lease."""
        if not self._lent.names:
            return {}
        leases = Leases(folder=self._place.leases, names=self._lent.names, slot=slot)
        return {LEASES_VARIABLE: leases.to_text()}

    def look(self, record: JobRecord) -> Look:
        """What there is to see of a job's present attempt.

        Blocks:
            Until its controller answers, at most 5 s.
        """
        evidence, facts = self.evidence(record), None
        if evidence.is_locked:
            with suppress(HoldtrueError):
                facts = self._client(record, "read").job()
        if self._staffing is None:
            return Look(evidence=evidence, facts=facts)
        has_hosts = self._staffing.tend(
            record,
            self._entry(record),
            facts,
            is_locked=evidence.is_locked,
            is_in_order=evidence.exit_code is not None,
        )
        if evidence.is_locked:
            is_hopeless = not has_hosts and read_left(self._place.attempt(record)).status is not None
            if is_hopeless and facts is not None and facts["phase"] == "founding":
                with suppress(HoldtrueError):
                    self.stop(record, "its hosts cannot run it")
            return Look(evidence=evidence, facts=facts)
        after = self.evidence(record)  # what the hosts left behind belongs to it
        return Look(evidence=replace(after, is_locked=True) if has_hosts else after)

    def evidence(self, record: JobRecord) -> Evidence:
        """What the present attempt left behind."""
        folder = self._place.attempt(record)
        lock = take_lock(folder / "lock", wait_s=0.0) if folder.is_dir() else None
        is_locked = lock is None and folder.is_dir()
        if lock is not None:
            os.close(lock)
        # Read after the lock: what wrote these files has ended, or they are not looked at.
        exit_code = _read_number(folder / "exit")
        if exit_code is None and not is_locked:
            entry = self._entry(record)
            exit_code = entry.exit_code if entry is not None else None
        left = read_left(folder)
        if exit_code in (1, STOPPED) and left.status is not None:
            exit_code = left.status  # a launcher without workers of its own knows no better
        return Evidence(
            is_locked=is_locked,
            is_started=(folder / "started").exists(),
            exit_code=exit_code,
            loss=left.loss,
            how_lost=left.sentence,
        )

    def name_is_taken(self, name: str) -> bool:
        """Whether a job of that name runs on this machine."""
        try:
            return find_job(jobs_folder(os.environ), name)[1] in ("running", "elsewhere")
        except UsageError:
            return False

    def check(self, request: JobRequest) -> None:
        """Refuse a part of a CPU slot in which no process with torch has room.

        Raises:
            UsageError: it is smaller than `LEAST_PART_BYTES`.
        """
        part = self._lent.memory_bytes * request.percent // 100
        if request.percent < 100 and 0 < part < LEAST_PART_BYTES:
            raise UsageError(
                f"job {request.name!r} has percent = {request.percent}, which is {format_bytes(part)} of memory here; a part "
                f"has {format_bytes(LEAST_PART_BYTES)} or more, for a process with torch. Give it a larger `percent`, or "
                f"start the cluster with fewer devices or a larger --memory."
            )

    def slot(self, record: JobRecord) -> int | None:
        """Shared device with which a job's present attempt was begun."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            return int(json.loads((self._place.attempt(record) / "order.json").read_text())["slot"])
        return None

    def note_killed(self, record: JobRecord) -> None:
        """End the job's entry: a launcher of a machine that was replaced counts as living elsewhere otherwise."""
        end_lost(
            jobs_folder(os.environ),
            record.request.name,
            run_dir=str(self._place.run_dir(record)),
            ending="Its launcher was killed, or went with its machine.",
        )

    def keeper(self, record: JobRecord) -> int | None:
        """Process id of a job's keeper, as it wrote it."""
        with suppress(OSError, ValueError, KeyError):
            return int(json.loads((self._place.attempt(record) / "started").read_text())["keeper"])
        return None

    def resize(self, record: JobRecord, workers: int) -> str:
        """Aim at another number of workers; what became of it.

        Raises:
            HoldtrueError: the job cannot, or its controller does not answer.
        """
        return self._client(record, "admin").resize(workers)

    def stop(self, record: JobRecord, reason: str) -> str:
        """Ask a job to end at its next step boundary, with a checkpoint.

        Raises:
            HoldtrueError: its controller does not answer.
        """
        return self._client(record, "admin").stop(reason)

    def signal(self, record: JobRecord, how: Signals) -> None:
        """Send a job's launcher a signal, if it lives."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            command = int(json.loads((self._place.attempt(record) / "started").read_text())["command"])
            if self.evidence(record).is_locked:
                os.kill(command, how)

    def last_words(self, record: JobRecord) -> str:
        """The last line that a job's launcher printed: its error, if it has one."""
        with suppress(OSError):
            with (self._place.attempt(record) / "output.log").open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _LAST_BYTES))
                lines = file.read().decode(errors="replace").splitlines()
            said = [line for line in lines if line.startswith("error: ")]
            return (said or [""])[-1].removeprefix("error: ")
        return ""

    def _client(self, record: JobRecord, scope: str) -> ControlClient:
        entry = self._entry(record)
        if entry is None or entry.exit_code is not None:
            raise UsageError(f"job {record.request.name!r} has no controller yet. Ask again.")
        tokens = read_tokens(Path(entry.token_file))
        return ControlClient(url=entry.url, token=tokens.by_scope[scope], timeout_s=_ASK_S)

    def _entry(self, record: JobRecord) -> JobEntry | None:
        """The job among the user's jobs, if it is this attempt and no other of its name."""
        try:
            entry, _ = find_job(jobs_folder(os.environ), record.request.name)
        except UsageError:
            return None
        begun_s = _begun_s(self._place.attempt(record))
        is_this = entry.run_dir == str(self._place.run_dir(record)) and begun_s is not None
        return entry if is_this and entry.started_s >= (begun_s or 0.0) - 0.05 else None


def _read_number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _begun_s(folder: Path) -> float | None:
    try:
        return (folder / "order.json").stat().st_mtime
    except OSError:
        return None
