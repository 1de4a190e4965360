"""Bytes on disk: whole files that appear at once, and files of lines that are complete or absent."""

import contextlib
import errno
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Union

from holdtrue.errors import UsageError

Json = Union[None, bool, int, float, str, Sequence["Json"], Mapping[str, "Json"]]  # noqa: UP007 - it names itself


def to_plain(value: Json) -> Any:  # Any: what json.dumps takes
    """`value` as plain dicts and lists; a float that is not finite becomes its text.

    JSON has no NaN and no infinity; `float` reads the texts back.

    >>> to_plain({"a": (1, float("nan"))})
    {'a': [1, 'nan']}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(float(value))
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    return [to_plain(item) for item in value]


def encode_line(values: Mapping[str, Json]) -> bytes:
    """One JSON object as one line, its newline included.

    >>> encode_line({"step": 3, "loss": 0.1})
    b'{"step":3,"loss":0.1}\\n'
    """
    return json.dumps(to_plain(values), separators=(",", ":"), allow_nan=False).encode() + b"\n"


def write_whole(path: Path, values: Mapping[str, Json]) -> None:
    """Writes a JSON file that is either there with all its content or not there.

    Raises:
        OSError: the disk refuses.
    """
    aside = path.with_name(f".{path.name}.aside")
    with open(aside, "wb") as file:
        file.write(json.dumps(to_plain(values), indent=2, allow_nan=False).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    os.rename(aside, path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Waits until the names in the folder are on disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_whole(path: Path) -> dict[str, Any]:  # Any: JSON values
    """The JSON object in a file.

    Raises:
        UsageError: the file is missing, cannot be read or holds something else.
    """
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UsageError(
            f"{path} is missing; every run directory holds one. Name the folder that was given as --run-dir."
        ) from None
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path} cannot be read ({error}); it holds one JSON object. "
            f"Restore the file, or make the run again."
        ) from error
    if not isinstance(values, dict):
        raise UsageError(
            f"{path} holds a JSON {type(values).__name__}; it must hold one JSON object. "
            f"Restore the file, or make the run again."
        )
    return values


def read_lines(path: Path) -> list[tuple[int, dict[str, Any]]]:  # Any: JSON values
    """Number (from 1) and object of every complete line; what follows the last newline is being written.

    Raises:
        UsageError: a complete line is not a JSON object; the message names file and line.
    """
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read ({error}). Make it readable, or make the run again."
        ) from error
    objects: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(lines, start=1):
        try:
            values = json.loads(line)
        except ValueError:
            values = None
        if not isinstance(values, dict):
            raise line_error(path, number, "is not a JSON object")
        objects.append((number, values))
    return objects


def read_last_lines(path: Path, limit_bytes: int) -> list[dict[str, Any]]:  # Any: JSON values
    """Objects of the complete lines in the last `limit_bytes` of a file; lines that are none are left out.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - limit_bytes))
            lines = file.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    if size > limit_bytes:
        lines = lines[1:]
    objects: list[dict[str, Any]] = []
    for line in lines:
        with contextlib.suppress(ValueError):
            values = json.loads(line)
            if isinstance(values, dict):
                objects.append(values)
    return objects


def line_error(path: Path, number: int, what: str) -> UsageError:
    """The error for a line that a run did not write so."""
    return UsageError(
        f"{path} line {number} {what}; every line of the file is one JSON object written by a run. "
        f"Restore the line or take it out."
    )


class LineFile:
    """A file of lines under one writer: after any crash or full disk every line in it is complete.

    Guarantee:
        A line is one `write` at the end of the file. A line that the disk took in part is cut off
        again, at once or before the next line is written.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            found = os.fstat(self._descriptor).st_size
            self._size = self._end_of_last_line(found)
            self.torn_bytes = found - self._size
            """Bytes after the last complete line that were cut off when the file was opened."""
            self._cut()
        except OSError:
            os.close(self._descriptor)
            raise

    def append(self, values: Mapping[str, Json]) -> None:
        """Writes one line.

        Raises:
            OSError: the disk refuses; the file ends with its last complete line.
        """
        self._cut()
        line = encode_line(values)
        written = os.write(self._descriptor, line)
        if written < len(line):
            self._cut()
            raise OSError(errno.ENOSPC, f"{written} of {len(line)} bytes were written")
        self._size += written

    def close(self) -> None:
        """Gives the file back."""
        os.close(self._descriptor)

    def _cut(self) -> None:
        if os.fstat(self._descriptor).st_size > self._size:
            os.ftruncate(self._descriptor, self._size)

    def _end_of_last_line(self, size: int) -> int:
        """Bytes up to and with the last newline among the first `size`."""
        block = 1 << 16
        for stop in range(size, 0, -block):
            start = max(0, stop - block)
            newline = os.pread(self._descriptor, stop - start, start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
        return 0
