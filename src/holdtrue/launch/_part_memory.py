"""Memory of a job that has a part of a device: how much it may hold, and how much it holds."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

from holdtrue.errors import UsageError
from holdtrue.units import format_bytes
from holdtrue.wire import SETTING_VARIABLES

DEVICE_MEMORY_VARIABLE = "HOLDTRUE_DEVICE_MEMORY"
"""Bytes of memory that go with one device; who lends a part of it sets this, for the hosts of the job."""
LOOK_EVERY_S = 0.25
"""Between two looks at what a worker holds."""
LEAST_PART_BYTES = 512 << 20
"""A smaller part has no room for a process with torch."""
_FAR = 1.5
"""Times its part: so much in one look ends a worker."""
_FIRST_TO_GO = 800
"""Added to what the kernel goes by when memory runs out: a worker of a part is ended before others."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PartMemory:
    """What a worker of a part of a device may hold, with all processes that it started."""

    percent: int
    """Of the device."""
    most_bytes: int
    """Its part of the device's memory."""

    def ends_at_once(self, held_bytes: int) -> bool:
        """Whether one look is enough; a smaller excess counts if the next look finds it again: peaks pass. Pure."""
        return held_bytes > _FAR * self.most_bytes

    def judge(self, worker: int, held_bytes: int) -> str:
        """Why a worker that holds so much is ended, as a sentence; empty if it holds no more than its own. Pure."""
        if held_bytes <= self.most_bytes:
            return ""
        return (
            f"the processes of worker {worker} held {format_bytes(held_bytes)} of memory, and its part of the device "
            f"({self.percent} %) has {format_bytes(self.most_bytes)}; a job of a part that takes more is ended, so that its "
            f"neighbours keep theirs. "
            f"Give it a larger `percent`, or make a virtual node's batch or its data smaller."
        )


def find_part_memory(env: Mapping[str, str]) -> PartMemory | None:
    """What the environment of a host says of its workers' memory; None where it says nothing. Pure.

    Raises:
        UsageError: it says something that is no number.

    >>> find_part_memory({"HOLDTRUE_DEVICE_PERCENT": "25", "HOLDTRUE_DEVICE_MEMORY": "4096"})
    PartMemory(percent=25, most_bytes=1024)
    """
    memory, percent = env.get(DEVICE_MEMORY_VARIABLE), env.get(SETTING_VARIABLES["device_percent"])
    if not memory or not percent:
        return None
    if not (memory.isascii() and memory.isdecimal() and percent.isascii() and percent.isdecimal()):
        raise UsageError(
            f"{DEVICE_MEMORY_VARIABLE} is {memory!r} and {SETTING_VARIABLES['device_percent']} is {percent!r}; they are "
            f"a whole number of bytes and one of per cent. Unset them: the scheduler of a cluster sets them."
        )
    most = int(memory) * int(percent) // 100
    return PartMemory(percent=int(percent), most_bytes=most) if most else None  # 0: nobody knows it


def machine_memory(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes of memory that processes of this machine, or of this container, may have in all; 0 if nobody says."""
    known = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        known.append(1024 * _field((proc / "meminfo").read_text(), "MemTotal:"))
    with contextlib.suppress(OSError, ValueError):
        known.append(int((groups / "memory.max").read_text()))
    return min(known, default=0)


def held_bytes(leader: int, proc: Path = Path("/proc")) -> int:
    """Bytes of private and shared memory of a process and all below it; what several of them share counts once.

    Files that are mapped into memory do not count: the kernel can drop them. 0 for a process that has ended.
    """
    family = list(_family(leader, proc))
    at_most = sum(_resident(proc / str(pid)) for pid in family)
    return at_most if len(family) < 2 else min(at_most, sum(_proportional(proc / str(pid)) for pid in family))


def make_first_to_go(pid: int, proc: Path = Path("/proc")) -> None:
    """Have the kernel end this process before others when the machine's memory runs out, before we could look."""
    with contextlib.suppress(OSError):
        (proc / str(pid) / "oom_score_adj").write_text(str(_FIRST_TO_GO))


def _family(leader: int, proc: Path) -> Iterator[int]:
    """A process and its descendants."""
    yield leader
    try:
        threads = os.listdir(proc / str(leader) / "task")
    except OSError:
        return  # it has ended
    for thread in threads:
        with contextlib.suppress(OSError):
            for child in (proc / str(leader) / "task" / thread / "children").read_text().split():
                yield from _family(int(child), proc)


def _resident(process: Path) -> int:
    """Bytes in memory or in swap that are not of files, what others share with it too."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        text = (process / "status").read_text()
        return 1024 * (_field(text, "RssAnon:") + _field(text, "RssShmem:") + _swapped(text, "VmSwap:"))
    return 0


def _proportional(process: Path) -> int:
    """The same, in which what it shares with others counts by its part of them."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        text = (process / "smaps_rollup").read_text()
        return 1024 * (_field(text, "Pss_Anon:") + _field(text, "Pss_Shmem:") + _swapped(text, "SwapPss:"))
    return _resident(process)


def _swapped(text: str, name: str) -> int:
    """KiB of a process that are on disk for want of memory; 0 from a kernel that does not say."""
    return _field(text, name) if name in text else 0


def _field(text: str, name: str) -> int:
    """The number after a name at the beginning of a line."""
    return int(text[text.index(f"{name}") + len(name) :].split(maxsplit=1)[0])
