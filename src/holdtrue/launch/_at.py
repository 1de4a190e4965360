"""Where a worker was when it died: a page of memory that it shares with its host."""

import mmap
import os
import struct
from dataclasses import dataclass
from typing import final

_LAYOUT = struct.Struct("<4q")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class At:
    """The pass in which a worker was."""

    step: int
    round: int
    """Round within the step, from 0."""
    virtual_node: int


@final
class AtPage:
    """A page that a worker writes at each pass and its host reads once the worker is dead.

    Four little-endian int64: 1 in a pass and 0 outside, step, round, virtual node. It outlives the worker, whatever
    killed it, and costs the worker one copy into memory for a pass.
    """

    def __init__(self) -> None:
        """Make an empty page; close it with `close`."""
        self.fd = os.memfd_create("holdtrue-at")
        os.ftruncate(self.fd, mmap.PAGESIZE)
        self._page = mmap.mmap(self.fd, mmap.PAGESIZE)

    def read(self) -> At | None:
        """The pass that was written last; None outside a pass."""
        is_in_pass, step, round_, virtual_node = _LAYOUT.unpack_from(self._page)
        return At(step=step, round=round_, virtual_node=virtual_node) if is_in_pass == 1 else None

    def close(self) -> None:
        """Give the page back."""
        self._page.close()
        os.close(self.fd)
