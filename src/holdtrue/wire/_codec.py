"""Frozen dataclasses as JSON objects, read back strictly: for messages that came over a network."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cache
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from holdtrue.errors import UsageError

from ._text import escape_text

MOST_CHARACTERS = 65_536
"""Characters of one text in a message."""
MOST_MAPPING = 60_000
"""Characters of a mapping's text: any of 8,192 virtual nodes has fewer, and it fits a request's body of 64 KiB."""
MOST_ITEMS = 8192
"""Items of one list or object in a message."""
_MOST_WHOLE = 2**53
T = TypeVar("T")


class MisfitError(Exception):
    """A JSON value that is not what its field asks for; the text says what is wrong with it."""


def to_json(value: object) -> object:
    """A dataclass, tuple, mapping or plain value as JSON values; infinities and NaN become their names."""
    if hasattr(value, "__dataclass_fields__"):
        return {field.name: to_json(getattr(value, field.name)) for field in fields(value)}  # type: ignore[arg-type]  # it is one
    if isinstance(value, Mapping):
        return {str(name): to_json(inner) for name, inner in value.items()}
    if isinstance(value, tuple | list):
        return [to_json(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def load_object(text: str | bytes, *, most_bytes: int) -> dict[str, Any]:  # Any: JSON values
    """The JSON object that `text` is.

    Raises:
        MisfitError: it is too long, no JSON, or not an object.
    """
    if len(text) > most_bytes:
        raise MisfitError(f"it has {len(text)} bytes; at most {most_bytes} are read")
    try:
        values = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise MisfitError("it is not JSON") from None
    if not isinstance(values, dict):
        raise MisfitError("it is not a JSON object")
    return values


def read_fields(kind: type[T], values: Mapping[str, object]) -> T:
    """A `kind` with the values of a JSON object.

    Raises:
        MisfitError: a field is missing, unknown, of another type or out of its range.
    """
    readers = _readers_of(kind)  # type: ignore[arg-type]  # a class is hashable
    unknown, missing = sorted(set(values) - set(readers)), sorted(set(readers) - set(values))
    if unknown or missing:
        raise MisfitError(f"it has the unknown fields {_cut(unknown)} and lacks {missing}")
    read = {}
    for name, value in values.items():
        try:
            read[name] = readers[name](value)
        except MisfitError as misfit:
            raise MisfitError(f"its {name} is {_cut(value)}: {misfit}") from None
    try:
        return kind(**read)
    except UsageError as error:
        raise MisfitError(str(error)) from None


def _cut(value: object) -> str:
    return escape_text(repr(value)[:120])


def _refuse_constant(name: str) -> float:
    raise ValueError(name)


@cache
def _readers_of(kind: Any) -> Mapping[str, Callable[[object], Any]]:  # Any: a dataclass
    hints = get_type_hints(kind)
    return {field.name: _reader_of(hints[field.name]) for field in fields(kind)}


def _reader_of(hint: Any) -> Callable[[object], Any]:  # Any: a type, in any of its notations
    origin, inner = get_origin(hint), get_args(hint)
    if origin is UnionType:  # `X | None` is the only union in messages
        read = _reader_of(inner[0])
        return lambda value: None if value is None else read(value)
    if origin is Literal:
        return lambda value: _read_choice(value, inner)
    if origin is tuple:
        item = _reader_of(inner[0])
        return lambda value: tuple(item(each) for each in _read_list(value))
    if hint in _PLAIN:
        return _PLAIN[hint]
    if origin is not None:
        return _read_facts
    return lambda value: read_fields(hint, _read_object(value))


def _read_choice(value: object, choices: tuple[object, ...]) -> object:
    if value not in choices:
        raise MisfitError(f"it must be one of {', '.join(map(str, choices))}")
    return value


def _read_list(value: object) -> list[object]:
    if not isinstance(value, list) or len(value) > MOST_ITEMS:
        raise MisfitError(f"it must be a list of at most {MOST_ITEMS}")
    return value


def _read_object(value: object) -> dict[str, object]:
    if not isinstance(value, dict) or len(value) > MOST_ITEMS:
        raise MisfitError(f"it must be an object of at most {MOST_ITEMS} entries")
    return value


def _read_whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > _MOST_WHOLE:
        raise MisfitError("it must be a whole number")
    return value


def _read_number(value: object) -> float:
    if isinstance(value, str) and value in ("nan", "inf", "-inf"):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e300:
        raise MisfitError("it must be a number")
    return float(value)


def _read_text(value: object) -> str:
    if not isinstance(value, str) or len(value) > MOST_CHARACTERS:
        raise MisfitError(f"it must be a text of at most {MOST_CHARACTERS} characters")
    return escape_text(value)


def _read_truth(value: object) -> bool:
    if not isinstance(value, bool):
        raise MisfitError("it must be true or false")
    return value


def _read_facts(value: object) -> Mapping[str, object]:
    """Names and plain values: what a run says of itself."""
    facts = _read_object(value)
    if len(facts) > 64:
        raise MisfitError("it must have at most 64 entries")
    return {_read_text(name): _read_fact(fact) for name, fact in facts.items()}


def _read_fact(value: object) -> object:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return _read_whole(value)
    return _read_text(value) if isinstance(value, str) else _read_number(value)


_PLAIN: dict[Any, Callable[[object], Any]] = {
    int: _read_whole,
    float: _read_number,
    str: _read_text,
    bool: _read_truth,
}
