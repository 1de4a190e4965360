"""Several messages in the one that a gather takes of each worker."""

import struct
from collections.abc import Sequence


def join_messages(parts: Sequence[bytes]) -> bytes:
    """Several messages as one.

    >>> part_messages(join_messages([b"one", b"", b"two"]))
    [b'one', b'', b'two']
    """
    return b"".join(struct.pack("<Q", len(part)) + part for part in parts)


def part_messages(joined: bytes) -> list[bytes]:
    """The messages that `join_messages` joined."""
    parts: list[bytes] = []
    at = 0
    while at < len(joined):
        (length,) = struct.unpack_from("<Q", joined, at)
        parts.append(joined[at + 8 : at + 8 + length])
        at += 8 + length
    return parts
