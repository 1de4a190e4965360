"""Portable forms of operators that draw random numbers: from the stream of the mode, never from torch's generators."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from . import _functions as f
from ._current import stream
from ._registry import form

CPU = torch.device("cpu")


def _device(named: Any) -> torch.device:  # Any: a device, its name or None
    return CPU if named is None else torch.device(named)


def _refuse_generator(generator: torch.Generator | None) -> None:
    if generator is not None:
        raise NotImplementedError(
            "a draw from a torch.Generator; portable numbers come from the stream of the pass"
        )


def _check(is_right: bool, sentence: str) -> None:
    """Refuse as torch does, by a RuntimeError."""
    if not is_right:
        raise RuntimeError(sentence)


@form("rand")
def rand(
    size: Sequence[int],
    *,
    generator: Any = None,
    dtype: torch.dtype | None = None,
    device: Any = None,
    **_: Any,
) -> torch.Tensor:  # Any: layout, device, pin_memory
    """Uniform numbers in [0, 1)."""
    _refuse_generator(generator)
    return stream().uniform(torch.Size(size), _device(device), dtype or torch.get_default_dtype())


@form("randn")
def randn(
    size: Sequence[int],
    *,
    generator: Any = None,
    dtype: torch.dtype | None = None,
    device: Any = None,
    **_: Any,
) -> torch.Tensor:  # Any: layout, device, pin_memory
    """Standard normal numbers."""
    _refuse_generator(generator)
    return stream().normal(torch.Size(size), _device(device), dtype or torch.get_default_dtype())


@form("rand_like")
def rand_like(
    x: torch.Tensor, *, dtype: torch.dtype | None = None, **_: Any
) -> torch.Tensor:  # Any: layout, format
    """Uniform numbers in the shape of x."""
    return stream().uniform(x.shape, x.device, dtype or x.dtype)


@form("randn_like")
def randn_like(
    x: torch.Tensor, *, dtype: torch.dtype | None = None, **_: Any
) -> torch.Tensor:  # Any: as above
    """Standard normal numbers in the shape of x."""
    return stream().normal(x.shape, x.device, dtype or x.dtype)


@form("randint")
def randint(
    *bounds: Any, generator: Any = None, dtype: torch.dtype | None = None, device: Any = None, **_: Any
) -> Any:
    """Integers in [low, high). Any: (high, size) or (low, high, size); layout and device."""
    _refuse_generator(generator)
    low, high, size = (0, *bounds) if len(bounds) == 2 else bounds
    return stream().integers(low, high, torch.Size(size), _device(device)).to(dtype or torch.int64)


@form("randint_like")
def randint_like(x: torch.Tensor, *bounds: int, dtype: torch.dtype | None = None, **_: Any) -> torch.Tensor:
    """Integers in the shape of x. Any: layout and format."""
    low, high = (0, bounds[0]) if len(bounds) == 1 else bounds
    return stream().integers(low, high, x.shape, x.device).to(dtype or x.dtype)


@form("randperm")
def randperm(
    n: int, *, generator: Any = None, dtype: torch.dtype | None = None, device: Any = None, **_: Any
) -> torch.Tensor:  # Any: layout and device
    """A permutation of 0..n-1."""
    _refuse_generator(generator)
    return stream().permutation(n, _device(device)).to(dtype or torch.int64)


@form("uniform")
def uniform(x: torch.Tensor, low: float = 0, high: float = 1, *, generator: Any = None) -> torch.Tensor:
    """Numbers low + u * (high - low) in float64, u uniform in [0, 1), rounded once: to high too, where that is next."""
    _refuse_generator(generator)
    _check(low <= high, f"uniform_ from {low} to {high}; the first is at most the second. Turn them round.")
    _check(
        x.is_floating_point() and math.isfinite(high - low),
        f"uniform_ of {x.dtype} from {low} to {high}; floats, finite.",
    )
    u = (
        stream()
        .uniform(x.shape, x.device, torch.float64 if x.dtype == torch.float64 else torch.float32)
        .double()
    )
    return (u * (float(high) - float(low)) + float(low)).to(x.dtype)


@form("normal_")
def normal_in_place(
    x: torch.Tensor, mean: float = 0, std: float = 1, *, generator: Any = None
) -> torch.Tensor:
    """Fills x with normal numbers: mean + std * z in float64, rounded once."""
    _refuse_generator(generator)
    _check(
        x.is_floating_point(), f"normal numbers in {x.dtype}; they are no integers. Fill a tensor of floats."
    )
    _check(std >= 0, f"normal numbers with std {std}; it is 0 or more. Pass such a number.")
    z = stream().normal(x.shape, x.device, torch.float64)
    return x.copy_(z * float(std) + float(mean))


@form("normal")
def normal(
    mean: Any,
    std: Any = 1.0,
    size: Sequence[int] | None = None,
    *,
    generator: Any = None,
    dtype: torch.dtype | None = None,
    device: Any = None,
    **_: Any,
) -> torch.Tensor:  # Any: numbers or tensors; a device; layout
    """Normal numbers of given means and deviations, numbers or tensors: mean + std * z in float64, rounded once."""
    _refuse_generator(generator)
    given = [t for t in (mean, std) if isinstance(t, torch.Tensor)]
    least = (
        min(float(std.min()) if std.numel() else 0.0, 0.0) if isinstance(std, torch.Tensor) else float(std)
    )
    _check(least >= 0, f"normal numbers with std {least}; it is 0 or more. Pass such numbers.")
    if not given:
        empty = torch.empty(size or (), dtype=dtype or torch.get_default_dtype(), device=_device(device))
        return normal_in_place(empty, mean, std)
    shape = torch.broadcast_shapes(*(t.shape for t in given))
    z = stream().normal(shape, given[0].device, torch.float64)
    wide = [t.double() if isinstance(t, torch.Tensor) else float(t) for t in (mean, std)]
    return (z * wide[1] + wide[0]).to(given[0].dtype)


@form("exponential")
def exponential(x: torch.Tensor, lambd: float = 1, *, generator: Any = None) -> torch.Tensor:
    """Exponential numbers by inversion."""
    _refuse_generator(generator)
    _check(
        x.is_floating_point(),
        f"exponential numbers in {x.dtype}; they are no integers. Fill a tensor of floats.",
    )
    _check(lambd > 0, f"exponential numbers with lambd {lambd}; it is above 0. Pass such a number.")
    u = stream().uniform(x.shape, x.device, torch.float64)
    return f.divided(-f.log1p64(-u), float(lambd)).to(x.dtype)


@form("bernoulli")
def bernoulli(x: torch.Tensor, p: Any = None, *, generator: Any = None) -> torch.Tensor:
    """Ones with probability p, or with the probabilities in x. Any: a number or a tensor."""
    _refuse_generator(generator)
    if isinstance(p, int | float):
        _check(0 <= p <= 1, f"bernoulli with p {p}; a probability is from 0 to 1. Pass such a number.")
        return stream().bernoulli(p, x.shape, x.device).to(x.dtype)
    chance = (x if p is None else p.expand(x.shape)).double()
    words = stream().words(x.numel(), x.device).reshape(x.shape)
    return (words.double() < chance * 2.0**32).to(x.dtype)


@form("bernoulli_")
def bernoulli_in_place(x: torch.Tensor, p: Any = 0.5, *, generator: Any = None) -> torch.Tensor:
    """Fills x; torch leaves out a p of 0.5 when it calls, so the default must not be x itself. Any: as above."""
    return x.copy_(bernoulli(x, p, generator=generator))


@form("native_dropout")
def native_dropout(x: torch.Tensor, p: float, train: bool | None) -> tuple[torch.Tensor, torch.Tensor]:
    """x with values dropped, and which were kept."""
    if train is False or p == 0:
        return x.clone(), torch.ones_like(x, dtype=torch.bool)
    keep = stream().bernoulli(1.0 - p, x.shape, x.device)
    return x * _scaled(keep, 1.0 - p, x.dtype), keep


def _scaled(keep: torch.Tensor, chance: float, dtype: torch.dtype) -> torch.Tensor:
    """1 / chance where kept, else 0: by division in dtype, as the composite of _composites.py has it."""
    return (
        torch.div(keep.to(dtype), torch.full((), chance, dtype=dtype, device=keep.device))
        if chance
        else keep.to(dtype)
    )


@form("native_dropout_backward")
def native_dropout_backward(grad: torch.Tensor, mask: torch.Tensor, scale: float) -> torch.Tensor:
    """Gradient of `native_dropout`."""
    return grad * _scaled(mask, 1.0 / scale if scale else 0.0, grad.dtype)
