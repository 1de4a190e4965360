"""The compiled kernels, if they were built, and which instruction set they use.

Without them every function of this room still gives the same bits, by torch operations, slower. The library has a
plain C ABI: it knows neither Python's nor torch's headers, so one build serves every version of both.
"""

import ctypes
import os
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch

from holdtrue.errors import NumericsError

EngineName = Literal["reference", "generic", "avx2", "vnni"]
CudaEngineName = Literal["reference", "triton"]

ENGINES: tuple[EngineName, ...] = ("reference", "generic", "avx2", "vnni")
"""From the slowest to the fastest; `reference` is torch operations alone."""

CUDA_ENGINES: tuple[CudaEngineName, ...] = ("reference", "triton")
"""Those for matrix products on CUDA, from the slower to the faster; `_cuda.py` chooses."""

VARIABLE = "HOLDTRUE_NUMERICS_ENGINE"
"""Environment variable that names an engine, for devices that have it; others, and by default all, use their fastest. The
CPU's kernels see it when they are called first, and after `force_engine`."""

ABI_VERSION = 9

_forced: EngineName | CudaEngineName | None = None


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None where they were not built."""
    for path in sorted(Path(__file__).parent.glob("_kernels*.so")):
        found = load(path)
        if found.ht_abi_version() == ABI_VERSION:
            return found
    return None


def load(path: Path | str) -> ctypes.CDLL:
    """Kernels in a file, with the types of the arguments of those that are called most: they take plain integers."""
    found = ctypes.CDLL(str(path))
    if found.ht_abi_version() != ABI_VERSION:
        return found  # an older build, which library() leaves alone
    place, number, kind = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    side: list[Any] = [
        place,
        number,
        number,
        number,
    ]  # Any: types of ctypes have no common one that it exports
    found.ht_products.argtypes = [*side, *side, place, *[number] * 4, kind, place, kind]
    for name in ("ht_sum_f32", "ht_sum_f64"):
        getattr(found, name).argtypes = [place, place, number, number, number, kind]
    found.ht_function.argtypes = [kind, place, place, number, kind]
    found.ht_recurrent.argtypes = [kind, *[place] * 9, *[number] * 3, kind, kind, kind]
    found.ht_recurrent_back.argtypes = [kind, *[place] * 16, *[number] * 3, kind, kind, kind]
    return found


@lru_cache(maxsize=1)
def engines() -> tuple[EngineName, ...]:
    """Engines that this installation has on this processor, from the slowest to the fastest."""
    found = library()
    return ENGINES[:1] if found is None else ENGINES[: 2 + found.ht_best_engine()]


def named_engine() -> str | None:
    """The engine that was named, here or in the environment."""
    return _forced or os.environ.get(VARIABLE) or None


def engine() -> EngineName:
    """The engine in use on the CPU.

    Raises:
        NumericsError: an engine was named that is not here.
    """
    return _choose(named_engine())


@lru_cache(maxsize=8)
def _choose(wanted: str | None) -> EngineName:
    here = engines()
    if not wanted or (wanted in CUDA_ENGINES and wanted not in ENGINES):
        return here[-1]
    for name in here:
        if name == wanted:
            return name
    raise NumericsError(
        f"the numerics engine {wanted!r} is not here; this installation has {', '.join(here)} on this processor. "
        f"Name one of them in {VARIABLE}, or none for the fastest: the bits are the same."
    )


def force_engine(name: EngineName | CudaEngineName | None) -> None:
    """Use one engine from here on, or with None the environment's again."""
    global _forced
    _forced = name
    _kernels.cache_clear()


def native(*tensors: torch.Tensor) -> tuple[ctypes.CDLL, int] | None:
    """The library and the number of its engine if it can serve CPU tensors like these, else None."""
    for t in tensors:
        if not t.is_cpu:
            return None
    return _kernels()


@lru_cache(maxsize=1)
def _kernels() -> tuple[ctypes.CDLL, int] | None:
    """The library and the number of the engine in use; None for torch operations alone."""
    name, found = engine(), library()
    return None if name == "reference" or found is None else (found, ENGINES.index(name) - 1)


def pointer(tensor: torch.Tensor) -> ctypes.c_void_p:
    """Where a CPU tensor's first element lies; the caller keeps the tensor alive."""
    return ctypes.c_void_p(tensor.data_ptr())


def count(value: int) -> ctypes.c_int64:
    """An integer as the kernels take it."""
    return ctypes.c_int64(value)
