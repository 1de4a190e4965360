"""What a script computes before its first step, such as initial weights, with one answer.

    init -> open_initial() -> weights, position tables, means of the data -> first step -> close_initial()

torch's kernels for random numbers, functions, products and sums differ by the processor (uniform numbers, for one, are scaled
with a fused multiply-add where there is one), so that a model which a script builds differs by the machine. While this is
open in a thread, what has a portable form goes by it there, if the arguments are those for which the form means exactly what
torch does. All else is torch's own, and nothing is refused: a script may compute what it likes before it trains.

What `init` opens is closed by another call, so it is no context manager, and is taken from torch's stack of modes wherever
it lies. That stack belongs to one thread.
"""

import os
import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _pop_mode, _push_mode

from holdtrue.errors import HoldtrueError

from ._current import DEFAULT_SLICES, is_in_form, torch_stream, use
from ._mode import Runner, find_runner, is_by_form

DRAWS = frozenset(
    (
        "bernoulli",
        "bernoulli_",
        "exponential_",
        "normal",
        "normal_",
        "rand",
        "rand_like",
        "randn",
        "randn_like",
        "uniform_",
    )
)
"""Operators whose numbers come from a generator, in any floating type."""

WHOLE = frozenset(("randint", "randint_like", "randperm"))
"""Draws of integers, which have one answer already."""

DRAWN = frozenset((torch.float32, torch.float64, torch.bfloat16, torch.float16))

_NOT_MEANT = (
    HoldtrueError,
    ArithmeticError,
    AssertionError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What a form raises for arguments that it does not cover, or that are wrong: then torch's own kernel is asked."""


class InitialDispatch(TorchDispatchMode):
    """Runs operators by their portable forms where those mean what torch does, and by torch elsewhere."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # saves 10 us an operator; nothing is compiled here

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run one operator. Any: torch's own signature."""
        kwargs = kwargs or {}
        if is_in_form():
            return func(*args, **kwargs)
        runner = find_runner(func)
        if runner is None or not is_by_form(runner) or not _is_ordinary(func, args, kwargs):
            return func(*args, **kwargs)
        return _run(runner, func, args, kwargs)


def _run(runner: Runner, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """By the form, or by torch where it raises. Any: as above."""
    own = {name: value for name, value in kwargs.items() if name != "generator"}
    before = use(torch_stream(0, kwargs.get("generator")), DEFAULT_SLICES)
    try:
        with torch._C.DisableTorchFunction():
            return runner(func, args, own)
    except _NOT_MEANT:
        use(*before)  # torch's kernel is no part of a form
        return func(*args, **kwargs)
    finally:
        use(*before)


def _is_ordinary(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a form means exactly what torch does for such arguments. Any: as above."""
    name = func._schema.name.removeprefix("aten::")
    if "out" in kwargs or name in WHOLE or name.startswith("_foreach_"):
        return False
    types = DRAWN if name in DRAWS else frozenset((torch.float32,))
    tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor)]
    for x in args:
        if isinstance(x, list | tuple):
            tensors += [y for y in x if isinstance(y, torch.Tensor)]
    if any(not _is_plain(x, types) for x in tensors):
        return False
    named = kwargs.get("dtype")
    if named is None and not tensors:
        if name == "arange" and all(isinstance(x, int) for x in args):
            return False  # integers have one answer
        named = torch.get_default_dtype()
    return named is None or named in types


def _is_plain(x: torch.Tensor, types: frozenset[torch.dtype]) -> bool:
    return (
        type(x) in (torch.Tensor, torch.nn.Parameter)
        and x.dtype in types
        and x.layout == torch.strided
        and not x.is_neg()
    )


class _Here(threading.local):
    mode: InitialDispatch | None = None


_here = _Here()


def open_initial() -> None:
    """From here on this thread's initial arithmetic has one answer; draws are numbered by torch's CPU generator, or the given."""
    if _here.mode is None:
        _here.mode = InitialDispatch()  # type: ignore[no-untyped-call]  # torch's own
        _push_mode(_here.mode)


def close_initial() -> None:
    """This thread's arithmetic outside the mode is torch's own again."""
    mode, _here.mode = _here.mode, None
    if mode is None:
        return
    above = []
    while torch._C._len_torch_dispatch_stack():
        top = _pop_mode()
        if top is mode:
            break
        above.append(top)
    for other in reversed(above):
        _push_mode(other)


os.register_at_fork(
    after_in_child=close_initial
)  # workers of a DataLoader read data as they would after the first step
