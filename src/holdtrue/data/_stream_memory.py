"""Where the host's generators keep their states, if that is where this process expects them.

Between two passes caches are cold, and a call that sets a generator's state costs up to ten times what it costs in a loop:
20 to 40 us for three of them, and 120 us to read three. Copies of the same bytes cost 7 us. So states are read and
written where they lie, after a trial on generators of our own: bytes written there must make exactly the state, samples kept
back included, that the generator's own call makes. Where one trial fails, calls are used, with the same bits.

    torch     CPUGeneratorImpl: ... | seed, left, seeded, next, 624 words | samples kept back
    random    _random.Random: object head | position, 624 words           (a sample kept back is an attribute)
    NumPy     RandomState: ... | has_gauss, gauss | ...                   (words: MT19937's documented address)
"""

import ctypes
import platform
import random
import struct
import sys
import threading
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch.utils._python_dispatch import _disable_current_modes

WORDS = 624
_WORD_BYTES = 4 * WORDS
_SEED_BYTES = 20
"""What torch keeps before the words: seed, left, seeded, next."""

_SAMPLE_BYTES = 28
"""Behind the words up to the end of the object: samples kept back, a float and a double, each with a flag, aligned."""

NO_WORD_LEFT = WORDS.to_bytes(4, sys.byteorder)
"""A position of MT19937 at which the next draw makes new words, as after seeding."""
_MARK = 1.2345678901234567
_CACHED = struct.Struct("<i4xd")


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamMemory:
    """The generators that torch, Python and NumPy draw from by default, as bytes of this process."""

    torch_state: memoryview
    """Seed, words and samples kept back of torch's CPU generator."""
    torch_rest: bytes
    """What follows the words in a generator that keeps no sample back."""
    python_state: memoryview
    """Position and words of Python's `random`, without the sample kept back."""
    python: random.Random
    """The generator itself, for the sample kept back."""
    scratch: "_Scratch"
    """A generator of ours for each thread, to be seeded."""
    numpy_gauss: memoryview
    """Whether NumPy's global generator keeps a normal sample back, and which."""

    def torch_image(self, key: int, words: bytes) -> bytes:
        """What `torch_state` is for a generator seeded with `key` that has these words."""
        return key.to_bytes(8, "little") + _SEEDED + words + self.torch_rest

    def python_image(self, key: int) -> bytes:
        """What `python_state` is after `random.seed(key)`."""
        self.scratch.generator.seed(key)
        assert self.scratch.state is not None, "one thread's is laid out as another's"
        return self.scratch.state.tobytes()

    def read_python_gauss(self) -> float | None:
        """The normal sample that Python's `random` keeps back."""
        found: float | None = self.python.gauss_next  # type: ignore[attr-defined]  # absent from the stubs
        return found

    def write_python_gauss(self, sample: float | None) -> None:
        """Make it keep this one back, or none."""
        self.python.gauss_next = sample  # type: ignore[attr-defined]  # as above

    def read_gauss(self) -> float | None:
        """The normal sample that NumPy's global generator keeps back."""
        has_one, sample = _CACHED.unpack(self.numpy_gauss)
        return sample if has_one else None

    def write_gauss(self, sample: float | None) -> None:
        """Make it keep this one back, or none."""
        self.numpy_gauss[:] = NO_GAUSS if sample is None else _CACHED.pack(1, sample)


class _Scratch(threading.local):
    """A generator that is seeded and read by one thread: between the two another may run."""

    def __init__(self) -> None:
        self.generator = random.Random(1)
        self.state = _python_state(self.generator)
        """Its position and words."""


_SEEDED = struct.pack("<iII", 1, 1, 0)  # left = 1: the first draw makes the next words, as after manual_seed
NO_GAUSS = _CACHED.pack(0, 0.0)


