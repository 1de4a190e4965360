"""Weights and state as files of values, without code: safetensors, and `torch.load(weights_only=True)`."""

import os
import re
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError

from holdtrue.errors import UsageError

from ._digest import check_leaf, flatten_state

NUMPY = "holdtrue.numpy"
"""Key of a dict that stands for a numpy value: `array` or `scalar`; its values are under `values`."""

SAVED_DTYPES = frozenset(
    getattr(torch, name)
    for name in (
        *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
        *("float16", "bfloat16", "float32", "float64", "complex64"),
        *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"),
    )
)
"""What safetensors writes and reads back."""


def pack_state(state: object) -> Any:  # Any: nested plain values
    """The state with tensors on the CPU, numpy values as tensors, and plain containers.

    Args:
        state: What `flatten_state` takes.

    Raises:
        UsageError: something in it cannot be saved; the message names its path and type.

    >>> unpack_state(pack_state({"a": np.float32(0.5), "b": (1, [2])}))
    {'a': np.float32(0.5), 'b': (1, [2])}
    """
    for path, _ in flatten_state(state):
        if NUMPY in path.split("/"):
            raise UsageError(
                f"{path} has the key {NUMPY!r}; checkpoints mark numpy values with it. "
                f"Give the key another name."
            )
    return _pack(state)


def unpack_state(packed: Any) -> Any:  # Any: nested plain values
    """The state that `pack_state` packed."""
    if isinstance(packed, dict):
        if NUMPY in packed:
            array = packed["values"].numpy()
            return array[()] if packed[NUMPY] == "scalar" else array
        for key, value in packed.items():
            packed[key] = unpack_state(value)
        return packed
    if isinstance(packed, list):
        return [unpack_state(item) for item in packed]
    if isinstance(packed, tuple):
        return tuple(unpack_state(item) for item in packed)
    return packed


def _pack(value: Any) -> Any:  # Any: checked by pack_state
    if isinstance(value, torch.Tensor):
        return _pack_tensor(value)
    if isinstance(value, np.ndarray | np.generic):
        native = np.array(value, dtype=value.dtype.newbyteorder("="))
        return {
            NUMPY: "array" if isinstance(value, np.ndarray) else "scalar",
            "values": torch.from_numpy(native),
        }
    if isinstance(value, Mapping):
        # Optimizers and schedulers of torch keep these two; any other mapping comes back as a dict.
        packed = {_pack_plain(key): _pack(item) for key, item in value.items()}
        kind = next((k for k in (OrderedDict, Counter) if isinstance(value, k)), None)
        return kind(packed) if kind else packed
    if isinstance(value, list):
        return [_pack(item) for item in value]
    if isinstance(value, tuple):
        return tuple(_pack(item) for item in value)
    return _pack_plain(value)


def _pack_plain(value: bool | complex | str | bytes | None) -> bool | complex | str | bytes | None:
    """A member of an enumeration, or of another subclass, as the plain value that it is."""
    if isinstance(value, bool | None):
        return value
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, complex):
        return complex.__complex__(value)
    return bytes.__bytes__(value)


def _pack_tensor(tensor: torch.Tensor) -> torch.Tensor:
    plain = tensor.detach().cpu().resolve_conj().resolve_neg()
    # torch.save writes the whole memory that a view looks into.
    if plain.untyped_storage().nbytes() > plain.numel() * plain.element_size():
        return plain.clone(memory_format=torch.contiguous_format)
    return plain


def write_weights(path: Path, stem: str, tensors: Mapping[str, torch.Tensor]) -> None:
    """Writes a state dict to a file that plain `model.load_state_dict(load_file(path))` takes.

    Args:
        path: The file.
        stem: Its name without suffix, for messages.
        tensors: Tensors of any strides and devices; tied ones are written once each.

    Raises:
        UsageError: a value cannot be saved; the message names it.
        OSError: the disk refuses.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", stem):
        raise UsageError(
            f"{stem!r} is the name of a file of weights; it has letters, digits, '.', '_' and '-' only. "
            f"Rename it."
        )
    plain: dict[str, torch.Tensor] = {}
    memories: set[tuple[str, int]] = set()
    for name, tensor in tensors.items():
        check_leaf(tensor, f"{stem}/{name}")
        if not isinstance(tensor, torch.Tensor) or tensor.dtype not in SAVED_DTYPES:
            raise _unsaved(f"{stem}/{name}", tensor)
        value = tensor.detach().resolve_conj().resolve_neg().contiguous()
        # safetensors refuses tensors that share memory, and load_state_dict wants every name.
        memory = (str(value.device), value.untyped_storage().data_ptr())
        plain[name] = value.clone() if memory in memories else value
        memories.add(memory)
    with _disk_errors():
        safetensors.torch.save_file(plain, path, metadata={"format": "pt"})
        path.chmod(0o644)  # safetensors leaves it to its owner alone, and anyone may load it


def _unsaved(name: str, value: object) -> UsageError:
    found = f"a tensor of {value.dtype}" if isinstance(value, torch.Tensor) else f"a {type(value).__name__}"
    return UsageError(
        f"{name} is {found}; a file of weights holds tensors of the dtypes of safetensors. "
        f"Keep it out of the model's state_dict (register_buffer with persistent=False) "
        f"and hand it to run.register."
    )


def write_state(path: Path, state: object) -> None:
    """Writes a state to a file, packed.

    Raises:
        UsageError: a value cannot be saved; the message names it.
        OSError: the disk refuses.
    """
    packed = pack_state(state)
    with open(path, "wb") as file, _disk_errors():
        torch.save(packed, file)


@contextmanager
def _disk_errors() -> Iterator[None]:
    """Lets an OSError out where torch and safetensors hide it in an error of their own."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number:
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
        raise
