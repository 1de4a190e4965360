"""Moving bytes between passes: one compiled call where torch or NumPy would take one for each tensor.

Between two passes caches are cold, and what a call costs is above all its way through the interpreter and the library.
"""

import ctypes
from collections.abc import Callable, Sequence

import torch

from ._native import library


def byte_taker(
    pieces: Sequence[torch.Tensor], starts: Sequence[torch.Tensor]
) -> Callable[[int], None] | None:
    """A call that copies `pieces` end to end to an address, and then writes `starts` over those that differ.

    Args:
        pieces: CPU tensors, each in one piece of memory; they must live, and lie where they do, as long as the call is used.
        starts: As many, of the same sizes in bytes.

    Returns:
        The call, whose argument is an address with room for all bytes; None where the kernels were not built.
    """
    found = library()
    if found is None:
        return None
    n = len(pieces)
    count = ctypes.c_int64(n)
    sources = (ctypes.c_void_p * n)(*(piece.data_ptr() for piece in pieces))
    values = (ctypes.c_void_p * n)(*(start.data_ptr() for start in starts))
    sizes = (ctypes.c_int64 * n)(*(piece.nbytes for piece in pieces))
    take, address_of = found.ht_take_and_reset, ctypes.c_void_p
    take.restype = None

    def take_to(address: int) -> None:
        take(count, sources, values, sizes, address_of(address))

    return take_to
