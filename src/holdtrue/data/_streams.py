"""The host's random streams: torch's CPU generator, Python's `random` and NumPy's global one, set as one.

Setting all three from a key costs about 12 us, and three times that with cold caches, which is why memory is
written in place. Each keeps all 64 bits of the key (`torch.manual_seed`
keeps 32 on the CPU, and costs 140 us). NumPy's state is not copied, which would cost 32 us each way:
its global bit generator is exchanged for one of ours, and the user's own object is put back untouched.
"""

import ctypes
import hashlib
import random
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.random.mtrand import get_bit_generator, set_bit_generator

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
        self._words = memoryview(state).cast("B")

    def write(self, words: bytes) -> None:
        """Make these 624 words the state."""
        self._words[: 4 * _MT_WORDS] = words
        self._words[4 * _MT_WORDS :] = (
            _NO_WORD_LEFT  # position: the next draw makes new words, as after seeding
        )


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


_NO_WORD_LEFT = _MT_WORDS.to_bytes(4, sys.byteorder)

# Bit generators of ours. `_current` is installed and not saved by anyone, so it may be written in place.
_current: _Twister | None = None
_spare: list[_Twister] = []


@dataclass(frozen=True, slots=True, kw_only=True)
class HostStreams:
    """The host's random streams as `save_host_streams` found them."""

    torch_state: torch.Tensor
    """State of torch's CPU generator, 5056 bytes."""
    python_state: tuple[Any, ...]  # Any: the random module keeps its layout to itself
    """State of Python's `random`."""
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

    key: int
    """From `plan.stream_key`, in [0, 2**64)."""
    torch_state: torch.Tensor
    """What torch's CPU generator takes."""
    numpy_words: bytes
    """What NumPy's takes."""


def prepare_host_streams(key: int) -> StreamStart:
    """The costly half of `set_host_streams`: pure, so it can be done for many keys at once, while caches are warm."""
    words = _expand(key)
    state = _TorchState()
    state.write(key, words)
    # one expansion serves both: read backwards it is another state
    return StreamStart(key=key, torch_state=state.tensor, numpy_words=words[::-1])


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
    torch.default_generator.set_state(start.torch_state)
    random.seed(start.key)
    if _current is None or get_bit_generator() is not _current.bits:
        _current = _spare.pop() if _spare else _Twister()
    _current.write(start.numpy_words)
    set_bit_generator(_current.bits)  # also drops the normal sample that NumPy may have kept


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
    kept = np.random.get_state(legacy=False)
    return HostStreams(
        torch_state=torch.default_generator.get_state(),
        python_state=random.getstate(),
        numpy_bits=bits,
        numpy_gauss=kept["gauss"] if kept["has_gauss"] else None,
        numpy_ours=ours,
    )


def restore_host_streams(saved: HostStreams) -> None:
    """Put the streams back as `save_host_streams` found them."""
    global _current
    torch.default_generator.set_state(saved.torch_state)
    random.setstate(saved.python_state)
    if _current is not None and get_bit_generator() is _current.bits:
        _spare.append(_current)
    _current = saved.numpy_ours
    set_bit_generator(saved.numpy_bits)
    if saved.numpy_gauss is not None:  # installing a bit generator drops the sample that was kept
        kept = dict(np.random.get_state(legacy=False))
        np.random.set_state(kept | {"has_gauss": 1, "gauss": saved.numpy_gauss})
