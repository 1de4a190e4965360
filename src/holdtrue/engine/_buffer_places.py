"""Where buffers hang and in which memory they lie: what a pass may exchange, and what is put back after it.

A pass may bind a buffer's name anew, or give the same tensor other memory (`buffer.data = ...`, `set_`). The value counts,
wherever it lies then; the object, its memory and its place are those of the round's start again when the pass is over.
"""

import fnmatch
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.modules.batchnorm import _NormBase

from holdtrue.errors import NumericsError


@dataclass(frozen=True, slots=True)
class Place:
    """One name in one module, and the tensor that hung there when the models were walked."""

    owner: dict[str, torch.Tensor | None]
    key: str
    tensor: torch.Tensor
    memory: torch.Tensor
    """A second tensor over the same memory, which keeps it, its shape and its dtype."""

    @classmethod
    def of(cls, owner: dict[str, torch.Tensor | None], key: str, tensor: torch.Tensor) -> "Place":
        """The place as it is now."""
        return cls(owner, key, tensor, tensor.detach())

    def is_untouched(self) -> bool:
        """Whether the same tensor hangs there, in the same memory; its values may be others."""
        now = self.owner.get(self.key)
        return (
            now is self.tensor
            and same_kind(now, self.memory)
            and now.data_ptr() == self.memory.data_ptr()
            and now.stride() == self.memory.stride()
        )

    def hang_back(self) -> None:
        """Make it what it was, but for the values."""
        self.owner[self.key] = self.tensor
        if not self.is_untouched():
            self.tensor.data = self.memory


def rule_of(
    rules: Sequence[tuple[str, str]], name: str, module: torch.nn.Module, tensor: torch.Tensor
) -> str:
    """The rule that makes one value of many: the first of the plan's that fits, or that of its kind."""
    for pattern, rule in rules:
        if fnmatch.fnmatchcase(name, pattern):
            return rule
    if isinstance(module, _NormBase) and tensor.is_floating_point():
        return "mean"
    return "alike" if tensor.is_floating_point() or tensor.is_complex() else "first"


def hang_odd(modules: Sequence[tuple[str, torch.nn.Module]], values: Mapping[str, torch.Tensor]) -> None:
    """Hang buffers that appeared in the passes into their modules."""
    for path, module in modules if values else ():
        for name, value in values.items():
            owner, _, key = name.rpartition(".")
            if owner == path:
                device = next((t.device for t in module.parameters()), torch.device("cpu"))
                module._buffers[key] = value.to(device)


def same_kind(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors differ in nothing but values and memory."""
    return a.shape == b.shape and a.dtype == b.dtype and a.device == b.device


def memory_of(tensor: torch.Tensor) -> tuple[object, ...] | None:
    """What two tensors over one memory have in common; None for one that has no memory."""
    if not tensor.numel() or not tensor.data_ptr():
        return None
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def signature_of(tensor: torch.Tensor) -> tuple[object, ...]:
    """What a tensor and its memory are known by from one round to the next."""
    return (
        id(tensor),
        tensor.data_ptr(),
        tensor.shape,
        tensor.stride(),
        tensor.dtype,
        tensor.device,
    )


def find_overlaps(named: Sequence[tuple[str, torch.Tensor]]) -> list[tuple[str, str]]:
    """Names of buffers, two and two, that share a part of their memory."""
    found: list[tuple[str, str]] = []
    spans = sorted(
        (str(tensor.device), tensor.data_ptr(), tensor.data_ptr() + _extent(tensor), at)
        for at, (_, tensor) in enumerate(named)
        if memory_of(tensor) is not None
    )
    before: list[tuple[str, int, int, int]] = []
    for span in spans:
        before = [other for other in before if other[0] == span[0] and other[2] > span[1]]
        for other in before:
            (one, a), (two, b) = named[other[3]], named[span[3]]
            if _share_bytes(a, b):
                found.append((min(one, two), max(one, two)))
        before.append(span)
    return sorted(found)


def refuse_overlaps(pairs: Sequence[tuple[str, str]], changed: Collection[str], step: int) -> None:
    """Refuse that passes change one of two buffers that share memory: which of two next values would hold there?

    Args:
        pairs: From `find_overlaps`.
        changed: Names of buffers that a pass changed on some worker; as long as there are none, a table and a view of it
            do no harm.
        step: Index of the step, for the message.

    Raises:
        NumericsError: it did; the message names both.
    """
    for one, two in pairs:
        if one in changed or two in changed:
            raise NumericsError(
                f"buffers {one!r} and {two!r} share a part of their memory, and in step {step} a pass changed it; every buffer "
                f"gets a value of its own after a step, and one would overwrite the other's. Register a copy (.clone()) as "
                f"one of them."
            )


def refuse_wide(name: str, tensor: torch.Tensor) -> None:
    """Refuse a dtype whose elements cannot be compared as integers.

    Raises:
        NumericsError: the buffer is complex128.
    """
    if tensor.dtype == torch.complex128:
        raise NumericsError(
            f"buffer {name!r} is complex128; values are compared as integers of up to 8 bytes. Register "
            f"torch.view_as_real(...) of it, and use torch.view_as_complex in forward."
        )


def unlike_values(names: Sequence[str], step: int) -> NumericsError:
    """What is raised for buffers without a rule that passes changed in unlike ways."""
    return NumericsError(
        f"in step {step} passes changed {len(names)} buffer(s) in unlike ways: {', '.join(names[:5])}; a buffer that belongs to "
        f"no norm layer of torch.nn needs a rule that makes one value of many. Pass buffers={{{names[0]!r}: RULE}} to "
        f"holdtrue.init, with RULE one of mean, sum, max, min, first, per_node."
    )


def gone(name: str) -> NumericsError:
    """What is raised for a buffer that a pass took away."""
    return NumericsError(
        f"a pass set the buffer {name!r} to None or deleted it; the buffers that a step starts with must be there when "
        f"a pass ends. Take it away between steps, or keep it as an empty tensor."
    )


def _extent(tensor: torch.Tensor) -> int:
    """Bytes from the first to the last element."""
    steps = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (steps + 1) * tensor.element_size()


def _share_bytes(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors whose extents overlap share a byte; they may be interleaved."""
    if a.is_contiguous() and b.is_contiguous():
        return True
    return bool(np.intersect1d(_addresses(a), _addresses(b)).size)


def _addresses(tensor: torch.Tensor) -> npt.NDArray[np.int64]:
    """Address of every byte."""
    size = tensor.element_size()
    found = np.array([tensor.data_ptr()], dtype=np.int64)
    for n, step in zip(tensor.shape, tensor.stride(), strict=True):
        found = (found[:, np.newaxis] + np.arange(n) * step * size).reshape(-1)
    return (found[:, np.newaxis] + np.arange(size)).reshape(-1)
