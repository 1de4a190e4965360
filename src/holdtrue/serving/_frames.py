"""Messages between server and worker: a JSON head and arrays as they lie in memory. Nothing is unpickled."""

import json
import struct
from asyncio import StreamReader
from collections.abc import Mapping
from dataclasses import dataclass, field
from socket import socket
from typing import Any, final

import numpy as np

from holdtrue.errors import GroupError

DTYPES = ("float32", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")
"""Elements that travel. Workers widen outputs of bfloat16 and float16; a model with any other is refused at the start."""
MOST_FRAME_BYTES = 2**30
_LENGTHS = struct.Struct("<II")

Array = np.ndarray[Any, Any]  # Any: shapes and elements are in the head


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One message."""

    head: Mapping[str, Any]  # Any: JSON values
    arrays: Mapping[str, Array] = field(default_factory=dict)


def pack_frame(frame: Frame) -> list[bytes]:
    """A message as pieces to send one after the other.

    >>> unpack_frame(*pack_frame(Frame(head={"a": 1}, arrays={"x": np.zeros(2, np.int8)}))[1:]).arrays
    {'x': array([0, 0], dtype=int8)}
    """
    arrays = {name: np.ascontiguousarray(array) for name, array in frame.arrays.items()}
    places = [[name, array.dtype.name, list(array.shape)] for name, array in arrays.items()]
    head = json.dumps({"head": dict(frame.head), "arrays": places}).encode()
    body = b"".join(array.tobytes() for array in arrays.values())
    return [_LENGTHS.pack(len(head), len(body)), head, body]


def unpack_frame(head: bytes, body: bytes | bytearray) -> Frame:
    """The message that was packed; its arrays are views of `body`.

    Raises:
        GroupError: it is no such message.
    """
    try:
        values = json.loads(head)
        arrays: dict[str, Array] = {}
        at = 0
        for name, dtype, shape in values["arrays"]:
            if dtype not in DTYPES or min(shape, default=0) < 0:
                raise ValueError(f"array {name!r} of {dtype} and shape {shape}")
            count = int(np.prod(shape, dtype=np.int64))
            arrays[str(name)] = np.frombuffer(body, dtype=dtype, count=count, offset=at).reshape(shape)
            at += arrays[str(name)].nbytes
        return Frame(head=dict(values["head"]), arrays=arrays)
    except (ValueError, KeyError, TypeError) as error:
        raise GroupError(
            f"a message between server and worker cannot be read: {error}. Use the same holdtrue for both."
        ) from None


def _lengths(prefix: bytes) -> tuple[int, int]:
    head, body = _LENGTHS.unpack(prefix)
    if head + body > MOST_FRAME_BYTES:
        raise GroupError(
            f"a message between server and worker has {head + body} bytes; it has at most {MOST_FRAME_BYTES}. "
            f"Make the passes smaller."
        )
    return head, body


async def read_frame(reader: StreamReader) -> Frame:
    """The next message.

    Raises:
        asyncio.IncompleteReadError: the other side ended.
        GroupError: what comes is no message.
    """
    head, body = _lengths(await reader.readexactly(_LENGTHS.size))
    return unpack_frame(await reader.readexactly(head), await reader.readexactly(body))


def write_frame(line: socket, frame: Frame) -> None:
    """Send a message from a worker."""
    line.sendall(b"".join(pack_frame(frame)))


def take_frame(line: socket) -> Frame | None:
    """The next message at a worker; None once the server has ended.

    Blocks:
        Until there is one.
    """
    prefix = _take(line, _LENGTHS.size)
    if prefix is None:
        return None
    head, body = _lengths(bytes(prefix))
    first, second = _take(line, head), _take(line, body)
    return None if first is None or second is None else unpack_frame(bytes(first), second)


def _take(line: socket, count: int) -> bytearray | None:
    found = bytearray(count)
    view = memoryview(found)
    at = 0
    while at < count:
        got = line.recv_into(view[at:])
        if got == 0:
            return None
        at += got
    return found
