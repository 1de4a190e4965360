"""A checker for functions that users add: the same bits under every change that can be made on one machine."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils import _pytree as pytree

from holdtrue.errors import NumericsError

from ._mode import portable_mode
from ._native import EngineName, engines, force_engine


@contextmanager
def _changed(name: EngineName, threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    force_engine(name)
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        force_engine(None)


def _unaligned(x: Any) -> Any:  # Any: a leaf of the inputs
    """The same values at an address that is not a multiple of 16 bytes, and with another stride."""
    if not isinstance(x, torch.Tensor) or x.numel() == 0:
        return x
    room = torch.zeros(2 * x.numel() + 1, dtype=x.dtype, device=x.device)
    place = room[1::2].reshape(-1)[: x.numel()].as_strided(x.shape, [2 * s for s in x.contiguous().stride()])
    place.copy_(x)
    return place.requires_grad_(x.requires_grad) if x.is_floating_point() else place


def _bits(value: Any) -> list[torch.Tensor]:  # Any: what the function returns
    leaves = [x.detach().cpu() for x in pytree.tree_leaves(value) if isinstance(x, torch.Tensor)]
    return [torch.where(x.isnan(), torch.nan, x) if x.is_floating_point() else x for x in leaves]


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    view = {4: torch.int32, 8: torch.int64, 2: torch.int16, 1: torch.int8}[a.element_size()]
    return torch.equal(a.contiguous().view(view), b.contiguous().view(view)) if a.numel() else True


def check_portable(
    function: Callable[..., Any], *inputs: Any, key: int = 0
) -> int:  # Any: tensors and settings
    """Run a function of tensors under unlike settings and compare the bits of what it returns.

    Varied are the engine of this room, the number of threads, the alignment and strides of the inputs, and the devices
    that are here. What cannot be varied in one process (vector units of torch's own kernels, library limits) is: start
    Python with ATEN_CPU_CAPABILITY=default and compare.

    Args:
        function: Runs inside `portable_mode`; gradients count if it returns them.
        inputs: Its arguments.
        key: The stream of random numbers.

    Returns:
        How many runs were compared.

    Raises:
        NumericsError: two runs differ; the message names the setting.

    >>> check_portable(lambda x: x.exp().sum(), torch.linspace(-1, 1, 1000)) > 2
    True
    """
    first: list[torch.Tensor] | None = None
    runs = 0
    for name in engines():
        for threads in (1, 2):
            for change in ("as given", "unaligned"):
                with _changed(name, threads):
                    own = [pytree.tree_map(_unaligned, x) for x in inputs] if change != "as given" else inputs
                    with portable_mode(key=key):
                        found = _bits(function(*own))
                runs += 1
                if first is None:
                    first = found
                    continue
                wrong = [i for i, (a, b) in enumerate(zip(first, found, strict=True)) if not _equal(a, b)]
                if wrong:
                    called = getattr(function, "__name__", "the function")
                    raise NumericsError(
                        f"result {wrong[0]} of {called} has other bits with engine {name!r}, "
                        f"{threads} threads, inputs {change} than with engine {engines()[0]!r}, 1 thread, inputs as given. "
                        f"Build it from covered operators, or give it a kernel with one order of additions."
                    )
    return runs
