"""Hosts of the jobs, where somebody else lends the devices: asked for, ended, and what they leave behind.

FOLDER of an attempt
    staffed     hosts that were asked for, less those whose end was noted    whoever is missing ended unseen
    left.json   exit status of a script, or what took the last host          read by whoever judges the attempt
"""

import json
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, final

from holdtrue.launch import DEVICE_MEMORY_VARIABLE, LEASES_VARIABLE, JobEntry
from holdtrue.service import write_private
from holdtrue.wire import SETTING_VARIABLES

from ._engine_choice import Lent
from ._evidence import Loss
from ._hosts import HostEnd, HostEngine, HostLook, HostOrder, attempt_of, plan_hosts
from ._records import JobRecord, Place

_END_S = 15.0
"""What hosts have to end by themselves after their job's launcher ended in order."""
_INTERRUPTED = 130
_FIRST_PAUSE_S, _MOST_PAUSE_S = 0.5, 30.0
"""Between hosts of one attempt that fail one after the other: doubled each time."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What the hosts of an attempt left behind."""

    status: int | None = None
    """Exit status of the script, where it ended the job and was neither 1 nor a stop."""
    loss: Loss = ""
    """What took the last host away."""
    sentence: str = ""
    """What there is to say about it."""


def read_left(folder: Path) -> Left:
    """What the hosts of the attempt in a folder left behind."""
    try:
        return Left(**json.loads((folder / "left.json").read_text()))
    except (OSError, ValueError, TypeError):
        return Left()


@final
@dataclass(slots=True)
class _Attempt:
    """What is remembered of one attempt between two looks; all of it may be forgotten."""

    over_s: float | None = None
    """When its launcher was first seen to have ended."""
    failures: int = 0
    """Hosts that failed, one after the other."""
    again_s: float = 0.0
    """Not before then is another one asked for."""


@final
class Staffing:
    """Has for each job as many hosts as it aims at workers. Jobs are looked at in several threads, each by one.

    Args:
        place: The folders of the cluster.
        hosts: Who lends devices.
        lent: What these are.
    """

    def __init__(self, place: Place, hosts: HostEngine, lent: Lent) -> None:
        self._place, self._hosts, self._lent = place, hosts, lent
        self._leaving: set[str] = set()
        """Hosts that were told to end."""
        self._attempts: dict[str, _Attempt] = {}
        self._lock = threading.Lock()

    @property
    def trouble(self) -> str:
        """Why no host can be had now; empty if all is well."""
        return self._hosts.look().trouble

    def sweep(self, running: Sequence[JobRecord]) -> None:
        """End what no running job's present attempt needs."""
        known = {self._place.attempt(record).name for record in running}
        seen = self._hosts.look()
        for name in seen.living:
            if attempt_of(name) not in known:
                self._hosts.stop(name, at_once=True)
        for name in seen.ended:
            if attempt_of(name) not in known:
                self._hosts.forget(name)
        with self._lock:
            self._attempts = {label: kept for label, kept in self._attempts.items() if label in known}

    def tend(
        self,
        record: JobRecord,
        entry: JobEntry | None,
        facts: Mapping[str, Any] | None,  # Any: JSON values
        *,
        is_locked: bool,
        is_in_order: bool,
    ) -> bool:
        """Note which hosts of an attempt ended, and start or end others; whether one lives.

        Args:
            record: The job.
            entry: Where its controller is found.
            facts: What that says; None while it does not answer.
            is_locked: Whether its launcher lives.
            is_in_order: Whether a launcher that does not live ended by itself.
        """
        folder, seen = self._place.attempt(record), self._hosts.look()
        with self._lock:
            kept = self._attempts.setdefault(folder.name, _Attempt())
        mine = frozenset(name for name in seen.living if attempt_of(name) == folder.name)
        self._note_ends(folder, kept, seen, has_others=bool(mine))
        if is_locked:
            self._staff(record, kept, mine, seen, entry, facts)
        else:
            self._clear(kept, mine, is_in_order=is_in_order)
        return bool(mine)

    def close(self, *, ends_all: bool) -> None:
        """Let go of whoever lends devices."""
        self._hosts.close(ends_all=ends_all)

    # --- more, or fewer ---------------------------------------------------------------------------------

    def _staff(
        self,
        record: JobRecord,
        kept: _Attempt,
        mine: frozenset[str],
        seen: HostLook,
        entry: JobEntry | None,
        facts: Mapping[str, Any] | None,
    ) -> None:
        """Have as many hosts as the job aims at workers; before its controller speaks, as many as it begins with."""
        folder = self._place.attempt(record)
        wanted = _wanted(folder, facts)
        if wanted is None or entry is None or seen.trouble:
            return
        plan = plan_hosts(
            wanted,
            mine,
            waiting=seen.waiting,
            busy=[host["name"] for host in facts["hosts"] if host["running"]] if facts else mine,
            leaving=self._leaving,
        )
        for name in (*plan.leave, *plan.end):
            self._stop(name, at_once=name in plan.end)
        if plan.more and time.monotonic() >= kept.again_s and not _is_out_of_reach(read_left(folder), facts):
            self._start(record, entry, plan.more)

    def _start(self, record: JobRecord, entry: JobEntry, count: int) -> None:
        try:
            token = Path(entry.join_file).read_text()
        except OSError:
            return  # the job ends
        folder = self._place.attempt(record)
        if read_left(folder) != Left():
            _write(folder, Left())  # the job goes on: what ended before has not ended it
        names = [f"{folder.name}-{secrets.token_hex(3)}" for _ in range(count)]
        _write_names(
            folder, [*_read_names(folder), *names]
        )  # first: one that is not written down cannot be missed
        for name in names:
            self._hosts.start(
                HostOrder(
                    name=name,
                    job=record.request.name,
                    kind=self._lent.kind,
                    percent=record.request.percent,
                    url=entry.url,
                    token=token,
                    folder=record.request.folder,
                    environment=own_environment(record, self._lent),
                )
            )

    def _clear(self, kept: _Attempt, mine: frozenset[str], *, is_in_order: bool) -> None:
        """End the hosts of a job without a launcher; those of one that ended in order end by themselves, mostly."""
        kept.over_s = kept.over_s or time.monotonic()
        if not is_in_order or time.monotonic() > kept.over_s + _END_S:
            for name in mine:
                self._stop(name, at_once=True)

    def _stop(self, name: str, *, at_once: bool) -> None:
        self._leaving.add(name)
        self._hosts.stop(name, at_once=at_once)

    # --- what ended -------------------------------------------------------------------------------------

    def _note_ends(self, folder: Path, kept: _Attempt, seen: HostLook, *, has_others: bool) -> None:
        """Write down what hosts of the attempt left behind: it may be asked for by the next scheduler."""
        known = _read_names(folder)
        ends = {name: end for name, end in seen.ended.items() if attempt_of(name) == folder.name}
        if not seen.trouble:
            unseen = HostEnd(status=None, sentence="Its worker was lost while no scheduler looked.")
            ends |= {name: unseen for name in known if name not in seen.living and name not in ends}
        if ends:
            _write_names(folder, [name for name in known if name not in ends])
        for name, end in ends.items():
            was_told = name in self._leaving
            left = after_end(read_left(folder), end, was_told=was_told, has_others=has_others)
            if left != read_left(folder):
                _write(folder, left)
            if was_told or end.status in (0, _INTERRUPTED):
                kept.failures = 0
            else:
                kept.again_s = time.monotonic() + min(_MOST_PAUSE_S, _FIRST_PAUSE_S * 2**kept.failures)
                kept.failures += 1
            self._leaving.discard(name)
            self._hosts.forget(name)