@lru_cache(maxsize=1)
def stream_memory() -> StreamMemory | None:
    """The memory of this process's generators; None where it is not laid out as expected, or cannot be told."""
    if (
        platform.python_implementation() != "CPython"
        or sys.byteorder != "little"
        or not sys.platform.startswith("linux")
    ):
        return None
    # As torch is by itself: at level portable the mode that init opened would make other normal samples, and keep none back.
    with _disable_current_modes(), torch._C.DisableTorchFunction():
        return _stream_memory()


def _stream_memory() -> StreamMemory | None:
    scratch = _Scratch()
    python_state = _python_state(random._inst)  # where the module's functions draw from
    torch_place = _torch_place()
    gauss_offset = _gauss_offset()
    own = np.random.mtrand._rand  # where NumPy's functions draw from
    if (
        scratch.state is None
        or python_state is None
        or torch_place is None
        or gauss_offset is None
        or type(own) is not np.random.RandomState
    ):
        return None
    start, stop, rest = torch_place
    found = StreamMemory(
        torch_state=_bytes_at(_address(torch.default_generator) + start, stop - start),
        torch_rest=rest,
        python_state=python_state,
        python=random._inst,
        scratch=scratch,
        numpy_gauss=_bytes_at(id(own) + gauss_offset, _CACHED.size),
    )
    return found if _is_true(found) else None


def _bytes_at(address: int, size: int) -> memoryview:
    """Memory of this process; who owns it lives as long as the process, or as the caller."""
    return memoryview((ctypes.c_uint8 * size).from_address(address)).cast("B")


def _usable_bytes(address: int) -> int:
    """Bytes of the block that the C library has given out at `address`, 0 if it does not tell."""
    try:
        tell = ctypes.CDLL(None).malloc_usable_size
    except (OSError, AttributeError):
        return 0
    tell.restype, tell.argtypes = ctypes.c_size_t, (ctypes.c_void_p,)
    return int(tell(address))


# ---- Python ----


def _python_state(generator: random.Random) -> memoryview | None:
    """Position and words of a generator, or None if they are not behind the object's head."""
    size = 4 + _WORD_BYTES
    head = object.__basicsize__
    base = random.Random.__mro__[1]
    if type(generator) is not random.Random or not head + size <= base.__basicsize__ <= head + size + 8:
        return None
    state = _bytes_at(id(generator) + head, size)
    return state if state.tobytes() == _python_image(generator) else None


def _python_image(generator: random.Random) -> bytes:
    """As `python_state`, by the generator's own call."""
    *words, position = generator.getstate()[1]
    return struct.pack(f"<{WORDS + 1}I", position, *words)


# ---- torch ----


def _address(generator: torch.Generator) -> int:
    return int(generator._cdata)  # type: ignore[attr-defined]  # absent from the stubs


def _torch_place() -> tuple[int, int, bytes] | None:
    """Start and end of the state in torch's CPU generator, from its address, and what follows the words without samples.

    Tried on generators of our own: bytes written there make what `set_state` makes, whatever was drawn before.
    """
    ours, theirs = torch.Generator(), torch.Generator()
    words = np.random.Generator(np.random.Philox(5)).bytes(_WORD_BYTES)
    sizes = [_usable_bytes(_address(g)) for g in (ours, theirs, torch.default_generator)]
    # The object ends where the words do, but for samples kept back: a float and a double, each with a flag.
    if not all(_SEED_BYTES + _WORD_BYTES <= size <= 2 * _WORD_BYTES for size in sizes):
        return None
    state = torch.zeros(5056, dtype=torch.uint8, device="cpu")
    head = state.numpy().view(np.uint64)
    head[0], head[1] = 7, 1 | 1 << 32
    head[3 : 3 + WORDS] = np.frombuffer(words, dtype=np.uint32)
    ours.set_state(state)
    place = ctypes.string_at(_address(ours), sizes[0]).find(words)
    start, stop = place - _SEED_BYTES, min(place + _WORD_BYTES + _SAMPLE_BYTES, *sizes)
    if place < _SEED_BYTES or stop < place + _WORD_BYTES:
        return None
    ours.set_state(state)
    image = ctypes.string_at(_address(ours) + start, stop - start)
    if image[:_SEED_BYTES] != (7).to_bytes(8, "little") + _SEEDED:
        return None
    rest = image[_SEED_BYTES + _WORD_BYTES :]
    for draw in (0, 1, 3):
        _draw_samples(theirs, draw)
        _bytes_at(_address(theirs) + start, stop - start)[:] = image
        ours.set_state(state)
        if not _are_alike(ours, theirs):
            return None
    for draw in (1, 3, 624):  # states with samples kept back travel too
        ours.set_state(state)
        _draw_samples(ours, draw)
        kept = ours.get_state()
        if draw < 16 and not kept[_KEPT]:
            return None  # nothing is shown by a state without one
        image = ctypes.string_at(_address(ours) + start, stop - start)
        _draw_samples(theirs, 2)
        _bytes_at(_address(theirs) + start, stop - start)[:] = image
        ours.set_state(kept)
        if not torch.equal(kept, theirs.get_state()) or not _are_alike(ours, theirs):
            return None
    return start, stop, rest


