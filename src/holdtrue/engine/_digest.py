"""Digest of the training state: equal for equal bits, whatever the mapping and the device.

    state --flatten_state--> (path, leaf), ... --digest_entries--> digest of the whole, digest of each entry

A leaf is hashed as its type, what gives its bytes a meaning (dtype and shape), and its bytes in
little-endian order.
"""

import hashlib
import struct
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch

from holdtrue.errors import UsageError

Array: TypeAlias = "np.ndarray[Any, Any]"  # Any: every numeric dtype and shape
Leaf: TypeAlias = "torch.Tensor | Array | np.generic | complex | str | bytes | None"

SUMMABLE = frozenset((torch.float16, torch.bfloat16, torch.float32, torch.float64))
"""Floating dtypes that torch can add up; a sum is NaN if an element is, and is several times as fast as isnan."""
CANONICAL_FLOAT8 = {torch.float8_e4m3fn: 0x7F, torch.float8_e5m2: 0x7F}
"""The NaN that stands for all, for 8-bit dtypes with several; the others have one."""

BLOCK = 1 << 17
"""Elements that are looked through and hashed at a time: it bounds the memory that NaNs cost, not the speed."""


def flatten_state(value: object, path: str = "") -> Iterator[tuple[str, Leaf]]:
    """Leaves of a nested state, each with its path, in the order of sorted keys.

    Args:
        value: Dicts with keys int or str, lists and tuples of these, and leaves: tensors, numbers, bool, str,
            bytes, None, numpy arrays and scalars of numbers.
        path: Path of `value` itself.

    Returns:
        Pairs of path and leaf. Steps of a path are parted by `/`; in a key, `%` and `/` are `%25` and `%2F`.

    Raises:
        UsageError: something else is in the state; the message names its path and type.

    >>> list(flatten_state({"b": [1, (2.0,)], "a": None}))
    [('a', None), ('b/0', 1), ('b/1/0', 2.0)]
    """
    if isinstance(value, Mapping):
        items = _sorted_items(value, path)
    elif isinstance(value, list | tuple):
        items = [(str(i), item) for i, item in enumerate(value)]
    else:
        yield path, check_leaf(value, path)
        return
    for key, item in items:
        yield from flatten_state(item, f"{path}/{key}" if path else key)


def check_leaf(value: object, path: str) -> Leaf:
    """`value`, if it is something that can be hashed and saved.

    Raises:
        UsageError: it is not; the message names path and type.
    """
    if isinstance(value, torch.Tensor):
        if value.layout == torch.strided and not value.is_quantized and not value.is_meta:
            return value
        kind = "meta" if value.is_meta else "quantized" if value.is_quantized else str(value.layout)
        raise _refusal(path, f"a tensor of kind {kind}")
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.kind in "biufc" and value.dtype.name not in ("longdouble", "clongdouble", "float128"):
            return value
        raise _refusal(path, f"a numpy value of dtype {value.dtype}")
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return value
    raise _refusal(path, f"a {type(value).__module__}.{type(value).__qualname__}")


def hash_entry(leaf: Leaf) -> bytes:
    """SHA-256 of one leaf: 32 bytes.

    Args:
        leaf: A leaf of `flatten_state`.

    Guarantee:
        Equal for equal type, dtype, shape and bits; strides, device and the bits of a NaN do not count.
        -0.0 and +0.0 differ, and so do 1, 1.0 and True.

    Source:
        SHA-256, FIPS 180-4.

    >>> hash_entry(torch.tensor([1.0, 2.0])) == hash_entry(torch.tensor([1.0, 0.0, 2.0])[::2])
    True
    >>> hash_entry(0.0) == hash_entry(-0.0)
    False
    """
    if isinstance(leaf, torch.Tensor):
        return _hash_tensor(leaf)
    if isinstance(leaf, np.ndarray | np.generic):
        return _hash_array(np.asarray(leaf))
    return hashlib.sha256(_scalar_bytes(leaf)).digest()


