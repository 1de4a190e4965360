"""The mode: below autograd every ATen operator becomes its portable form, passes, or is refused by name."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from holdtrue.errors import NumericsError

from . import (  # noqa: F401 - importing fills the registry
    _composites,
    _elementwise,
    _indexing,
    _losses,
    _norms,
    _plain,
    _random,
    _reductions,
    _windows,
)
from ._matmul import set_slices
from ._philox import RandomStream
from ._random import set_stream
from ._registry import FORMS, IEEE, MOVES, nearest
from ._selftest import check_engine

Runner = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]
"""(operator, args, kwargs) -> result; Any: as the operator's schema says."""

_NARROW = (torch.float16, torch.bfloat16, torch.complex64, torch.complex128)


def _run_plain(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return func(*args, **kwargs)


def _run_ieee(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    for leaf in args:
        if isinstance(leaf, torch.Tensor) and leaf.dtype in _NARROW:
            raise NotImplementedError(
                f"arithmetic in {leaf.dtype}; portable numerics computes in float32 and float64"
            )
    return func(*args, **kwargs)


def _run_form(name: str) -> Runner:
    form = FORMS[name]

    def run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        for leaf in args:
            if isinstance(leaf, torch.Tensor) and leaf.dtype in _NARROW:
                raise NotImplementedError(
                    f"arithmetic in {leaf.dtype}; portable numerics computes in float32 and float64"
                )
        return form(*args, **kwargs)

    return run


def _run_in_place(name: str) -> Runner:
    run = _run_form(name)

    def into(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        args[0].copy_(run(func, args, kwargs))
        return args[0]

    return into


def _run_out(name: str) -> Runner:
    run = _run_form(name)

    def into(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = [a.name for a in func._schema.arguments if a.is_out]
        targets = [kwargs.pop(n) for n in given]
        found = run(func, args, kwargs)
        for target, value in zip(targets, found if isinstance(found, tuple) else (found,), strict=True):
            target.resize_(value.shape).copy_(value)
        return targets[0] if len(targets) == 1 else tuple(targets)

    return into


def _run_foreach(name: str) -> Runner:
    """An operator on lists, element by element in order."""
    bare = name.removeprefix("_foreach_")
    single = "linalg_vector_norm" if bare == "norm" else bare.rstrip("_")

    def run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        count = len(args[0])
        lists = [isinstance(a, list | tuple) and len(a) == count for a in args]
        out = []
        for i in range(count):
            own = tuple(a[i] if is_list else a for a, is_list in zip(args, lists, strict=True))
            out.append(_result(single, own, kwargs))
        if not bare.endswith("_"):
            return out
        for x, value in zip(args[0], out, strict=True):
            x.copy_(value)
        return None

    return run


def _result(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if name in FORMS:
        return FORMS[name](*args, **kwargs)
    return getattr(torch.ops.aten, name)(*args, **kwargs)


def _knows(name: str) -> bool:
    return name in FORMS or name in IEEE or name in MOVES


def _find_runner(func: Any) -> Runner | None:
    """How to run an operator, or None if it is not covered; decided once for each overload."""
    library, _, name = func._schema.name.partition("::")
    if library in ("profiler", "inductor"):
        return _run_plain
    if library not in ("aten", "prim", "prims"):
        name = f"{library}::{name}"
    is_out = any(a.is_out for a in func._schema.arguments)
    if name.startswith("_foreach_"):
        bare = name.removeprefix("_foreach_").rstrip("_")
        return _run_foreach(name) if _knows(bare) or bare == "norm" else None
    if is_out:
        base = name.removesuffix("_out")
        return _run_out(base) if base in FORMS else (_run_plain if base in MOVES or base in IEEE else None)
    if name in FORMS:
        return _run_form(name)
    if name in MOVES:
        return _run_plain
    if name in IEEE:
        return _run_ieee
    bare = name.removesuffix("_")
    if name.endswith("_") and bare in FORMS:
        return _run_in_place(bare)
    if name.endswith("_") and bare in MOVES:
        return _run_plain
    if name.endswith("_") and bare in IEEE:
        return _run_ieee
    return None


def _only_integers(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether an operator works on integers alone, which have one answer."""
    leaves = pytree.tree_leaves((args, kwargs))
    tensors = [x for x in leaves if isinstance(x, torch.Tensor)]
    return (
        bool(tensors)
        and not any(t.is_floating_point() or t.is_complex() for t in tensors)
        and not any(isinstance(x, float | torch.Generator) for x in leaves)
    )


def _module_in_stack(names: Mapping[int, str]) -> str:
    """The innermost module whose code is running, for a message."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, torch.nn.Module):
            name = names.get(id(owner))
            kind = type(owner).__name__
            return f"module {name!r} ({kind})" if name else f"a module {kind}"
        frame = frame.f_back
    return "code outside a module, or a backward"


class PortableDispatch(TorchDispatchMode):
    """Runs operators by their portable forms.

    Args:
        models: Named models, so that a refusal can name the module.
    """

    def __init__(self, models: Mapping[str, torch.nn.Module] | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's own
        self._models = models or {}
        self._runners: dict[Any, Runner | None] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run one operator. Any: torch's own signature."""
        kwargs = kwargs or {}
        try:
            runner = self._runners[func]
        except KeyError:
            runner = self._runners[func] = _find_runner(func)
        with torch._C.DisableTorchFunction():
            if runner is None:
                if _only_integers(args, kwargs) and not func._schema.name.startswith("aten::multinomial"):
                    return func(*args, **kwargs)
                raise self._refusal(func, f"operator {func._schema.name.removeprefix('aten::')!r}")
            try:
                return runner(func, args, kwargs)
            except NotImplementedError as error:
                raise self._refusal(func, str(error)) from error

    def _refusal(self, func: Any, what: str) -> NumericsError:
        names = {
            id(m): f"{n}.{k}".strip(".")
            for n, model in self._models.items()
            for k, m in model.named_modules()
        }
        name = func._schema.name.removeprefix("aten::")
        return NumericsError(
            f"portable numerics does not cover {what} (operator {name}, called by {_module_in_stack(names)}): its bits may "
            f"differ between devices; {nearest(name)}. Use a covered operator (`holdtrue numerics` lists them), add a form with "
            f"holdtrue.numerics.register_operator, or pass numerics='exact'."
        )


COMPOSITES: dict[Any, Callable[..., Any]] = {
    torch.nn.functional.scaled_dot_product_attention: _composites.attention,
    torch.nn.functional.dropout: _composites.dropout,
    torch.dropout: lambda x, p, train: _composites.dropout(x, p, train),
    torch.lstm: _composites.recurrent("lstm"),
    torch.gru: _composites.recurrent("gru"),
    torch.rnn_tanh: _composites.recurrent("rnn_tanh"),
    torch.rnn_relu: _composites.recurrent("rnn_relu"),
}
"""Functions of torch taken over above autograd."""


class PortableFunctions(TorchFunctionMode):
    """Takes over functions that torch computes in unlike ways on unlike devices."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one function. Any: torch's own signature."""
        taken = COMPOSITES.get(func)
        if taken is not None:
            with self:
                return taken(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


@contextmanager
def portable_mode(
    *, key: int = 0, slices: int = 4, models: Mapping[str, torch.nn.Module] | None = None
) -> Iterator[RandomStream]:
    """Within it torch computes with one answer for every supported device.

    Args:
        key: 64 bits: the stream of random numbers, such as `stream_key(seed, "pass", step, round, virtual_node)`.
        slices: Digits of ordinary vectors in matrix products: 4, or 3 for less time and 2^-20 of a row's largest value.
        models: Named models, so that a refusal can name the module.

    Yields:
        The stream of random numbers.

    Raises:
        NumericsError: within it, an operator that is not covered, by operator and module.
    """
    if slices not in (3, 4):
        raise NumericsError(
            f"slices is {slices}; matrix products have 4 digits a value, or 3 for less time. Pass 3 or 4."
        )
    check_engine()
    stream = RandomStream(key)
    before, width = set_stream(stream), set_slices(slices)
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(
        False
    )  # fused inference kernels of torch.nn.TransformerEncoderLayer
    try:
        with PortableFunctions(), PortableDispatch(models):
            yield stream
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        set_slices(width)
        set_stream(before)
