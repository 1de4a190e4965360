"""A checker for functions that users add: the same bits under every change that can be made on one machine."""

import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch.utils import _pytree as pytree

from holdtrue.errors import NumericsError
from holdtrue.plan import UNLIKE_PROCESSORS

from ._mode import portable_mode
from ._native import VARIABLE, EngineName, engines, force_engine
from ._registry import ADDED, FORMS

PROCESS_TIMEOUT_S = 300.0


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


def _own(x: Any) -> Any:  # Any: a leaf of the inputs
    """A tensor for one run alone, so that no run changes what the next is given, or adds to its gradient."""
    return x.detach().clone().requires_grad_(x.requires_grad) if isinstance(x, torch.Tensor) else x


def _unaligned(x: Any) -> Any:  # Any: a leaf of the inputs
    """The same values at an address that is not a multiple of 16 bytes, and with another stride."""
    if not isinstance(x, torch.Tensor) or x.numel() == 0:
        return _own(x)
    room = torch.zeros(2 * x.numel() + 1, dtype=x.dtype, device=x.device)
    place = room[1::2].reshape(-1)[: x.numel()].as_strided(x.shape, [2 * s for s in x.contiguous().stride()])
    place.copy_(x.detach())
    return place.requires_grad_(x.requires_grad)


def _bits(value: Any) -> list[torch.Tensor]:  # Any: what the function returns
    leaves = [x.detach().cpu() for x in pytree.tree_leaves(value) if isinstance(x, torch.Tensor)]
    return [torch.where(x.isnan(), torch.nan, x) if x.is_floating_point() else x for x in leaves]


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    view = {4: torch.int32, 8: torch.int64, 2: torch.int16, 1: torch.int8}[a.element_size()]
    return torch.equal(a.contiguous().view(view), b.contiguous().view(view)) if a.numel() else True


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What one run returned, and under which setting."""

    setting: str
    values: list[torch.Tensor]


def check_portable(
    function: Callable[..., Any], *inputs: Any, key: int = 0, processes: bool = False
) -> int:  # Any: tensors and settings
    """Run a function of tensors under unlike settings and compare the bits of what it returns.

    Varied are the engine of this room, the number of threads (1 and 2), and the alignment and strides of the inputs; with
    `processes` also what is fixed when Python starts: vector units of torch's own kernels, limits of MKL and oneDNN, and a
    libm without fused multiply-add. Operators that were registered go along.

    Args:
        function: Runs inside `portable_mode`; gradients count if it returns them.
        inputs: Its arguments; each run has tensors of its own with their values, and leaves them as they are.
        key: The stream of random numbers.
        processes: Whether to run it in two processes of their own too; it must then be one that cloudpickle can send.

    Returns:
        How many runs were compared.

    Raises:
        NumericsError: two runs differ, the function returns no tensor, or a process failed; the message names the setting.

    >>> check_portable(lambda x: x.exp().sum(), torch.linspace(-1, 1, 1000)) > 2
    True
    """
    first, runs = None, 0
    called = getattr(function, "__name__", "the function")
    for found in _runs(function, inputs, key, processes):
        runs += 1
        if not found.values:
            raise NumericsError(
                f"{called} returned no tensor with {found.setting}, so there is nothing to compare. Return what it computes, "
                f"gradients too."
            )
        if first is None:
            first = found
            continue
        if len(first.values) != len(found.values):
            raise NumericsError(
                f"{called} returned {len(found.values)} tensors with {found.setting}, and {len(first.values)} with "
                f"{first.setting}. Return the same tensors whatever the setting."
            )
        pairs = zip(first.values, found.values, strict=True)
        wrong = [i for i, (a, b) in enumerate(pairs) if not _equal(a, b)]
        if wrong:
            raise NumericsError(
                f"result {wrong[0]} of {called} has other bits with {found.setting} than with {first.setting}. "
                f"Build it from covered operators, or give it a kernel with one order of additions."
            )
    return runs


def _runs(
    function: Callable[..., Any], inputs: tuple[Any, ...], key: int, processes: bool
) -> Iterator[_Found]:  # Any: as above
    for name in engines():
        for threads, change in ((1, "as given"), (2, "unaligned")):
            own = [pytree.tree_map(_own if change == "as given" else _unaligned, x) for x in inputs]
            with _changed(name, threads), portable_mode(key=key):
                values = _bits(function(*own))
            setting = f"engine {name!r}, {threads} thread{'s' if threads > 1 else ''}, inputs {change}"
            yield _Found(setting=setting, values=values)
    for variables in unlike_settings() if processes else ():
        yield _Found(
            setting=" ".join(f"{n}={v}" for n, v in variables.items()),
            values=_run_elsewhere(function, inputs, key, variables),
        )


def unlike_settings() -> tuple[dict[str, str], ...]:
    """Environments of processes that compute as unlike processors do: variables and values."""
    first, second = (dict(processor.variables) for processor in UNLIKE_PROCESSORS)
    slower = engines()[-1 if len(engines()) == 1 else 1]
    return (
        first | {VARIABLE: slower, "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"},
        second | {VARIABLE: "reference"},
    )


def _run_elsewhere(
    function: Callable[..., Any], inputs: tuple[Any, ...], key: int, setting: dict[str, str]
) -> list[torch.Tensor]:  # Any: as above
    """The results of the function in a process of its own."""
    import cloudpickle  # only here: training needs torch, numpy and safetensors alone

    with tempfile.TemporaryDirectory(prefix="holdtrue-check-") as folder:
        question, answer = Path(folder) / "question", Path(folder) / "answer"
        try:
            question.write_bytes(cloudpickle.dumps((ADDED, function, inputs, key)))
        except (TypeError, pickle.PicklingError) as error:
            raise NumericsError(
                f"the checked function cannot be sent to another process ({error}); cloudpickle must be able to send it, and "
                f"what it names: torch.ops cannot be sent. Call operators as torch.NAME, or pass processes=False."
            ) from error
        try:
            done = subprocess.run(
                [sys.executable, "-m", "holdtrue.numerics._probe", str(question), str(answer)],
                env={**os.environ, **setting},
                capture_output=True,
                text=True,
                timeout=PROCESS_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise NumericsError(
                f"the check's process with {setting} gave no answer within {PROCESS_TIMEOUT_S} s; a checked function "
                f"must be quick. Give it smaller inputs."
            ) from error
        if done.returncode or not answer.exists():
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise NumericsError(
                f"the check's process with {setting} failed: {last}. The function and its inputs must be such that "
                f"cloudpickle can send them. Define the function in the script, or in an installed module."
            )
        return list(torch.load(answer, weights_only=True))


def answer_probe(question: Path, answer: Path) -> None:
    """The other side of `_run_elsewhere`: read a question that this check wrote, run it, write the results."""
    added, function, inputs, key = pickle.loads(question.read_bytes())
    FORMS.update(added)
    with portable_mode(key=key):
        found = _bits(function(*inputs))
    torch.save(found, answer)
