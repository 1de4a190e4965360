"""Which engine multiplies on a CUDA device: kernels of Triton where they are here and exact, else torch operations.

Triton comes with torch's builds for CUDA, and compiles the kernels for the device at their first use. That needs a C compiler,
which not every machine has: without one the bits come from torch operations, slower, and a warning says so. Nothing here was
measured on a device; the tests run the kernels in Triton's interpreter.
"""

import importlib.util
import math
import subprocess
import warnings
from contextlib import nullcontext
from functools import lru_cache
from types import ModuleType

import torch

from holdtrue.errors import NumericsError

from ._matmul import MORE_SLICES, PIECE, reference
from ._native import VARIABLE, CudaEngineName, named_engine

OLDEST = (8, 0)
"""Compute capability from which tensor cores multiply bytes as the kernels are laid out."""
ROOM_BYTES = 160 * 1024


def cuda_engine(device: torch.device) -> CudaEngineName:
    """The engine that multiplies on a CUDA device. The first question about a device compiles and tests a product.

    Raises:
        NumericsError: 'triton' was named and cannot be used there, or it is not exact there.
    """
    index = torch.cuda.current_device() if device.index is None else device.index
    return _engine_for(index, 4, is_long=False, is_small=True)


def _engine_for(index: int, slices: int, *, is_long: bool, is_small: bool) -> CudaEngineName:
    """The engine of products of one layout: kernels of each are built and tested before their first use."""
    wanted = named_engine()
    if wanted == "reference":
        return "reference"
    why_not = _why_not(index, slices, is_long=is_long, is_small=is_small)
    if why_not is None:
        return "triton"
    if wanted == "triton":
        raise NumericsError(
            f"the numerics engine 'triton' cannot be used on cuda:{index}: {why_not}. Name 'reference' in {VARIABLE}, or none "
            f"for the fastest that is there: the bits are the same."
        )
    return "reference"


def multiply(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor, slices: int) -> bool:
    """Products of float32 tensors on one CUDA device into `out`, with sizes as `matmul` has checked them.

    Returns:
        False if torch operations are the engine there; then nothing is written.
    """
    a, b, out = (x.unsqueeze(0) if x.dim() == 2 else x for x in (a, b, out))
    index, is_long = a.device.index, a.shape[2] > PIECE
    batch, M, N = out.shape
    # Larger tiles would be fewer than the device has multiprocessors.
    tiles = batch * math.ceil(M / 128) * math.ceil(N / 64)
    is_small = tiles < torch.cuda.get_device_properties(index).multi_processor_count
    if _engine_for(index, slices, is_long=is_long, is_small=is_small) == "reference":
        return False
    kernels = _kernels()
    with torch.cuda.device(index):
        chosen = kernels.choose_tiles(slices, is_long=is_long, is_small=is_small, has_room=_has_room(index))
        kernels.products(a, b, out, slices, chosen)
    return True


@lru_cache(maxsize=1)
def _kernels() -> ModuleType:
    from . import _triton  # only here: it imports triton

    return _triton


@lru_cache(maxsize=64)
def _has_room(index: int) -> bool:
    # Older versions of torch do not say it; then the smaller tiles fit.
    return (
        int(getattr(torch.cuda.get_device_properties(index), "shared_memory_per_block_optin", 0))
        >= ROOM_BYTES
    )


@lru_cache(maxsize=256)
def _why_not(index: int, slices: int, *, is_long: bool, is_small: bool) -> str | None:
    """Why Triton cannot be used on a device for products of one layout, or None, once they were tested.

    Raises:
        NumericsError: they are not exact.
    """
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    capability = torch.cuda.get_device_capability(index)
    if capability < OLDEST:
        return f"its compute capability is {capability[0]}.{capability[1]}, and the kernels need 8.0"
    try:
        from triton.errors import TritonError

        check_products(index, slices, is_long=is_long, is_small=is_small)
    except NumericsError:
        raise
    except (
        *(TritonError, ImportError, RuntimeError, OSError, subprocess.SubprocessError),
        AssertionError,  # Triton's, where it finds no libcuda
    ) as error:
        # Wrong bits are refused; what cannot be built gives none.
        first = (str(error).strip().splitlines() or ["no message"])[0]
        reason = f"its kernels cannot be built ({type(error).__name__}: {first[:200]})"
        warnings.warn(
            f"matrix products on cuda:{index} are computed by torch operations, with the same bits and slower: {reason}. "
            f"Install what is missing, or set {VARIABLE}=reference.",
            RuntimeWarning,
            stacklevel=2,
        )
        return reason
    return None


