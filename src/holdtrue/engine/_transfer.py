"""A state as plain text and tensors, and its copy from workers that have it to those that do not.

Nothing that comes from another worker is unpickled: the text is JSON with a tag for everything that JSON has
not, and tensors are copied byte by byte into memory of their dtype and shape.
"""

import hashlib
import json
import math
import struct
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import safetensors.torch
import torch

from holdtrue.errors import GroupError
from holdtrue.reduce import Group

from ._pack import pack_state, unpack_state

PART_BYTES = 64 * 2**20
"""Longest message of a copy, in bytes."""

BUNDLE_BYTES = 2**20
"""Tensors up to this size travel together, in bytes."""

_MAPPINGS = {"dict": dict, "ordered": OrderedDict, "counter": Counter}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StateText:
    """A state as text, with its tensors beside it."""

    text: bytes
    """JSON; a tensor stands in it by its number, dtype and shape."""
    tensors: list[torch.Tensor]
    """The tensors by number, on the CPU, contiguous."""


def write_state_text(state: object) -> StateText:
    """The state as text and tensors; tensors that are contiguous on the CPU are not copied.

    Args:
        state: What `pack_state` takes.

    Raises:
        UsageError: something in it cannot be written; the message names its path and type.

    >>> read_state_text(write_state_text({"a": (1, 2.5, None), 3: torch.ones(2)}))
    {'a': (1, 2.5, None), 3: tensor([1., 1.])}
    """
    tensors: list[torch.Tensor] = []
    value = _write(pack_state(state), tensors)
    return StateText(text=json.dumps(value).encode(), tensors=tensors)


def read_state_text(found: StateText) -> Any:  # Any: nested plain values
    """The state that `write_state_text` wrote."""
    return unpack_state(_read(json.loads(found.text), found.tensors))


def _write(value: Any, tensors: list[torch.Tensor]) -> Any:  # Any: packed plain values; JSON
    if isinstance(value, torch.Tensor):
        tensors.append(value.contiguous())
        return {"tensor": [len(tensors) - 1, str(value.dtype).removeprefix("torch."), list(value.shape)]}
    if isinstance(value, Mapping):
        kind = next((k for k, v in _MAPPINGS.items() if type(value) is v), "dict")
        return {kind: [[_write(k, tensors), _write(v, tensors)] for k, v in value.items()]}
    if isinstance(value, list):
        return [_write(item, tensors) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [_write(item, tensors) for item in value]}
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, complex):
        return {"complex": [value.real.hex(), value.imag.hex()]}
    return value


def _read(value: Any, tensors: Sequence[torch.Tensor]) -> Any:  # Any: JSON; packed plain values
    if isinstance(value, list):
        return [_read(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, inside),) = value.items()
    match kind:
        case "tensor":
            return tensors[inside[0]]
        case "tuple":
            return tuple(_read(item, tensors) for item in inside)
        case "bytes":
            return bytes.fromhex(inside)
        case "complex":
            return complex(*map(float.fromhex, inside))
        case _:
            pairs = {_read(k, tensors): _read(v, tensors) for k, v in inside}
            return pairs if kind == "dict" else _MAPPINGS[kind](pairs)


def _shapes_in(value: Any) -> Iterator[tuple[int, str, list[int]]]:  # Any: JSON
    if isinstance(value, list):
        for item in value:
            yield from _shapes_in(item)
    elif isinstance(value, dict):
        ((kind, inside),) = value.items()
        if kind == "tensor":
            yield inside
        else:
            yield from _shapes_in(inside)


def state_to_bytes(state: object) -> bytes:
    """A state in one message, for states of a few kilobytes; see `write_state_text`.

    >>> bytes_to_state(state_to_bytes({"at": 3, "w": torch.zeros(2)}))
    {'at': 3, 'w': tensor([0., 0.])}
    """
    found = write_state_text(state)
    tensors = safetensors.torch.save({str(i): tensor.clone() for i, tensor in enumerate(found.tensors)})
    return struct.pack("<Q", len(found.text)) + found.text + tensors


def bytes_to_state(message: bytes) -> Any:  # Any: nested plain values
    """The state that `state_to_bytes` wrote."""
    (length,) = struct.unpack_from("<Q", message)
    tensors = safetensors.torch.load(message[8 + length :])
    return read_state_text(
        StateText(text=message[8 : 8 + length], tensors=[tensors[str(i)] for i in range(len(tensors))])
    )


