"""Jobs of this user on this machine, by name: one file a job, in a folder that nobody else can enter.

jobs/NAME.json    where the job's controller listens, where its tokens and its records are, how it ended
jobs/NAME.lock    locked by the job's launcher as long as that lives
jobs/NAME.tokens  the tokens of the job, deleted at its end
"""

import fcntl
import itertools
import json
import os
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, final

from holdtrue.errors import UsageError
from holdtrue.service import write_private

SCOPES = ("read", "join", "admin")
"""What a token allows: to look; to take part as a worker or a host; to change the job."""

LOCK_WAIT_S = 0.2
"""How long a lock is tried for: who only looks at it holds it for some microseconds."""
_LOCK_AGAIN_S = 0.005

_LEFT = ("tokens", "join", "job", "description", "memory")
"""Files of a job that go with it, by ending."""

JobState = Literal["running", "ended", "lost", "elsewhere"]
"""`elsewhere`: it has not ended, as far as another machine's file says, and only that machine knows more."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class JobEntry:
    """One job as its file has it."""

    name: str
    url: str
    """Where the controller listens, such as `http://127.0.0.1:41000`; no secret is in it."""
    pid: int
    """Process id of the launcher."""
    run_dir: str
    """Folder of records, checkpoints and logs, absolute."""
    token_file: str
    """File with the tokens, one for each scope; only this user can read it."""
    join_file: str
    """File with the token of scope `join` alone."""
    script: str
    started_s: float
    """Seconds since 1970."""
    exit_code: int | None = None
    """Of the job; None while it runs."""
    ending: str | None = None
    """How it ended, as a sentence; None while it runs."""
    ended_s: float | None = None
    resume_command: str = ""
    """The command that goes on with it; empty if there is none."""
    host: str = ""
    """Name of the launcher's machine; `Registration.publish` fills it in."""
    boot: str = ""
    """Which start of which kernel that was: processes that share it see each other's locks, whatever they call their host."""

    @property
    def can_go_on(self) -> bool:
        """Whether it ended before its script did, and can be resumed."""
        return self.exit_code != 0 and bool(self.resume_command)


def jobs_folder(env: Mapping[str, str]) -> Path:
    """The user's folder of jobs: made if it is missing, with mode 0700.

    Raises:
        UsageError: it belongs to someone else, or cannot be made.
    """
    state = env.get("XDG_STATE_HOME") or os.path.join(
        env.get("HOME") or os.path.expanduser("~"), ".local", "state"
    )
    folder = Path(env.get("XDG_RUNTIME_DIR") or state) / "holdtrue" / "jobs"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be made ({error.strerror}); the tokens of your jobs are kept there. "
            f"Set XDG_RUNTIME_DIR to a folder of your own, or unset it."
        ) from None
    if folder.stat().st_uid != os.getuid():
        raise UsageError(
            f"{folder} belongs to another user; the tokens of your jobs are kept there. "
            f"Set XDG_RUNTIME_DIR to a folder of your own."
        )
    folder.chmod(0o700)
    return folder


@final
class Registration:
    """A living job's place in the folder; mutable, owned by its launcher.

    Raises:
        UsageError: a job of that name lives.
        OSError: its files cannot be written.
    """

    def __init__(self, folder: Path, name: str, *, join_token: str | None = None) -> None:
        """Take the name, and make the job's tokens, but for one that is given."""
        self._entry_file = folder / f"{name}.json"
        lock = take_lock(folder / f"{name}.lock")
        if lock is None:
            raise UsageError(_refusal(_read_entry(self._entry_file), name))
        before = _read_entry(self._entry_file)
        if before is not None and before.ending is None and _is_elsewhere(before):
            os.close(lock)
            raise UsageError(
                f"a job called {name!r} runs on {before.host}, with which this machine shares {folder}; names of living jobs "
                f"are unique. Give another --name; or, if that machine is gone, remove {self._entry_file}."
            )
        self._lock = lock
        self._entry: JobEntry | None = None
        self._entry_file.unlink(missing_ok=True)  # of a job that ended
        self.token_file = folder / f"{name}.tokens"
        self.join_file = folder / f"{name}.join"
        """File with the token of scope `join` alone, for workers."""
        self.job_file = folder / f"{name}.job"
        """Settings of the job's controller."""
        self.description_file = folder / f"{name}.description"
        """What hosts that join are told."""
        self.memory_file = folder / f"{name}.memory"
        """What the job's controller leaves to the next one."""
        self.memory_file.unlink(missing_ok=True)
        self.tokens = {scope: secrets.token_urlsafe(32) for scope in SCOPES}
        if join_token is not None:
            self.tokens["join"] = join_token
        try:
            write_private(self.token_file, json.dumps(self.tokens))
            write_private(self.join_file, self.tokens["join"])
        except OSError:
            self.close()
            raise

    def publish(self, entry: JobEntry) -> None:
        """Let commands find the job.

        Raises:
            OSError: there is no room for its file.
        """
        self._entry = entry = replace(entry, host=os.uname().nodename, boot=_boot())
        write_private(self._entry_file, json.dumps(asdict(entry), indent=1))

    def end(self, *, exit_code: int, ending: str, ended_s: float) -> None:
        """Write how the job ended.

        Raises:
            OSError: there is no room for its file.
        """
        if self._entry is not None:
            self.publish(replace(self._entry, exit_code=exit_code, ending=ending, ended_s=ended_s))

    def close(self) -> None:
        """Give the name back and delete the tokens."""
        for left in _LEFT:
            self._entry_file.with_suffix(f".{left}").unlink(missing_ok=True)
        os.close(self._lock)


