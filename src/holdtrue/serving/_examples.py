"""What an example looks like, and reading one from JSON: whatever does not fit is a sentence. Pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np

from holdtrue.errors import DataError

from ._frames import Array

MOST_TEXT = 100_000
"""Characters of a text."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ArraySpec:
    """One array of an example."""

    shape: tuple[int, ...]
    """Without the axis of examples."""
    dtype: str
    """A name of `_frames.DTYPES`."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleSpec:
    """What a model takes as one example."""

    kind: Literal["array", "arrays", "text"]
    """One array, several by name, or a text."""
    arrays: Mapping[str, ArraySpec]
    """By name; one array alone is called `input`, a text has none."""

    def to_dict(self) -> dict[str, Any]:  # Any: JSON values
        """The spec as JSON values."""
        arrays = {name: {"shape": list(a.shape), "dtype": a.dtype} for name, a in self.arrays.items()}
        return {"kind": self.kind, "arrays": arrays}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ExampleSpec":  # Any: JSON values
        """The spec that `to_dict` wrote."""
        arrays = {
            str(name): ArraySpec(shape=tuple(int(n) for n in a["shape"]), dtype=str(a["dtype"]))
            for name, a in values["arrays"].items()
        }
        return cls(kind=values["kind"], arrays=arrays)


def read_instance(value: Any, spec: ExampleSpec, place: str) -> str | dict[str, Array]:  # Any: JSON values
    """One example from JSON.

    Args:
        value: What the request has.
        spec: What the model takes.
        place: How sentences call it, such as `instances[0]`.

    Returns:
        A text, or fresh arrays by name.

    Raises:
        DataError: it does not fit.

    >>> spec = ExampleSpec(kind="array", arrays={"input": ArraySpec(shape=(2,), dtype="float32")})
    >>> read_instance([1, 2.5], spec, "instances[0]")
    {'input': array([1. , 2.5], dtype=float32)}
    """
    if spec.kind == "text":
        if not isinstance(value, str) or len(value) > MOST_TEXT:
            found = f"a text of {len(value)} characters" if isinstance(value, str) else _kind_of(value)
            raise DataError(
                f"{place} is {found}; the model takes a text of at most {MOST_TEXT} characters. Send a JSON string."
            )
        return value
    if spec.kind == "array":
        return {"input": _read_array(value, spec.arrays["input"], place)}
    if not isinstance(value, dict) or set(value) != set(spec.arrays):
        found = f"an object of {_names(value)}" if isinstance(value, dict) else _kind_of(value)
        raise DataError(
            f"{place} is {found}; the model takes an object of {_names(spec.arrays)}. Send these and no others."
        )
    return {name: _read_array(value[name], array, f"{place}.{name}") for name, array in spec.arrays.items()}


def _read_array(value: Any, spec: ArraySpec, place: str) -> Array:  # Any: JSON values
    try:
        # An array of texts has the width of the longest at every place, which a short body can make huge.
        types = set(map(type, np.array(value, dtype=object).flat))
        found = None if str in types else np.array(value)
    except (ValueError, OverflowError):
        raise DataError(
            f"{place} is a list of lists of unlike lengths, or too deep; it has the shape {list(spec.shape)}. "
            f"Send rows of one length."
        ) from None
    if found is None:
        raise DataError(f"{place} holds texts; the model takes {spec.dtype}. Send such numbers.")
    kind = "b" if bool in types else found.dtype.kind  # NumPy makes numbers of truth values beside numbers
    if kind not in _KINDS[np.dtype(spec.dtype).kind] and found.size:
        raise DataError(
            f"{place} holds {_ELEMENTS.get(kind, 'values that are no numbers')}; the model takes {spec.dtype}. "
            f"Send such numbers."
        )
    if found.shape != spec.shape:
        raise DataError(
            f"{place} has the shape {list(found.shape)}; an example of this model has {list(spec.shape)}. "
            f"Send one example without an axis of examples."
        )
    with np.errstate(over="ignore"):
        fitted = found.astype(spec.dtype)
    if fitted.dtype.kind == "f" and not np.isfinite(fitted).all():
        raise DataError(
            f"{place} holds a number that is not finite in {spec.dtype}; the model takes finite ones. Leave it out or clip it."
        )
    if fitted.dtype.kind in "iu" and not np.array_equal(fitted, found):
        raise DataError(
            f"{place} holds a whole number that {spec.dtype} cannot have; the numbers are within its range. Send such numbers."
        )
    return fitted


_KINDS = {"f": "fiu", "i": "iu", "u": "iu", "b": "b"}
_ELEMENTS = {
    "f": "fractions",
    "i": "whole numbers",
    "u": "whole numbers",
    "b": "truth values",
}


def _kind_of(value: Any) -> str:  # Any: JSON values
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "a truth value", type(None): "null"}
    return kinds.get(type(value), "a number")


def _names(values: Mapping[str, Any]) -> str:  # Any: JSON values
    return ", ".join(repr(str(name))[:40] for name in list(values)[:8]) or "nothing"


def write_output(array: Array) -> Any:  # Any: JSON values
    """One output of one example as JSON values that have all its bits; a number that is not finite is its text.

    >>> write_output(np.array([0.5, float("nan")], dtype=np.float32))
    [0.5, 'nan']
    """
    values = array.tolist()
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        return _with_texts(values)
    return values


def _with_texts(value: Any) -> Any:  # Any: JSON values
    if isinstance(value, list):
        return [_with_texts(item) for item in value]
    return value if math.isfinite(value) else repr(value)
