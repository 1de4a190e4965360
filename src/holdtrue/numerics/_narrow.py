"""bfloat16 and float16 as storage: an operator widens them to float32, which is exact, and rounds its result once more.

Between operators values are narrow, as torch has them; within one they are float32 and float64, as in every form. What a
norm or a loss saves for its backward (means, scales, total weights) stays float32 on every device.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree

NARROW = frozenset((torch.float16, torch.bfloat16))
COMPLEX = frozenset((torch.complex64, torch.complex128, torch.complex32))

KEEPS_STATISTICS = frozenset(
    (
        "native_layer_norm",
        "native_group_norm",
        "native_batch_norm",
        "_native_batch_norm_legit",
        "_batch_norm_with_update",
        "_batch_norm_no_update",
        "_fused_rms_norm",
        "nll_loss_forward",
        "nll_loss2d_forward",
    )
)
"""Operators whose results after the first are float32 statistics."""


MADE_WIDE = frozenset(("_softmax", "_log_softmax"))
"""Operators that CUDA asks for a float32 result of float16, by their third argument."""


def has_unusual(args: tuple[Any, ...]) -> bool:
    """Whether an argument is narrow or complex. Any: arguments of an operator."""
    for x in args:
        if isinstance(x, torch.Tensor):
            if x.dtype in NARROW or x.dtype in COMPLEX:
                return True
        elif isinstance(x, list | tuple) and x and isinstance(x[0], torch.Tensor) and has_unusual(tuple(x)):
            return True
    return False


def run_widened(
    name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Run an operator on widened tensors and round what it returns. Any: as the operator's schema says.

    Raises:
        NotImplementedError: a tensor is complex.
    """
    tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    for x in tensors:
        if x.dtype in COMPLEX:
            raise NotImplementedError(
                f"arithmetic in {x.dtype}; portable numerics computes in float32 and float64"
            )
    wide_args, wide_kwargs = pytree.tree_map_only(torch.Tensor, _widened, (args, kwargs))
    found = function(*wide_args, **wide_kwargs)
    if name.endswith("_"):
        return args[0].copy_(found)
    dtype = kwargs.get("dtype") or _dtype_of_result(tensors)
    if dtype is None or (name in MADE_WIDE and args[2:3] == (True,)):
        return found
    if name in KEEPS_STATISTICS:
        return (_narrowed(found[0], dtype), *found[1:])
    return pytree.tree_map_only(torch.Tensor, lambda x: _narrowed(x, dtype), found)


def _widened(x: torch.Tensor) -> torch.Tensor:
    return x.float() if x.dtype in NARROW else x


def _narrowed(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return x.to(dtype) if x.dtype == torch.float32 else x


def _dtype_of_result(tensors: list[torch.Tensor]) -> torch.dtype | None:
    """The narrow type of the result, or None where a wide tensor takes part; a single number only where all are."""
    floating = [x for x in tensors if x.is_floating_point()]
    shaped = {x.dtype for x in floating if x.dim() > 0} or {x.dtype for x in floating}
    return next(iter(shaped)) if len(shaped) == 1 and shaped <= NARROW else None
