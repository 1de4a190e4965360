"""Random numbers from counters: Philox4x32-10, as integers, the same on every device and for every split.

Source: Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.
"""

import ctypes
import itertools
import math
from collections.abc import Callable

import torch

from . import _functions as f
from ._native import count, native, pointer

MASK = 0xFFFFFFFF


def words(key: int, call: int, numbers: int, device: torch.device, *, first: int = 0) -> torch.Tensor:
    """32-bit random words as int64 in 0..2^32-1.

    Args:
        key: 64 bits: the stream.
        call: 64 bits: the number of the call in the stream.
        numbers: How many.
        device: Where they go.
        first: Index of the first word, a multiple of 4: any split of a call gives the same words.
    """
    blocks = -(-numbers // 4)
    at = torch.empty(0, device=device)
    found = native(at)
    if found is None:
        return _reference(key, call, blocks, device, first // 4)[:numbers]
    out = torch.empty(blocks * 4, dtype=torch.int32)
    found[0].ht_philox(_uint64(key), _uint64(call), count(first // 4), count(blocks), pointer(out), found[1])
    return (out.to(torch.int64) & MASK)[:numbers]


def _uint64(value: int) -> ctypes.c_uint64:
    return ctypes.c_uint64(value & (2**64 - 1))


def _reference(key: int, call: int, blocks: int, device: torch.device, first: int) -> torch.Tensor:
    at = torch.arange(first, first + blocks, dtype=torch.int64, device=device)
    c0, c1 = at & MASK, (at >> 32) & MASK
    c2, c3 = torch.full_like(at, call & MASK), torch.full_like(at, (call >> 32) & MASK)
    k0, k1 = key & MASK, (key >> 32) & MASK
    for _ in range(10):
        # The low 64 bits of a product of two 32-bit words: wrapping int64 has them.
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = ((p1 >> 32) & MASK) ^ c1 ^ k0, p1 & MASK, ((p0 >> 32) & MASK) ^ c3 ^ k1, p0 & MASK
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return torch.stack([c0, c1, c2, c3], 1).reshape(-1)


class RandomStream:
    """Numbers of one stream; each call takes the next call number.

    Args:
        key: 64 bits, such as `stream_key(seed, "pass", step, round, virtual_node)`.
        next_call: Gives the number of each call; 0, 1, 2, ... by default.
    """

    def __init__(self, key: int, next_call: Callable[[], int] | None = None) -> None:
        self.key = key % 2**64
        self._next_call = next_call or itertools.count().__next__

    def words(self, numbers: int, device: torch.device) -> torch.Tensor:
        """The next call's words."""
        return words(self.key, self._next_call(), numbers, device)

    def uniform(self, shape: torch.Size, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        """Numbers in [0, 1): multiples of 2^-24, or of 2^-53 for float64."""
        numbers = math.prod(shape)
        if dtype == torch.float64:
            w = self.words(2 * numbers, device).reshape(2, numbers)
            whole = ((w[0] << 21) | (w[1] >> 11)).double()
            return (whole * 2.0**-53).reshape(shape)
        return ((self.words(numbers, device) >> 8).float() * 2.0**-24).reshape(shape).to(dtype)

    def normal(self, shape: torch.Size, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        """Standard normal numbers by Box and Muller, in float64, rounded once."""
        numbers = math.prod(shape)
        pairs = (numbers + 1) // 2
        w = self.words(2 * pairs, device).double().reshape(2, pairs)
        radius = f.sqrt64(-2.0 * f.log64((w[0] + 1.0) * 2.0**-32))
        angle = w[1] * (2.0**-32 * 2.0 * math.pi)
        both = torch.cat([radius * f.cos64(angle), radius * f.sin64(angle)])
        return both[:numbers].reshape(shape).to(dtype)

    def bernoulli(self, p: float, shape: torch.Size, device: torch.device) -> torch.Tensor:
        """True with probability p, to 32 bits."""
        bound = min(2**32, max(0, round(p * 2**32)))
        return (self.words(math.prod(shape), device) < bound).reshape(shape)

    def integers(self, low: int, high: int, shape: torch.Size, device: torch.device) -> torch.Tensor:
        """Integers in [low, high), high - low at most 2^31, by the high part of a product (bias below 2^-32 each)."""
        span = high - low
        return (((self.words(math.prod(shape), device) * span) >> 32) + low).reshape(shape)

    def permutation(self, n: int, device: torch.device) -> torch.Tensor:
        """A permutation of 0..n-1: a stable sort of 63-bit words."""
        w = self.words(2 * n, device).reshape(2, n)
        return torch.argsort(((w[0] << 31) | (w[1] >> 1)), stable=True)