def copy_state(group: Group, state: StateText | None, *, is_taker: bool, what: str) -> StateText | None:
    """Give a state to the workers that lack it; every worker of the group calls it.

    Args:
        group: The workers; at least one gives, and the states of all who give are equal.
        state: The state, on a worker that gives it; None on others.
        is_taker: Whether this worker lacks it.
        what: What the state is, for messages.

    Returns:
        The state, on a worker that lacked it; None on the others.

    Blocks:
        Until the copy is complete, at most the group's time-out.
    """
    digest = hashlib.sha256(state.text).hexdigest() if state is not None else ""
    role = "take" if is_taker else digest
    roles = [r.decode() for r in group.gather_bytes(role.encode(), what=what)]
    givers = [rank for rank, r in enumerate(roles) if r not in ("", "take")]
    if not givers:
        raise GroupError(f"no worker of the group has {what}; nobody can give it to the others.")
    first = givers[0]
    text = group.gather_bytes(state.text if state and group.rank == first else b"", what=what)[first]
    # Equal states can differ in the order of their entries; then they would be cut up differently.
    givers = [rank for rank in givers if roles[rank] == roles[first]]
    takers = [rank for rank, r in enumerate(roles) if r == "take"]
    routes = {taker: givers[i % len(givers)] for i, taker in enumerate(takers)}
    shapes = sorted(_shapes_in(json.loads(text)))
    own: list[torch.Tensor] = []
    if is_taker:
        own = [torch.empty(shape, dtype=_dtype_of(name)) for _, name, shape in shapes]
    elif state is not None and group.rank in routes.values():
        own = state.tensors
    flats = [_bytes_of(tensor) for tensor in own]
    for part in _parts([_size_of(name, shape) for _, name, shape in shapes]):
        pieces = [flats[i][a:b] for i, a, b in part] if flats else []
        _copy_part(group, pieces, sum(b - a for _, a, b in part), routes, what)
    return StateText(text=text, tensors=own) if is_taker else None


def _size_of(name: str, shape: Sequence[int]) -> int:
    return math.prod(shape) * _dtype_of(name).itemsize


def _dtype_of(name: str) -> torch.dtype:
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise GroupError(f"another worker sent a tensor of dtype {name!r}, which this torch has not.")
    return dtype


def _bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return real.reshape(-1).view(torch.uint8)


def _parts(sizes: Sequence[int]) -> Iterator[list[tuple[int, int, int]]]:
    """Messages: lists of (tensor, first byte, end); large tensors by themselves, in pieces, small ones together."""
    bundle: list[tuple[int, int, int]] = []
    bundled = 0
    for i, size in enumerate(sizes):
        if size > BUNDLE_BYTES:
            yield from ([(i, a, min(a + PART_BYTES, size))] for a in range(0, size, PART_BYTES))
            continue
        bundle.append((i, 0, size))
        bundled += size
        if bundled > BUNDLE_BYTES:
            yield bundle
            bundle, bundled = [], 0
    if bundled:
        yield bundle


def _copy_part(
    group: Group, pieces: list[torch.Tensor], length: int, routes: Mapping[int, int], what: str
) -> None:
    """One message of `length` bytes from every giver to each of its takers; `pieces` are none elsewhere."""
    nothing = torch.empty(0, dtype=torch.uint8, device=group.device)
    targets = [taker for taker in sorted(routes) if routes[taker] == group.rank]
    is_taker = group.rank in routes
    source = (
        (torch.cat(pieces * len(targets)) if len(pieces) * len(targets) > 1 else pieces[0])
        if targets
        else nothing
    )
    target = torch.empty(length, dtype=torch.uint8, device=group.device) if is_taker else nothing
    if is_taker and len(pieces) == 1 and group.device.type == "cpu":
        target = pieces[0]
    incoming = [length if routes.get(group.rank) == rank else 0 for rank in range(group.world_size)]
    outgoing = [length if rank in targets else 0 for rank in range(group.world_size)]
    group.exchange(target, source.to(group.device), incoming, outgoing, what=what).wait()
    if is_taker and target is not pieces[0]:
        for piece, value in zip(pieces, target.cpu().split([p.numel() for p in pieces]), strict=True):
            piece.copy_(value)
