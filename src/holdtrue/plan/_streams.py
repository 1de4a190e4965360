"""Keys of random streams: one 64-bit number for each named place in a run."""

import hashlib


def stream_key(seed: int, name: str, *position: int) -> int:
    """64-bit key of the random stream called `name` at `position`.

    Args:
        seed: The plan's seed.
        name: What draws from the stream: `"pass"`, `"fetch"`, `"order"`, `"user"`, `"evaluate"`.
        position: Integers that name the place, such as (step, round, virtual node).

    Returns:
        An integer in [0, 2**64).

    Guarantee:
        Pure, and the same on any host. Different names or positions give independent keys:
        every field is delimited before hashing, so (1, 23) and (12, 3) do not meet.

    Source:
        BLAKE2b, RFC 7693, used as a keyed hash.

    >>> stream_key(0, "pass", 1, 0, 2) == stream_key(0, "pass", 1, 0, 2)
    True
    >>> stream_key(0, "pass", 1, 23) == stream_key(0, "pass", 12, 3)
    False
    """
    text = f"{seed}|{name}|{'|'.join(map(str, position))}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
