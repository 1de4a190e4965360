"""Devices of this machine that the jobs of a cluster share: each is leased to one worker, or to jobs of its parts.

FOLDER/look     held for a moment by whoever looks for a device
FOLDER/NAME     held by the worker that drives the device; in it, which shared device it is, if it is one

A worker holds its lease itself, and so do processes that it starts: whoever is killed, a lease ends with the last process
that could use the device, and never before.
"""

import fcntl
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import final

from holdtrue.errors import UsageError

LEASES_VARIABLE = "HOLDTRUE_DEVICE_LEASES"
"""Devices that the hosts of a job may lease, as JSON; the scheduler of a cluster sets it."""
LEASE_WAIT_S = 15.0
"""For how long a host tries to lease a device: more than what its own dead workers' processes have to end."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A device that one worker may drive as long as a descriptor is open."""

    name: str
    """As `CUDA_VISIBLE_DEVICES` names it."""
    fd: int
    """To be inherited by the worker, and closed here."""

    @property
    def variables(self) -> dict[str, str]:
        """Variables of the worker: it sees this device alone."""
        return {"CUDA_VISIBLE_DEVICES": self.name}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Leases:
    """Devices that may be leased."""

    folder: Path
    """Of the leases of all jobs of the cluster; made if it is missing."""
    names: tuple[str, ...]
    """The devices, as `CUDA_VISIBLE_DEVICES` names them."""
    slot: int = -1
    """Shared device of which a job of a part has some; -1 for whole devices."""

    def to_text(self) -> str:
        """As JSON, for `find_leases`."""
        return json.dumps({"folder": str(self.folder), "names": self.names, "slot": self.slot})

    def take(self) -> Lease | None:
        """Lease a device: for a whole one, one that nobody has; for a part, the one that is this shared device.

        Returns:
            None if none is free now, or somebody else looks just now. It does not wait: try again later.

        Guarantee:
            A device is leased to one worker, or to workers of the same shared device alone.
        """
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        look = os.open(self.folder / "look", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(look, fcntl.LOCK_EX | fcntl.LOCK_NB)  # held by others for some microseconds
            except BlockingIOError:
                return None
            mine = f"slot {self.slot}" if self.slot >= 0 else "whole"
            if self.slot >= 0:
                for name in self.names:
                    if (fd := self._share(name, mine)) is not None:
                        return Lease(name=name, fd=fd)
            for name in self.names:
                if (fd := self._open(name, fcntl.LOCK_EX)) is not None:
                    os.ftruncate(fd, 0)
                    os.pwrite(fd, mine.encode(), 0)
                    if self.slot >= 0:
                        fcntl.flock(fd, fcntl.LOCK_SH)
                    return Lease(name=name, fd=fd)
            return None
        finally:
            os.close(look)

    def _share(self, name: str, mine: str) -> int | None:
        """A shared lock on a device that others share as the same one."""
        alone = self._open(name, fcntl.LOCK_EX)
        if alone is not None:  # nobody has it: what is written in it is old
            os.close(alone)
            return None
        fd = self._open(name, fcntl.LOCK_SH)
        if fd is not None and os.pread(fd, 32, 0).decode() != mine:
            os.close(fd)
            return None
        return fd

    def _open(self, name: str, how: int) -> int | None:
        fd = os.open(self.folder / name.replace("/", "-"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with suppress(BlockingIOError):
            fcntl.flock(fd, how | fcntl.LOCK_NB)
            return fd
        os.close(fd)
        return None


def find_leases(env: Mapping[str, str]) -> Leases | None:
    """The devices that a host may lease; None where it has its machine's. Pure.

    Raises:
        UsageError: the variable is not what the scheduler writes.

    >>> leases = Leases(folder=Path("/c"), names=("0", "1"), slot=2)
    >>> find_leases({LEASES_VARIABLE: leases.to_text()}) == leases, find_leases({})
    (True, None)
    """
    text = env.get(LEASES_VARIABLE)
    if not text:
        return None
    try:
        values = json.loads(text)
        return Leases(
            folder=Path(values["folder"]), names=tuple(map(str, values["names"])), slot=int(values["slot"])
        )
    except (ValueError, KeyError, TypeError):
        raise UsageError(
            f"{LEASES_VARIABLE} is {text!r}; the scheduler of a cluster writes it. Unset it."
        ) from None


def visible_devices(env: Mapping[str, str], present: int) -> tuple[str, ...]:
    """Names of the CUDA devices that a process sees, for `CUDA_VISIBLE_DEVICES`. Pure.

    Args:
        env: Its environment.
        present: Devices that it sees.

    >>> visible_devices({"CUDA_VISIBLE_DEVICES": "3,GPU-8f"}, 2), visible_devices({}, 2)
    (('3', 'GPU-8f'), ('0', '1'))
    """
    listed = [entry.strip() for entry in env.get("CUDA_VISIBLE_DEVICES", "").split(",") if entry.strip()]
    return tuple(listed[:present]) if listed else tuple(str(i) for i in range(present))