def after_end(left: Left, end: HostEnd, *, was_told: bool, has_others: bool) -> Left:
    """What is left behind after one more host ended. Pure.

    Args:
        left: What was left behind before.
        end: How it ended.
        was_told: Whether it was told to.
        has_others: Whether another host of the attempt lives.

    >>> after_end(Left(), HostEnd(status=5, sentence="boom"), was_told=False, has_others=True)
    Left(status=5, loss='', sentence='boom')
    >>> after_end(Left(), HostEnd(status=2, has_run=False), was_told=False, has_others=True)
    Left(status=None, loss='', sentence='')
    >>> after_end(Left(), HostEnd(status=None, with_machine=True), was_told=False, has_others=False).loss
    'machine'
    """
    if end.status is None:
        if was_told or has_others:
            return left
        return replace(left, loss="machine" if end.with_machine else "host", sentence=end.sentence)
    if not end.has_run and has_others:
        return left
    if left.status is None and 1 < end.status != _INTERRUPTED:
        return replace(left, status=end.status, sentence=end.sentence)
    return left


def _is_out_of_reach(left: Left, facts: Mapping[str, Any] | None) -> bool:
    """Whether the last host went with all that the job had in memory: another one would have nothing to take over.

    The controller waits for two minutes, lest somebody was only cut off, and ends the job.
    """
    if not left.loss or facts is None or facts["phase"] != "running":
        return False
    return not any(worker["is_connected"] for worker in facts["workers"])


def without_scheduler_variables(env: Mapping[str, str]) -> dict[str, str]:
    """An environment without what makes a job one of a part or of leases: those are each job's own, from its scheduler. Pure."""
    own = (LEASES_VARIABLE, DEVICE_MEMORY_VARIABLE, SETTING_VARIABLES["device_percent"])
    return {name: value for name, value in env.items() if name not in own}


def own_environment(record: JobRecord, lent: Lent) -> dict[str, str]:
    """Variables that a job has besides its machine's. Pure."""
    percent = record.request.percent
    part = {SETTING_VARIABLES["device_percent"]: str(percent)} if percent < 100 else {}
    if percent < 100 and lent.memory_bytes:
        part[DEVICE_MEMORY_VARIABLE] = str(lent.memory_bytes)
    return without_scheduler_variables(record.request.environment) | part


def _wanted(folder: Path, facts: Mapping[str, Any] | None) -> int | None:
    """Hosts that an attempt should have; None to leave it as it is."""
    if facts is not None:
        return int(facts["target"]) if facts["phase"] in ("founding", "running") else None
    if (folder / "staffed").exists():
        return None
    with suppress(OSError, ValueError, KeyError):
        return int(json.loads((folder / "order.json").read_text())["workers"])
    return None


def _read_names(folder: Path) -> list[str]:
    try:
        return list(json.loads((folder / "staffed").read_text()))
    except (OSError, ValueError):
        return []


def _write_names(folder: Path, names: Sequence[str]) -> None:
    write_private(folder / "staffed", json.dumps(list(names)))


def _write(folder: Path, left: Left) -> None:
    write_private(folder / "left.json", json.dumps(asdict(left)))
