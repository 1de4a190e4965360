"""Fresh tensors: what may enter a pass.

Bits of a matrix product depend on how its operands lie in memory: slices of a batch as views gave other
bits in 147 of 500 outputs than tensors of their own. So a pass never sees a view, or shared memory.
"""

import copy
import dataclasses
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import torch
from torch.nn.utils.rnn import PackedSequence

Batch = Any  # whatever the user's collate_fn returns
_ALIGNMENT_BYTES = 64  # what torch's CPU allocator gives; CUDA's gives 512


def map_tensors(change: Callable[[torch.Tensor], torch.Tensor], batch: Batch) -> Batch:
    """`batch` with `change` applied to each tensor in it.

    Walks mappings, lists, tuples, named tuples and dataclasses; other leaves are kept.

    >>> map_tensors(lambda t: t + 1, {"x": torch.zeros(2), "name": "a"})
    {'x': tensor([1., 1.]), 'name': 'a'}
    """
    if isinstance(batch, torch.Tensor):
        return change(batch)
    if isinstance(batch, PackedSequence):  # all but its batch_sizes: cuDNN demands these on the CPU
        moved = ("data", "sorted_indices", "unsorted_indices")
        return batch._replace(**{name: map_tensors(change, getattr(batch, name)) for name in moved})
    if isinstance(batch, tuple):
        values = [map_tensors(change, value) for value in batch]
        return type(batch)._make(values) if hasattr(batch, "_make") else type(batch)(values)
    if type(batch) is list:
        return [map_tensors(change, value) for value in batch]
    if type(batch) is dict:
        return {key: map_tensors(change, value) for key, value in batch.items()}
    if isinstance(batch, Mapping):
        return _map_mapping(change, batch)
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        rebuilt = copy.copy(batch)
        for entry in dataclasses.fields(batch):
            object.__setattr__(rebuilt, entry.name, map_tensors(change, getattr(batch, entry.name)))
        return rebuilt
    return batch


def _map_mapping(change: Callable[[torch.Tensor], torch.Tensor], batch: Mapping[Any, Any]) -> Batch:
    values = {key: map_tensors(change, value) for key, value in batch.items()}
    if not isinstance(batch, MutableMapping):
        return values
    rebuilt = copy.copy(batch)  # keeps what else the mapping holds, as transformers' BatchEncoding does
    for key, value in values.items():
        rebuilt[key] = value
    return rebuilt


def is_fresh(tensor: torch.Tensor) -> bool:
    """Whether the tensor is dense, alone in its storage, aligned to 64 bytes and not in shared memory.

    >>> is_fresh(torch.zeros(4)), is_fresh(torch.zeros(4)[1:])
    (True, False)
    """
    storage = tensor.untyped_storage()
    return (
        tensor.storage_offset() == 0
        and storage.nbytes() == tensor.numel() * tensor.element_size()
        and tensor.data_ptr() % _ALIGNMENT_BYTES == 0
        and (tensor.is_contiguous() or _is_dense(tensor))
        and (tensor.is_cuda or not storage.is_shared())  # is_shared() is true of every CUDA storage
    )


def _is_dense(tensor: torch.Tensor) -> bool:
    """Whether the strides are those of some permutation of a contiguous tensor."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.size(), strict=True)):
        if size != 1:
            if stride != expected:
                return False
            expected *= size
    return True


def _freshen_tensor(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.layout is not torch.strided or is_fresh(tensor):
        return tensor
    return tensor.detach().clone().requires_grad_(tensor.requires_grad)


def freshen(batch: Batch) -> Batch:
    """`batch` with every tensor that is not fresh replaced by a copy of the same order in memory.

    Sparse tensors, and tensors inside objects of other kinds, are left as they are.
    """
    return map_tensors(_freshen_tensor, batch)


def batch_to_device(batch: Batch, device: torch.device) -> Batch:
    """`batch` with every tensor on `device` and fresh there; other leaves are kept.

    Copies from pinned memory do not wait for the device.
    """
    if device.type == "cpu":
        return freshen(batch)
    return map_tensors(lambda tensor: _move_tensor(tensor, device), batch)


def _move_tensor(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    return _freshen_tensor(tensor.to(device, non_blocking=tensor.device.type == "cpu" and tensor.is_pinned()))