_KEPT = 5040
"""Flag of the normal sample kept back, in what `get_state` gives; 16 samples or more are made at once, and leave none."""


def _draw_samples(generator: torch.Generator, count: int) -> None:
    """Draw an odd number of normal samples, so that one is kept back, and other numbers."""
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        torch.randn(count, generator=generator, dtype=dtype, device="cpu")
    torch.randint(0, 9, (count,), generator=generator, device="cpu")


def _are_alike(a: torch.Generator, b: torch.Generator) -> bool:
    """Whether two generators have one state, and draw alike."""
    if not torch.equal(a.get_state(), b.get_state()) or a.initial_seed() != b.initial_seed():
        return False
    drawn = [
        [torch.randn(n, generator=g, dtype=torch.float32, device="cpu") for n in (3, 700, 1)] for g in (a, b)
    ]
    return all(torch.equal(x, y) for x, y in zip(*drawn, strict=True)) and torch.equal(
        a.get_state(), b.get_state()
    )


# ---- NumPy ----


def _gauss_offset() -> int | None:
    """Where a `RandomState` keeps a normal sample back, from its address."""
    state = np.random.RandomState(np.random.MT19937(3))
    size = type(state).__basicsize__
    kept = dict(state.get_state(legacy=False))
    state.set_state(kept | {"has_gauss": 1, "gauss": _MARK})
    place = ctypes.string_at(id(state), size).find(_CACHED.pack(1, _MARK)[8:])
    if place < 8:
        return None
    memory = _bytes_at(id(state) + place - 8, _CACHED.size)
    if _CACHED.unpack(memory) != (1, _MARK):
        return None
    memory[:] = NO_GAUSS
    if state.get_state(legacy=False)["has_gauss"] != 0:
        return None
    memory[:] = _CACHED.pack(1, -_MARK)
    told = state.get_state(legacy=False)
    if (told["has_gauss"], told["gauss"]) != (1, -_MARK) or state.randn() != -_MARK:
        return None
    return place - 8 if _CACHED.unpack(memory)[0] == 0 else None


def _is_true(found: StreamMemory) -> bool:
    """Whether the process's own generators say what their memory says; nothing is written."""
    words = torch.default_generator.get_state().numpy().view(np.uint64)[3 : 3 + WORDS].astype(np.uint32)
    return (
        bytes(found.torch_state[_SEED_BYTES : _SEED_BYTES + _WORD_BYTES]) == words.tobytes()
        and int.from_bytes(found.torch_state[:8], "little") == torch.initial_seed()
        and found.python_state.tobytes() == _python_image(random._inst)
        and bool(_CACHED.unpack(found.numpy_gauss)[0]) == bool(np.random.get_state(legacy=False)["has_gauss"])
    )
