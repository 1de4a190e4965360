"""Buffers that passes without gradients leave as they were: what a pass computes must not depend on those before it."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

import torch


@final
@dataclass(frozen=True, slots=True)
class _Held:
    owner: dict[str, torch.Tensor | None]
    key: str
    tensor: torch.Tensor
    values: torch.Tensor
    version: int


@final
class StillBuffers:
    """Buffers of models, put back after every pass of a call.

    A buffer that appears in a pass, or comes in another shape, is a cache that has grown: it stays. Writing through
    `buffer.data` is not seen.

    Args:
        models: Their modules' buffers are copied now.
    """

    def __init__(self, models: Iterable[torch.nn.Module]) -> None:
        owners = {id(m._buffers): m._buffers for model in models for m in model.modules()}
        self._held = [
            _Held(owner, key, tensor, tensor.detach().clone(), _version(tensor))
            for owner in owners.values()
            for key, tensor in owner.items()
            if tensor is not None
        ]

    @contextmanager
    def around_pass(self) -> Iterator[None]:
        """One pass."""
        try:
            yield
        finally:
            self._held = [self._put_back(held) for held in self._held]

    @staticmethod
    def _put_back(held: _Held) -> _Held:
        now = held.owner.get(held.key)
        if now is not held.tensor:
            if now is None or now.shape != held.values.shape or now.dtype != held.values.dtype:
                return held
            held.owner[held.key] = held.tensor
        if _version(held.tensor) == held.version or held.tensor.shape != held.values.shape:
            return held
        with torch.no_grad():
            held.tensor.copy_(held.values)
        return _Held(held.owner, held.key, held.tensor, held.values, _version(held.tensor))


def _version(tensor: torch.Tensor) -> int:
    """How often it was written to; tensors of inference mode do not count."""
    return 0 if tensor.is_inference() else tensor._version
