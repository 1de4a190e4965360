"""Holds one process to a part of a core, and lets a benchmark move that to another in mid-run."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup/cpu")
PERIOD_US = 10_000


def own_group() -> Path:
    """Folder of the cgroup that this process is in."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "cpu" in controllers.split(","):
            return CGROUPS / path.lstrip("/")
    return CGROUPS


class Front:
    """A cgroup of this process and all that it starts, whose weight is raised while something is measured: what else runs on
    the machine gets what is left. Where none can be made nothing is raised, and what else ran is in the raw file."""

    HIGH, LOW = 200_000, 8192

    def __init__(self) -> None:
        self._home = own_group()
        self._folder: Path | None = self._home / f"holdtrue-front-{os.getpid()}"
        try:
            self._folder.mkdir()
            (self._folder / "cgroup.procs").write_text(str(os.getpid()))
        except OSError:
            self._folder = None

    def __enter__(self) -> "Front":
        if self._folder is not None:
            (self._folder / "cpu.shares").write_text(str(self.HIGH))
        return self

    def __exit__(self, *_: object) -> None:
        if self._folder is not None:
            (self._folder / "cpu.shares").write_text(str(self.LOW))


class Throttle:
    """A cgroup with a quota or, where none can be made, SIGSTOP and SIGCONT in turn.

    Args:
        part: Part of a core that is left.
    """

    def __init__(self, part: float) -> None:
        self.part = part
        self.pid: int | None = None
        self._home = own_group()
        self._folder: Path | None = self._home / f"holdtrue-{os.getpid()}"
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        try:
            self._folder.mkdir()
            (self._folder / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (self._folder / "cpu.cfs_quota_us").write_text(str(int(part * PERIOD_US)))
            self.how = f"a cgroup, cpu.cfs_quota_us {int(part * PERIOD_US)} of {PERIOD_US}"
        except OSError:
            self._folder = None
            self.how = f"SIGSTOP and SIGCONT in turn, {part:.0%} of 20 ms running"

    def move(self, pid: int) -> None:
        """Hold this process, and no longer the one before."""
        before, self.pid = self.pid, pid
        if self._folder is not None:
            if before is not None and Path(f"/proc/{before}").exists():
                (self._home / "cgroup.procs").write_text(str(before))
            (self._folder / "cgroup.procs").write_text(str(pid))
        elif self._thread is None:
            self._thread = threading.Thread(target=self._alternate, daemon=True)
            self._thread.start()

    def _alternate(self) -> None:
        while not self._stop.is_set() and (pid := self.pid) is not None:
            try:
                os.kill(pid, signal.SIGSTOP)
                time.sleep(0.02 * (1 - self.part))
                os.kill(pid, signal.SIGCONT)
                time.sleep(0.02 * self.part)
            except ProcessLookupError:
                time.sleep(0.02)

    def close(self) -> None:
        """Let go."""
        self._stop.set()
        for _ in range(100):
            try:
                if self._folder is not None:
                    self._folder.rmdir()
                return
            except OSError:  # its process has not quite ended
                time.sleep(0.05)


@contextmanager
def throttled(part: float) -> Iterator[Throttle]:
    """A throttle for the time of a block."""
    throttle = Throttle(part)
    try:
        yield throttle
    finally:
        throttle.close()
