"""The host's random streams: torch's CPU generator, Python's `random` and NumPy's global one, set as one.

Where the generators' memory is known (`_stream_memory`), states are copied there; elsewhere the generators' own calls do
the same, which costs several times as much with the caches that a pass leaves. Each keeps all 64 bits of the key
(`torch.manual_seed` keeps 32 on the CPU, and costs 140 us). NumPy's global bit generator is exchanged for one of ours,
and the user's own object is put back untouched.
"""

import ctypes
import hashlib
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.random.mtrand import get_bit_generator, set_bit_generator

from ._stream_memory import NO_GAUSS, NO_WORD_LEFT, stream_memory

# Layout of the state of torch's CPU generator, in 64-bit words: seed; left and seeded as two 32-bit halves;
# next; one word for each of the 624 words of MT19937; then cached normal samples: none.
_TORCH_WORDS = 632
_MT_WORDS = 624
_LEFT_1_SEEDED_1 = 1 | 1 << 32  # left = 1: the first draw makes the next 624 words, as after manual_seed


class _Twister:
    """A bit generator of ours whose words can be written: seeding it with 64 bits would cost 9 us, this costs 1."""

    def __init__(self) -> None:
        self.bits = np.random.MT19937(0)
        # NumPy's documented address of the state: 624 words of 32 bits, then the position.
        state = (ctypes.c_uint32 * (_MT_WORDS + 1)).from_address(self.bits.ctypes.state_address)
        self.state = memoryview(state).cast("B")
        """Words and position."""


class _TorchState:
    """The state of torch's CPU generator as a tensor over memory of ours, in which only the words change."""

    def __init__(self) -> None:
        memory = bytearray(8 * _TORCH_WORDS)
        self._head = memoryview(memory).cast("Q")
        self._words = memoryview(memory).cast("I")[
            6 : 6 + 2 * _MT_WORDS : 2
        ]  # the low halves of words 3, 4, ...
        self._head[1] = _LEFT_1_SEEDED_1
        self.tensor = torch.frombuffer(memory, dtype=torch.uint8)

    def write(self, key: int, words: bytes) -> None:
        """Make the state that of a generator seeded with `key`."""
        self._head[0] = key
        self._words[:] = memoryview(words).cast("I")


# Bit generators of ours. `_current` is installed and not saved by anyone, so it may be written in place.
_current: _Twister | None = None
_spare: list[_Twister] = []


@dataclass(frozen=True, slots=True, kw_only=True)
class HostStreams:
    """The host's random streams as `save_host_streams` found them."""

    torch_state: torch.Tensor | bytes
    """State of torch's CPU generator: 5056 bytes as a tensor, or those of its memory."""
    python_state: tuple[Any, ...] | bytes  # Any: the random module keeps its layout to itself
    """State of Python's `random`, or its memory."""
    python_gauss: float | None
    """The second of a pair of normal samples that `random` had kept for the next call, beside its memory."""
    numpy_bits: np.random.BitGenerator
    """NumPy's global bit generator itself: it rests until it is put back."""
    numpy_gauss: float | None
    """The second of a pair of normal samples that NumPy had kept for the next call."""
    numpy_ours: "_Twister | None"
    """The bit generator's owner here, if `set_host_streams` installed it."""


def torch_state_of(key: int) -> torch.Tensor:
    """State of torch's CPU generator for the 64-bit `key`: what `Generator.set_state` takes.

    Args:
        key: From `plan.stream_key`, in [0, 2**64).

    Returns:
        5056 bytes, uint8, on the CPU.

    Guarantee:
        Pure; different keys give different states.

    Source:
        SHAKE128 (FIPS 202) expands the key into the 624 words of MT19937.

    >>> torch_state_of(7).shape
    torch.Size([5056])
    """
    state = _TorchState()
    state.write(key, _expand(key))
    return state.tensor


