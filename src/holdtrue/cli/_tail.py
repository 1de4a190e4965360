"""Files that grow, read line by line."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import final

_LOOK_EVERY_S = 0.2
"""The standard library cannot wait for a file to grow."""
_PIECE_BYTES = 1 << 20


@final
class Tail:
    """The whole lines of one file, as they come."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._position = 0
        self._rest = b""

    def take(self) -> list[str]:
        """Lines that were completed since the last call, without their newlines."""
        try:
            with self.path.open("rb") as file:
                if os.fstat(file.fileno()).st_size < self._position:  # a torn line was cut off on a resume
                    self._position, self._rest = 0, b""
                file.seek(self._position)
                data = file.read(_PIECE_BYTES)
        except FileNotFoundError:
            return []
        self._position += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [line.decode(errors="replace") for line in lines]

    def take_rest(self) -> list[str]:
        """The unfinished last line, once nothing follows."""
        rest, self._rest = self._rest, b""
        return [rest.decode(errors="replace")] if rest else []


def follow(find: Callable[[], list[Path]], *, goes_on: Callable[[], bool]) -> Iterator[tuple[Path, str]]:
    """The lines of the files that `find` gives, new files too, with the path of each.

    Args:
        find: The files that there are now.
        goes_on: Whether more may come; after it said no, all is read once more.

    Blocks:
        Between lines, until `goes_on` says no.
    """
    tails: dict[Path, Tail] = {}
    while True:
        is_last = not goes_on()
        for path in find():
            tails.setdefault(path, Tail(path))
        found = [(path, line) for path, tail in tails.items() for line in tail.take()]
        yield from found
        if found:
            continue
        if is_last:
            yield from ((path, line) for path, tail in tails.items() for line in tail.take_rest())
            return
        time.sleep(_LOOK_EVERY_S)
