"""What a script computes before its first step, such as initial weights, with one answer.

    init -> open_initial() -> weights, position tables, means of the data -> first step -> close_initial()

torch's kernels for random numbers, functions, products and sums differ by the processor (uniform numbers, for one, are scaled
with a fused multiply-add where there is one), so that a model which a script builds differs by the machine. While this is
open in a thread, the operators below have their portable forms there, and torch's own where a form does not cover the
arguments; all other operators, and all other threads, are torch's own.

A dispatch mode would do this too, and cannot: what `init` opens is closed in another call, and modes are a stack.
"""

import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ._current import is_in_form, torch_stream, using
from ._mode import find_runner

DRAWS = ("bernoulli", "exponential", "normal", "uniform")
FUNCTIONS = (
    "addcdiv", "addcmul", "arange", "cos", "cosh", "erf", "erfc", "erfinv", "exp", "exp2", "expm1", "lerp", "linspace", "log",
    "log10", "log1p", "log2", "pow", "rsqrt", "sigmoid", "sin", "sinh", "sqrt", "tan", "tanh",
)  # fmt: skip
PRODUCTS = ("addmm", "addmv", "baddbmm", "bmm", "dot", "mm", "mv", "vdot")
SUMS = (
    "_log_softmax", "_softmax", "_weight_norm_interface", "cumprod", "cumsum", "linalg_vector_norm", "logsumexp", "mean", "prod",
    "std", "std_mean", "sum", "var", "var_mean",
)  # fmt: skip

_Kernel = Callable[..., Any]  # Any: as the operator's schema says


class _Here(threading.local):
    is_open = False


_here = _Here()
_lock = threading.Lock()
_library: torch.library.Library | None = None
_threads = 0
"""How many threads have it open; the operators are torch's own again where none has."""


def open_initial() -> None:
    """From here on this thread's initial arithmetic has one answer; draws are numbered by torch's CPU generator, or the given."""
    global _library, _threads
    with _lock:
        if _here.is_open:
            return
        if _library is None:
            _library = _take_over()
        _here.is_open = True
        _threads += 1


def close_initial() -> None:
    """This thread's arithmetic outside the mode is torch's own again."""
    global _library, _threads
    with _lock:
        if not _here.is_open:
            return
        _here.is_open = False
        _threads -= 1
        if _threads == 0 and _library is not None:
            _library._destroy()
            _library = None


def _take_over() -> torch.library.Library:
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a kernel is overridden is what is meant
        for kind in ("CPU", "CUDA") if torch.cuda.is_available() else ("CPU",):
            for operator in _operators(kind):
                kernel = _choose(operator, kind)
                library.impl(operator, kernel, kind, with_keyset=True, allow_override=True)
    return library


def _operators(kind: str) -> Iterator[Any]:
    """Overloads of the operators that have a kernel of their own on a kind of device. Any: torch's type has no name."""
    names = [f"{name}_" for name in DRAWS]
    names += [f"{name}{end}" for name in FUNCTIONS for end in ("", "_")] + [*PRODUCTS, *SUMS]
    for name in names:
        packet = getattr(torch.ops.aten, name, None)
        for overload in packet.overloads() if packet is not None else ():
            operator = getattr(packet, overload)
            if not any("Tensor" in str(found.type) for found in operator._schema.returns):
                continue  # a function of Python's numbers, for scripts that torch compiles
            if torch._C._dispatch_has_kernel_for_dispatch_key(operator.name(), kind):
                yield operator


def _choose(operator: Any, kind: str) -> _Kernel:
    """The portable kernel where it is open in this thread, else torch's. Any: as above."""
    plain = torch.library.get_kernel(operator, kind)
    run = find_runner(operator)

    def either(keys: Any, *args: Any, **kwargs: Any) -> Any:
        if run is None or not _here.is_open or is_in_form():
            return plain.call_boxed(keys, *args, **kwargs)
        generator = kwargs.get("generator")
        own = {name: value for name, value in kwargs.items() if name != "generator"}
        try:
            with torch._C.DisableTorchFunction(), using(torch_stream(0, generator), 4):
                return run(operator, args, own)
        except NotImplementedError:
            return plain.call_boxed(keys, *args, **kwargs)

    return either
