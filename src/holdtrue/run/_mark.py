"""A mark that outlives its process: in which pass it is, for whoever finds it dead."""

import mmap
import struct
from typing import Protocol, final

_PLACE = struct.Struct("<4q")
"""1 in a pass and 0 outside, step, round, virtual node."""


class Mark(Protocol):
    """What is told of the passes of a worker."""

    def enter(self, step: int, round_: int, virtual_node: int) -> None:
        """A pass begins."""

    def leave(self) -> None:
        """The pass is over."""


@final
class PassMark:
    """A page of memory that is shared with the host.

    Args:
        fd: The page; None for a mark that nobody reads.
    """

    def __init__(self, fd: int | None = None) -> None:
        self._page: mmap.mmap | bytearray = (
            mmap.mmap(fd, _PLACE.size) if fd is not None else bytearray(_PLACE.size)
        )

    def enter(self, step: int, round_: int, virtual_node: int) -> None:
        """A pass begins."""
        _PLACE.pack_into(self._page, 0, 1, step, round_, virtual_node)

    def leave(self) -> None:
        """The pass is over."""
        self._page[0] = 0