def _expand(key: int) -> bytes:
    """The 624 words of a Mersenne twister."""
    return hashlib.shake_128(key.to_bytes(8, "little")).digest(4 * _MT_WORDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamStart:
    """The host's streams of one key, ready to be set."""

    torch_state: torch.Tensor | bytes
    """What torch's CPU generator takes, as a tensor or in its memory."""
    python_state: int | bytes
    """What `random` takes: the key to seed it with, or its memory."""
    numpy_state: bytes
    """What NumPy's takes: words and position."""


def prepare_host_streams(key: int) -> StreamStart:
    """The costly half of `set_host_streams`: pure, so it can be done for many keys at once, while caches are warm.

    Args:
        key: From `plan.stream_key`, in [0, 2**64).
    """
    words, memory = _expand(key), stream_memory()
    # One expansion serves two: read backwards it is another state. The position says that the next draw makes new words.
    numpy_state = words[::-1] + NO_WORD_LEFT
    if memory is not None:
        return StreamStart(
            torch_state=memory.torch_image(key, words),
            python_state=memory.python_image(key),
            numpy_state=numpy_state,
        )
    state = _TorchState()
    state.write(key, words)
    return StreamStart(torch_state=state.tensor, python_state=key, numpy_state=numpy_state)


def set_host_streams(start: int | StreamStart) -> None:
    """Set torch's CPU generator, `random` and NumPy's global generator from one key.

    Args:
        start: A key from `plan.stream_key`, in [0, 2**64), or what `prepare_host_streams` made of one.

    Guarantee:
        What is drawn next depends on the key alone. Streams saved before are not touched.
    """
    global _current
    if isinstance(start, int):
        start = prepare_host_streams(start)
    memory = stream_memory()
    if memory is None:
        _set_by_calls(start)
    else:
        memory.torch_state[:] = start.torch_state  # type: ignore[assignment]  # bytes where there is memory
        memory.python_state[:] = start.python_state  # type: ignore[assignment]  # as above
        memory.write_python_gauss(None)
    if _current is None or get_bit_generator() is not _current.bits:
        _current = _spare.pop() if _spare else _Twister()
        _current.state[:] = start.numpy_state
        set_bit_generator(_current.bits)  # also drops the normal sample that NumPy may have kept
        return
    _current.state[:] = start.numpy_state
    if memory is None:
        set_bit_generator(_current.bits)  # as above
    else:
        memory.numpy_gauss[:] = NO_GAUSS


def _set_by_calls(start: StreamStart) -> None:
    assert isinstance(start.torch_state, torch.Tensor), "there is no memory"
    torch.default_generator.set_state(start.torch_state)
    random.seed(start.python_state)


def save_host_streams() -> HostStreams:
    """The streams as they are, for `restore_host_streams`.

    Guarantee:
        Saves may nest. Between a save and the first `set_host_streams` nobody may draw: NumPy's
        generator is kept by reference, and `set_host_streams` is what takes it out of use.
    """
    global _current
    bits = get_bit_generator()
    ours = _current if _current is not None and bits is _current.bits else None
    if ours is not None:
        _current = None
    memory = stream_memory()
    if memory is not None:
        return HostStreams(
            torch_state=memory.torch_state.tobytes(),
            python_state=memory.python_state.tobytes(),
            python_gauss=memory.read_python_gauss(),
            numpy_bits=bits,
            numpy_gauss=memory.read_gauss(),
            numpy_ours=ours,
        )
    kept = np.random.get_state(legacy=False)
    return HostStreams(
        torch_state=torch.default_generator.get_state(),
        python_state=random.getstate(),
        python_gauss=None,
        numpy_bits=bits,
        numpy_gauss=kept["gauss"] if kept["has_gauss"] else None,
        numpy_ours=ours,
    )


def restore_host_streams(saved: HostStreams) -> None:
    """Put the streams back as `save_host_streams` found them."""
    global _current
    if _current is not None and get_bit_generator() is _current.bits:
        _spare.append(_current)
    _current = saved.numpy_ours
    set_bit_generator(saved.numpy_bits)  # which drops the sample that was kept
    memory = stream_memory()
    if memory is not None:
        memory.torch_state[:] = saved.torch_state  # type: ignore[assignment]  # bytes where there is memory
        memory.python_state[:] = saved.python_state  # type: ignore[assignment]  # as above
        memory.write_python_gauss(saved.python_gauss)
        memory.write_gauss(saved.numpy_gauss)
        return
    assert isinstance(saved.torch_state, torch.Tensor), "there is no memory"
    assert isinstance(saved.python_state, tuple), "there is no memory"
    torch.default_generator.set_state(saved.torch_state)
    random.setstate(saved.python_state)
    if saved.numpy_gauss is not None:
        kept = dict(np.random.get_state(legacy=False))
        np.random.set_state(kept | {"has_gauss": 1, "gauss": saved.numpy_gauss})
