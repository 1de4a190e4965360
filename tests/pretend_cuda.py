"""A CUDA device that is not here: tensors that may not meet the CPU's, with CUDA's arithmetic where it is another.

    with PretendCuda(), portable_mode(key=1):
        y = function(Pretend(x))        # y.held: what the device would hold

A `Pretend` holds a CPU tensor and says it is on `meta`, which torch knows in every build and which is not `cpu`: operators
with tensors on both sides are refused, as are those whose answer CUDA's kernels do not share with the CPU's (fused
multiply-adds, sums, functions); a division by a number is what CUDA makes of it, a product with its reciprocal.
Operators that have a kernel of their own on CUDA and none on `meta`, such as mish's gradient, arrive taken apart.
"""

import threading
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("meta")

CROSSES = frozenset(("copy_", "copy", "_to_copy", "_foreach_copy_", "index", "index_put", "index_put_"))
"""Operators that may have tensors of both."""

_OTHER_BITS = """
addcmul addcdiv lerp tanh_backward sigmoid_backward addmm baddbmm _foreach_addcmul _foreach_addcdiv _foreach_lerp
sum mean var std var_mean norm linalg_vector_norm cumsum cumprod prod logsumexp nansum _softmax _log_softmax
exp log tanh sigmoid erf sin cos log1p expm1 rsqrt exp2 log2 log10 pow gelu silu softplus erfinv
"""
OTHER_BITS = frozenset(_OTHER_BITS.split())
"""Operators of floats whose kernels on CUDA have other bits than the CPU's."""


class Pretend(torch.Tensor):
    """A tensor on the device; `held` is what it holds."""

    held: torch.Tensor
    is_meta = False  # type: ignore[assignment]  # as everyone asks who would not read a meta tensor

    @staticmethod
    def __new__(cls, real: torch.Tensor) -> "Pretend":
        return torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined,no-any-return]  # torch's own
            cls, real.shape, strides=real.stride(), storage_offset=real.storage_offset(), dtype=real.dtype, device=DEVICE
        )  # fmt: skip

    def __init__(self, real: torch.Tensor) -> None:
        self.held = real

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Pretend({self.held!r})"

    def tolist(self) -> Any:
        """Its values: torch has no way to a subclass's."""
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, dict(kwargs or {}))


class PretendCuda(TorchDispatchMode):
    """Makes what is asked for on the device there; opened before any other mode, in each thread that uses it."""

    _lock = threading.Lock()
    _open = 0
    _made: Any = None

    def __enter__(self) -> "PretendCuda":
        with PretendCuda._lock:  # threads leave in another order than they came
            if PretendCuda._open == 0:
                PretendCuda._made = _factories()
                PretendCuda._made.__enter__()
            PretendCuda._open += 1
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        with PretendCuda._lock:
            PretendCuda._open -= 1
            if PretendCuda._open == 0:
                PretendCuda._made.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, dict(kwargs or {}))


def to_real(value: Any) -> Any:
    """A nested value with what the device holds."""
    return pytree.tree_map_only(torch.Tensor, _real, value)


def to_pretend(value: Any) -> Any:
    """A nested value with its tensors copied to the device."""
    return pytree.tree_map_only(
        torch.Tensor, lambda x: Pretend(x.detach().clone()).requires_grad_(x.requires_grad), value
    )


def _real(x: torch.Tensor) -> torch.Tensor:
    return x.held if isinstance(x, Pretend) else x


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    name = func._schema.name.removeprefix("aten::")
    given = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    there = [x for x in given if isinstance(x, Pretend)]
    if there and name not in CROSSES and any(x.dim() and not isinstance(x, Pretend) for x in given):
        raise RuntimeError(f"Expected all tensors to be on the same device: {name}")
    stays = bool(there)
    if kwargs.get("device") is not None:
        stays = torch.device(kwargs["device"]) == DEVICE
        kwargs["device"] = torch.device("cpu")
    here_args, here_kwargs = pytree.tree_map_only(torch.Tensor, _real, (args, kwargs))
    numbers = [isinstance(x, torch.Tensor) and not isinstance(x, Pretend) for x in args]
    found = (
        _compute(func, name, here_args, here_kwargs, numbers) if there else func(*here_args, **here_kwargs)
    )
    known = {id(_real(x)): x for x in given}

    def back(x: torch.Tensor) -> torch.Tensor:
        return known[id(x)] if id(x) in known else Pretend(x) if stays else x

    return pytree.tree_map_only(torch.Tensor, back, found)


def _compute(
    func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], are_of_cpu: list[bool]
) -> Any:
    first = args[0]
    if not isinstance(first, torch.Tensor) or not first.is_floating_point():
        return func(*args, **kwargs)
    bare = name.rstrip("_")
    if bare in OTHER_BITS or (bare in ("mm", "bmm", "mv", "dot") and first.dtype == torch.float32):
        raise RuntimeError(f"{name} has other bits on CUDA than on the CPU")
    if bare in ("add", "sub", "rsub") and kwargs.get("alpha", 1) != 1:
        raise RuntimeError(f"{name} with alpha is a fused multiply-add on CUDA")
    if bare == "div" and (not isinstance(args[1], torch.Tensor) or are_of_cpu[1]):
        found = first * (torch.ones((), dtype=first.dtype) / torch.as_tensor(args[1], dtype=first.dtype))
        return first.copy_(found) if name.endswith("_") else found
    if bare == "sqrt":  # correctly rounded there
        return torch.from_numpy(np.asarray(np.sqrt(first.numpy())))
    return func(*args, **kwargs)


@contextmanager
def _factories() -> Any:
    """`torch.tensor` and `torch.as_tensor` place numbers below all modes."""

    def placed(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def made(data: Any, *, device: Any = None, **kwargs: Any) -> torch.Tensor:
            if device is None or torch.device(device) != DEVICE or isinstance(data, Pretend):
                return make(data, device=device, **kwargs)
            return Pretend(make(data, **kwargs))

        return made

    with (
        mock.patch.object(torch, "tensor", placed(torch.tensor)),
        mock.patch.object(torch, "as_tensor", placed(torch.as_tensor)),
    ):
        yield