def register(
    folder: Path, name: str, *, is_given: bool, join_token: str | None = None
) -> tuple[str, Registration]:
    """Take a name for a job; one that the user did not give gets a number where it is taken.

    Raises:
        UsageError: a job of the given name lives.
        OSError: its files cannot be written.
    """
    if is_given:
        return name, Registration(folder, name, join_token=join_token)
    for number in itertools.count(1):
        free = name if number == 1 else f"{name[:58]}-{number}"
        with suppress(UsageError):
            return free, Registration(folder, free, join_token=join_token)
    raise AssertionError("counting has no end")


def find_job(folder: Path, name: str) -> tuple[JobEntry, JobState]:
    """The newest job called `name`, and whether it lives.

    Raises:
        UsageError: there is none.
    """
    entry = _read_entry(folder / f"{name}.json")
    if entry is None:
        living = [other.name for other, state in list_jobs(folder) if state == "running"]
        known = f"running jobs of yours are {', '.join(living)}" if living else "no job of yours is running"
        raise UsageError(
            f"there is no job {name!r}; {known}, on this machine. Give the name that `holdtrue run --name` was given."
        )
    return entry, _state_of(folder, entry)


def end_lost(folder: Path, name: str, *, run_dir: str, ending: str) -> bool:
    """Write how a job ended whose launcher could not, for one who knows that it is gone, on whatever machine it was.

    Args:
        folder: The user's jobs.
        name: The job.
        run_dir: Its run directory; an entry of another run is left alone.
        ending: What there is to say.

    Returns:
        Whether it was written: not for one that ended, or that lives on this machine.
    """
    lock = take_lock(folder / f"{name}.lock")
    if lock is None:
        return False
    try:
        entry = _read_entry(folder / f"{name}.json")
        if entry is None or entry.ending is not None or entry.run_dir != run_dir:
            return False
        ended = replace(entry, ending=ending, ended_s=time.time())
        write_private(folder / f"{name}.json", json.dumps(asdict(ended), indent=1))
        for left in _LEFT:
            (folder / f"{name}.{left}").unlink(missing_ok=True)
        return True
    finally:
        os.close(lock)


def check_run_dir(folder: Path, run_dir: str) -> None:
    """Refuse a run directory into which a job writes that has not ended, as far as another machine's file says.

    Raises:
        UsageError: there is one.
    """
    for entry in filter(None, map(_read_entry, folder.glob("*.json"))):
        if entry.run_dir == run_dir and entry.ending is None and _is_elsewhere(entry):
            raise UsageError(
                f"job {entry.name!r} writes into {run_dir}, on {entry.host}, and has not ended as far as is known here; two "
                f"launchers would spoil its checkpoints. Ask there; or, if that machine is gone, remove "
                f"{folder / entry.name}.json."
            )


def list_jobs(folder: Path) -> list[tuple[JobEntry, JobState]]:
    """All jobs that the folder knows, newest first."""
    entries = [entry for path in folder.glob("*.json") if (entry := _read_entry(path)) is not None]
    entries.sort(key=lambda entry: -entry.started_s)
    return [(entry, _state_of(folder, entry)) for entry in entries]


def _state_of(folder: Path, entry: JobEntry) -> JobState:
    """`running`, `ended`, `elsewhere`, or `lost` if its launcher was killed; then its tokens are cleaned away.

    In a home that machines share a lock may be each machine's own: that it can be taken here says nothing about a
    launcher elsewhere, whose tokens are left alone.
    """
    if entry.ending is not None:
        return "ended"
    if _is_elsewhere(entry):
        return "elsewhere"
    lock = _try_lock(folder / f"{entry.name}.lock", fcntl.LOCK_EX)
    if lock is None:
        return "running"
    try:  # while the lock is held: who takes the name next writes files of the same names
        for left in _LEFT:
            (folder / f"{entry.name}.{left}").unlink(missing_ok=True)
    finally:
        os.close(lock)
    return "lost"


def _is_elsewhere(entry: JobEntry) -> bool:
    """Whether a job's launcher was started on another machine: one of another name, and of another kernel."""
    return bool(entry.host) and entry.host != os.uname().nodename and entry.boot != _boot()


def _boot() -> str:
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def take_lock(path: Path, *, wait_s: float = LOCK_WAIT_S) -> int | None:
    """Take the lock on a file, for as long as the returned descriptor is open; None if a living process holds it.

    Blocks:
        At most `wait_s`: who looks whether the lock is held holds it for a moment.
    """
    until_s = time.monotonic() + wait_s
    while (lock := _try_lock(path, fcntl.LOCK_EX)) is None and time.monotonic() < until_s:
        time.sleep(_LOCK_AGAIN_S)
    return lock


def _try_lock(path: Path, kind: int) -> int | None:
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def is_locked(path: Path) -> bool:
    """Whether a process that lives holds the lock on a file."""
    if not path.exists():
        return False
    lock = _try_lock(path, fcntl.LOCK_SH)
    if lock is not None:
        os.close(lock)
    return lock is None


def _read_entry(path: Path) -> JobEntry | None:
    """The entry in a file; None for one that is missing or of another version: nothing to find there."""
    with suppress(OSError, ValueError, TypeError):
        values: dict[str, Any] = json.loads(path.read_text())  # Any: JSON values
        return JobEntry(**values)
    return None


def _refusal(entry: JobEntry | None, name: str) -> str:
    who = f" (process {entry.pid}, {entry.run_dir})" if entry is not None else ""
    return (
        f"a job called {name!r} is running{who}; names of living jobs are unique. "
        f"Give another --name, or end that one with `holdtrue stop {name}`."
    )
