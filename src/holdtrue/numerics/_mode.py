"""The mode: below autograd every ATen operator becomes its portable form, passes, or is refused by name."""

import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

from holdtrue.errors import NumericsError

from . import (  # noqa: F401 - importing fills the registry
    _activations,
    _copies,
    _elementwise,
    _indexing,
    _losses,
    _norms,
    _plain,
    _random,
    _reductions,
    _resize,
    _windows,
)
from ._composites import take_over
from ._current import DEFAULT_SLICES, check_slices, torch_stream, use
from ._narrow import has_unusual, run_widened
from ._philox import RandomStream
from ._registry import FORMS, IEEE, IN_PLACE, MOVES, RUNNERS, nearest
from ._selftest import check_engine

Runner = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]
"""(operator, args, kwargs) -> result; Any: as the operator's schema says."""

Survey = Callable[[str, str, str], None]
"""(operator, module, sentence of the refusal): told of what is not covered, which then runs as torch has it."""


def _run_plain(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return func(*args, **kwargs)


def _run_ieee(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if has_unusual(args):
        return run_widened(func._schema.name, func, args, kwargs)
    return func(*args, **kwargs)


def _run_parts(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An operator that autograd takes apart, where autograd is off altogether (`torch.inference_mode`)."""
    return func.decompose(*args, **kwargs)


def _run_form(name: str) -> Runner:
    def run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return _result(name, args, kwargs)

    return run


def _run_in_place(name: str) -> Runner:
    run, own = _run_form(name), IN_PLACE.get(name)

    def into(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if own is None or any(isinstance(x, torch.Tensor) and x.dtype != torch.float32 for x in args):
            args[0].copy_(run(func, args, kwargs))
        else:
            own(*args, **kwargs)
        return args[0]

    return into


def _run_out(name: str) -> Runner:
    run = _run_form(name)

    def into(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = [a.name for a in func._schema.arguments if a.is_out]
        targets = [kwargs[n] for n in given]
        found = run(func, args, {n: value for n, value in kwargs.items() if n not in given})
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
    function = FORMS[name] if name in FORMS else getattr(torch.ops.aten, name)
    if has_unusual(args):
        return run_widened(name, function, args, kwargs)
    return function(*args, **kwargs)


def _knows(name: str) -> bool:
    return name in FORMS or name in IEEE or name in MOVES


def _unknown(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    raise AssertionError(f"{func} has not been looked up")


_UNKNOWN: Runner = _unknown


def find_runner(func: Any) -> Runner | None:
    """How to run an operator, or None if it is not covered; remembered until the next registration."""
    found = RUNNERS.get(func, _UNKNOWN)  # one look: the hash of an operator is Python code
    if found is _UNKNOWN:
        found = RUNNERS[func] = _decide_runner(func)
    return found


def _decide_runner(func: Any) -> Runner | None:
    library, _, name = func._schema.name.partition("::")
    if library in ("profiler", "c10d"):
        return _run_plain
    if library not in ("aten", "prim", "prims"):
        name = f"{library}::{name}"
    is_out = any(a.is_out for a in func._schema.arguments)
    if name.startswith("_foreach_"):
        bare = name.removeprefix("_foreach_").rstrip("_")
        return _run_foreach(name) if _knows(bare) or bare == "norm" else None
    if is_out:
        base = name.removesuffix("_out")
        if base in FORMS or base in IEEE:
            return _run_out(base)
        return _run_plain if base in MOVES else None
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
    composite = torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")
    return _run_parts if composite else None


def is_by_form(runner: Runner) -> bool:
    """Whether a runner computes by a portable form, and not as torch has it."""
    return runner not in (_run_plain, _run_ieee, _run_parts)


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


_eval_frame: Any = getattr(torch._C._dynamo, "eval_frame", None)  # Any: torch's own, without types
_set_eval_frame: Any = (
    getattr(_eval_frame, "set_eval_frame", None) if hasattr(_eval_frame, "skip_code") else None
)


class PortableDispatch(TorchDispatchMode):
    """Runs operators by their portable forms.

    Args:
        stream: Random numbers.
        slices: Digits of ordinary vectors in matrix products.
        models: Named models, so that a refusal can name the module.
        survey: Told of what is not covered, instead of a refusal.
    """

    def __init__(
        self,
        stream: RandomStream,
        slices: int,
        models: Mapping[str, torch.nn.Module] | None = None,
        survey: Survey | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's own
        self._stream, self.slices, self._models, self._survey = stream, slices, models or {}, survey

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Whether torch is to run each operator within `torch._dynamo.disable`: it takes 10 us; two calls below do the same."""
        return _set_eval_frame is None

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run one operator. Any: torch's own signature."""
        kwargs = kwargs or {}
        runner = find_runner(func)
        if runner is _run_plain:
            return func(*args, **kwargs)
        if runner is _run_parts:
            with self:
                return runner(func, args, kwargs)
        # Within a compiled function that runs uncompiled here, dynamo would otherwise trace what follows.
        callback = None if _set_eval_frame is None else _set_eval_frame(None)
        before = use(self._stream, self.slices)
        try:
            with torch._C.DisableTorchFunction():
                if runner is None:
                    if _only_integers(args, kwargs) and not func._schema.name.startswith("aten::multinomial"):
                        return func(*args, **kwargs)
                    self._refuse(func, f"operator {func._schema.name.removeprefix('aten::')!r}")
                    return func(*args, **kwargs)
                try:
                    return runner(func, args, kwargs)
                except NotImplementedError as error:
                    self._refuse(func, str(error), error)
                    return func(*args, **kwargs)
        finally:
            use(*before)
            if _set_eval_frame is not None:
                _set_eval_frame(callback)

    def _refuse(self, func: Any, what: str, cause: Exception | None = None) -> None:
        """Raise for what is not covered, or tell the survey of it. Any: an overload of an operator."""
        names = {
            id(m): f"{n}.{k}".strip(".")
            for n, model in self._models.items()
            for k, m in model.named_modules()
        }
        name = func._schema.name.removeprefix("aten::")
        module = _module_in_stack(names)
        near = (
            "" if cause is not None else f"; {nearest(name)}"
        )  # with a cause, the operator itself is covered
        sentence = (
            f"portable numerics does not cover {what} (operator {name}, called by {module}): its bits may "
            f"differ between devices{near}. Use a covered operator (`holdtrue numerics` lists them), "
            f"add a form with holdtrue.numerics.register_operator, or pass numerics='exact'."
        )
        if self._survey is None:
            raise NumericsError(sentence) from cause
        self._survey(name, module, sentence)


if _set_eval_frame is not None:
    _eval_frame.skip_code(PortableDispatch.__torch_dispatch__.__code__)


def active_slices() -> int | None:
    """Digits of the mode that is open here, in this thread or in a backward that autograd runs for it; None if none is."""
    if torch._C._len_torch_dispatch_stack() == 0:
        return None
    for mode in reversed(_get_current_dispatch_mode_stack()):
        if isinstance(mode, PortableDispatch):
            return mode.slices
    return None


_fast_path_lock = threading.Lock()
_inside = 0
_fast_path_before = True
_cudnn_before = True


def _count_modes(change: int) -> None:
    """While a mode is open in some thread, torch.nn's fused inference kernels and cuDNN are off.

    With cuDNN on, batch norm on CUDA would arrive as an operator of cuDNN's, which has no portable form.
    """
    global _inside, _fast_path_before, _cudnn_before
    with _fast_path_lock:
        if _inside == 0:
            _fast_path_before = torch.backends.mha.get_fastpath_enabled()
            _cudnn_before = torch.backends.cudnn.enabled
        _inside += change
        torch.backends.mha.set_fastpath_enabled(_fast_path_before and _inside == 0)
        torch.backends.cudnn.enabled = _cudnn_before and _inside == 0


@contextmanager
def portable_mode(
    *,
    key: int | None = None,
    slices: int = DEFAULT_SLICES,
    models: Mapping[str, torch.nn.Module] | None = None,
    survey: Survey | None = None,
) -> Iterator[None]:
    """Within it torch computes, in this thread, with one answer for every supported device.

    Args:
        key: Starts torch's CPU generator, which numbers the draws, at this key, and puts it back at the end; without a
            key the draws go on from where that generator is.
        slices: Digits of ordinary vectors in matrix products: 4, or 3 for less time and 2^-20 of a row's largest value.
        models: Named models, so that a refusal can name the module.
        survey: Is told of each operator that is not covered: its name, its module, the sentence of the refusal. It then
            runs as torch has it, and nothing is promised.

    Raises:
        NumericsError: within it, an operator that is not covered, by operator and module.
    """
    check_slices(slices)
    check_engine()
    take_over(active_slices)
    stream = torch_stream(0 if key is None else key)
    state = None if key is None else torch.get_rng_state()
    if key is not None:
        torch.default_generator.manual_seed(key % 2**63)
    _count_modes(1)
    try:
        with PortableDispatch(stream, slices, models, survey):
            yield
    finally:
        _count_modes(-1)
        if state is not None:
            torch.set_rng_state(state)
