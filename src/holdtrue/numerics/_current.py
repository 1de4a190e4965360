"""What the mode of this thread says to the forms below it: digits of products, and the random stream."""

import threading

import torch

from holdtrue.errors import NumericsError

from ._philox import RandomStream

DEFAULT_SLICES = 4


class _Current(threading.local):
    slices = DEFAULT_SLICES
    stream: RandomStream | None = None


_current = _Current()


def slices() -> int:
    """Digits of ordinary vectors in matrix products."""
    return _current.slices


def check_slices(slices: int) -> None:
    """Refuse a number of digits for which the kernels have no room.

    Raises:
        NumericsError: it is neither 3 nor 4.
    """
    if slices not in (3, 4):
        raise NumericsError(
            f"slices is {slices}; matrix products have 4 digits a value, or 3 for less time. Pass 3 or 4."
        )


def stream() -> RandomStream:
    """The random stream in use."""
    return torch_stream(0) if _current.stream is None else _current.stream


def is_in_form() -> bool:
    """Whether a portable form is at work in this thread: what it is made of is torch's own."""
    return _current.stream is not None


def torch_stream(key: int, generator: torch.Generator | None = None) -> RandomStream:
    """A stream whose calls are numbered by words of a generator: torch's CPU generator if none is given.

    Those of the CPU are integers (Mersenne twister), the same everywhere; what saves and restores them, such as activation
    checkpointing, so repeats the draws of this stream.
    """
    device = torch.device("cpu") if generator is None else generator.device

    def next_call() -> int:
        return int(torch.empty((), dtype=torch.int64, device=device).random_(generator=generator))

    return RandomStream(key, next_call)


def use(stream: RandomStream | None, slices: int) -> tuple[RandomStream | None, int]:
    """Use a stream and a number of digits in this thread from here on; returns those before."""
    before = _current.stream, _current.slices
    _current.stream, _current.slices = stream, slices
    return before