@lru_cache(maxsize=256)
def check_products(index: int | None, slices: int, *, is_long: bool, is_small: bool) -> None:
    """Test the kernels that such products take, once in a process; None for `index` is the CPU, in Triton's interpreter.

    Raises:
        NumericsError: they are not exact.
    """
    device = torch.device("cpu") if index is None else torch.device("cuda", index)
    with nullcontext() if index is None else torch.cuda.device(index):
        tiles = _kernels().choose_tiles(
            slices, is_long=is_long, is_small=is_small, has_room=index is None or _has_room(index)
        )
        for kind, digits in zip(tiles, (slices, MORE_SLICES), strict=True):
            for first, second in ((64, 64), (-64, 64)):
                _check_bounds(device, digits, PIECE + kind.k if is_long else PIECE, kind, first, second)
        _check_values(device, slices, PIECE + 70 if is_long else 133, tiles)


def _check_bounds(device: torch.device, slices: int, K: int, tile: object, first: int, second: int) -> None:
    """Sums of the largest digits over the longest piece, by one tile."""
    kernels = _kernels()
    M, N = 2, 3

    def vectors(size: int, rows: int, digit: int) -> tuple[object, torch.Tensor]:
        facts = torch.zeros((1, size, kernels.FACTS), dtype=torch.int32, device=device)
        facts[:, :, 0] = 0x3F800000  # the largest is 1.0, whose exponent is 1
        order = torch.arange(size, dtype=torch.int32, device=device)[None]
        wides = torch.tensor([size if slices == MORE_SLICES else 0], dtype=torch.int32, device=device)
        known = kernels.Vectors(bits=facts, facts=facts, order=order, wides=wides)
        return known, torch.full((1, MORE_SLICES, rows, K), digit, dtype=torch.int8, device=device)

    a, digits_a = vectors(M, tile.rows, first)  # type: ignore[attr-defined]  # a Tile, of a module that is not imported here
    b, digits_b = vectors(N, tile.columns, second)  # type: ignore[attr-defined]  # as above
    out = torch.zeros((1, M, N), device=device)
    kernels.multiply(a, b, digits_a, digits_b, out, slices, tile)
    whole = 0
    for d in range(slices):
        whole = whole * 128 + (d + 1) * first * second * K
    expected = torch.full_like(out, math.ldexp(float(whole), 2 - 12 - 7 * (slices - 1)))
    if not torch.equal(out, expected):
        raise _refusal(
            device, f"{slices} digits of {first} and {second} over {K} values gave {out.unique().tolist()}, not "
            f"{expected.unique().tolist()}"
        )  # fmt: skip


def _check_values(device: torch.device, slices: int, K: int, tiles: object) -> None:
    """Awkward values in odd shapes against the definition."""
    a, b = _awkward(37, K, 0), _awkward(23, K, 1).transpose(1, 2)
    out = torch.zeros((2, 37, 23), device=device)
    _kernels().products(a.to(device), b.to(device), out, slices, tiles)
    expected = torch.stack([reference(x, y, slices) for x, y in zip(a, b, strict=True)])
    got = out.cpu()
    wrong = (_bits(got) != _bits(expected)).nonzero()
    if len(wrong):
        i, m, n = wrong[0].tolist()
        raise _refusal(
            device, f"{len(wrong)} of {out.numel()} elements of a product of test differ, the first being "
            f"{got[i, m, n].item()!r}, not {expected[i, m, n].item()!r}"
        )  # fmt: skip


def _awkward(vectors: int, K: int, seed: int) -> torch.Tensor:
    """Two batches of vectors: ordinary, of wide range, denormal, huge, with one value, zero; special ones in the second alone."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn((2, vectors, K), generator=generator)
    x[:, 1::9] *= torch.pow(2.0, torch.randint(-60, 60, (K,), generator=generator).float())
    x[:, 2::9] *= 2.0**-130
    x[:, 3::9] *= 2.0**126
    x[:, 4::9] *= (torch.arange(K) == K - 1).float()
    x[:, 5::18] = -0.0
    x[:, 6::9] *= torch.rand((K,), generator=generator) < 0.1
    x[1, 7, ::50] = math.inf
    x[1, 16, 3::60] = -math.inf
    x[1, 20, K // 2] = math.nan
    return x


def _bits(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x.isnan(), math.nan, x).view(torch.int32)


def _refusal(device: torch.device, what: str) -> NumericsError:
    return NumericsError(
        f"the numerics engine 'triton' is not exact on {device}: {what}. Name another engine in {VARIABLE}, such as "
        f"'reference', or pass numerics='exact'."
    )