def digest_entries(entries: Mapping[str, Leaf]) -> tuple[str, dict[str, str]]:
    """Digest of a training state, and of each of its entries.

    Args:
        entries: Leaves by name.

    Returns:
        64 hex digits for the whole, whatever the order of `entries`, and 16 by name in sorted order.

    >>> whole, each = digest_entries({"weights/b": torch.zeros(2), "weights/a": torch.zeros(2)})
    >>> len(whole), list(each), each["weights/a"] == each["weights/b"]
    (64, ['weights/a', 'weights/b'], True)
    """
    whole = hashlib.sha256()
    each: dict[str, str] = {}
    for name in sorted(entries):
        digest = hash_entry(check_leaf(entries[name], name))
        text = name.encode("utf-8", "surrogatepass")
        whole.update(b"%d|%b|%b" % (len(text), text, digest))
        each[name] = digest.hex()[:16]
    return whole.hexdigest(), each


def _sorted_items(values: Mapping[Any, object], path: str) -> list[tuple[str, object]]:  # Any: checked here
    """Items by name: keys that are numbers in their order, then the others in theirs."""
    for key in values:
        if isinstance(key, bool) or not isinstance(key, int | str):
            raise _refusal(path, f"a dict with the key {key!r} of type {type(key).__name__}")
    named: dict[str, object] = {}
    for key in sorted(values, key=lambda k: (isinstance(k, str), k)):
        name = str(key).replace("%", "%25").replace("/", "%2F")
        if name in named:
            raise _refusal(path, f"a dict with the keys {name} and {name!r}")
        named[name] = values[key]
    return list(named.items())


def _refusal(path: str, what: str) -> UsageError:
    return UsageError(
        f"{path or 'the state'} is {what}; a training state holds tensors, numbers, strings, bytes, None, "
        f"numpy arrays of numbers, and dicts (keys int or str), lists and tuples of these. "
        f"Return only such values from state_dict()."
    )


def _hash_tensor(tensor: torch.Tensor) -> bytes:
    # Conjugation and negation are flags of a view, not bits in memory: make them bits.
    plain = tensor.detach().cpu().resolve_conj().resolve_neg()
    digest = hashlib.sha256(f"tensor|{plain.dtype}|{','.join(map(str, plain.shape))}|".encode())
    if plain.is_complex():
        plain = torch.view_as_real(plain)
    flat = plain.contiguous().reshape(-1)
    for start in range(0, len(flat), BLOCK):
        digest.update(_with_canonical_nans(flat[start : start + BLOCK]).view(torch.uint8).numpy().data)
    return digest.digest()


def _with_canonical_nans(flat: torch.Tensor) -> torch.Tensor:
    """The tensor with one bit pattern for every NaN: itself where it has none."""
    if flat.dtype in SUMMABLE:
        # The sum of infinities may be NaN too: then isnan decides.
        if not flat.sum().isnan():
            return flat
        nans = flat.isnan()
        return flat.masked_fill(nans, torch.nan) if nans.any() else flat
    if flat.dtype in CANONICAL_FLOAT8:
        nans = flat.to(torch.float32).isnan()
        return flat.view(torch.uint8).masked_fill(nans, CANONICAL_FLOAT8[flat.dtype])
    return flat


def _hash_array(array: Array) -> bytes:
    header = f"array|{array.dtype.name}|{','.join(map(str, array.shape))}|"
    flat = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).reshape(-1)
    if flat.dtype.kind == "c":
        flat = flat.view(flat.real.dtype)
    if flat.dtype.kind == "f" and np.isnan(flat).any():
        flat = np.where(np.isnan(flat), flat.dtype.type(np.nan), flat)
    digest = hashlib.sha256(header.encode())
    digest.update(flat.view(np.uint8).data)
    return digest.digest()


def _scalar_bytes(leaf: complex | str | bytes | None) -> bytes:
    """Bytes that no other plain value has: its type, then its text or its IEEE bits."""
    if leaf is None:
        return b"none|"
    if isinstance(leaf, bool):
        return b"bool|%d" % leaf
    if isinstance(leaf, int):
        return b"int|%d" % leaf
    if isinstance(leaf, float):
        return b"float|" + _double_bytes(leaf)
    if isinstance(leaf, complex):
        return b"complex|" + _double_bytes(leaf.real) + _double_bytes(leaf.imag)
    if isinstance(leaf, str):
        return b"str|" + leaf.encode("utf-8", "surrogatepass")
    return b"bytes|" + leaf


def _double_bytes(value: float) -> bytes:
    return struct.pack("<d", value if value == value else float("nan"))
