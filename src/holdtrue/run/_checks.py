"""What a script passes to its run, checked: a sentence each."""

import json
import os
from collections.abc import Mapping
from operator import index
from pathlib import Path
from typing import Any

from holdtrue.engine import checked_number, describe_value, one_number
from holdtrue.errors import PlanError, UsageError
from holdtrue.units import cut_text


def as_whole(value: Any) -> int | None:  # Any: whatever a script passes
    """`value` as an int, if it is a whole number of any library's type.

    >>> as_whole(3), as_whole(3.0), as_whole("3")
    (3, None, None)
    """
    try:
        return index(value)
    except TypeError:
        return None


def whole_number(name: str, value: Any, *, least: int, what: str) -> int:  # Any: whatever a script passes
    """`value` as a whole number of at least `least`.

    Args:
        name: The argument's.
        value: What the script passed.
        least: The smallest that is right.
        what: What it counts, for the message.

    Raises:
        UsageError: it is smaller, or no whole number.
    """
    number = as_whole(value)
    if number is None or number < least:
        raise UsageError(
            f"{name} is {cut_text(repr(value), 80)}; it is a whole number of {what}, {least} or more. Pass such a number."
        )
    return number


def numbers_by_name(
    call: str, values: Mapping[str, Any]
) -> dict[str, float]:  # Any: whatever a script passes
    """Values as numbers.

    Raises:
        UsageError: one is not one number.
    """
    return {name: checked_number(value, call=call, name=name) for name, value in values.items()}


def norm_above_zero(max_grad_norm: Any) -> float | None:  # Any: whatever a script passes
    """The largest norm that gradients may have, None for any: at 0 nothing is trained, below it the loss grows.

    Raises:
        UsageError: it is not above 0.

    >>> norm_above_zero(-1.0)
    Traceback (most recent call last):
    holdtrue.errors.UsageError: max_grad_norm is -1.0; it is a number above 0, or None. Leave it out for gradients as they are.
    """
    norm = None if max_grad_norm is None else one_number(max_grad_norm)
    if max_grad_norm is not None and not (norm or 0.0) > 0.0:
        raise UsageError(
            f"max_grad_norm is {describe_value(max_grad_norm)}; it is a number above 0, or None. Leave it out for gradients "
            f"as they are."
        )
    return norm


def path_of_file(call: str, path: Any) -> Path:  # Any: whatever a script passes
    """The path of a file that a script names.

    Raises:
        UsageError: it is no path, or that of a folder.
    """
    if not isinstance(path, str | os.PathLike) or not Path(path).name or Path(path).is_dir():
        raise UsageError(
            f"{call} was given {cut_text(repr(path), 80)}; it takes the path of a file. Pass one such as 'model.safetensors'."
        )
    return Path(path)


def path_of_any(call: str, path: Any) -> Path:  # Any: whatever a script passes
    """The path of a file or folder that a script names.

    Raises:
        UsageError: it is no path.
    """
    if not isinstance(path, str | os.PathLike):
        raise UsageError(
            f"{call} was given {cut_text(repr(path), 80)}; it takes the path of a file or folder. Pass a text or a Path."
        )
    return Path(path)


def check_function(call: str, fn: Any) -> None:  # Any: whatever a script passes
    """Refuse what cannot be called with a batch.

    Raises:
        UsageError: `fn` is such.
    """
    if not callable(fn):
        raise UsageError(
            f"{call} was given {describe_value(fn)} as its function; it calls that with each batch. "
            f"Pass the function first, then the data."
        )


def json_text(call: str, value: Any) -> str:  # Any: whatever a script passes
    """`value` as JSON.

    Raises:
        UsageError: JSON has no such value.
    """
    try:
        return json.dumps(value)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"{call} was given {cut_text(repr(value), 80)}, which JSON cannot hold ({error}); it takes texts, numbers, "
            f"booleans, None, lists, and dicts with texts as keys. Pass such a value, for example a list."
        ) from error


def check_arguments(script: Mapping[str, Any]) -> None:  # Any: what the script passed to init
    """Refuse arguments of `holdtrue.init` of another kind than a plan and its settings have.

    Raises:
        PlanError, UsageError: one is.
    """
    unit, buffers, run_dir = (script.get(name) for name in ("weight_unit", "buffers", "run_dir"))
    if unit is not None and not ((one_number(unit) or 0.0) > 0.0):
        raise PlanError(
            f"weight_unit is {cut_text(repr(unit), 80)}; it must be a positive number of items. "
            f"Leave it out for global_batch_size / virtual_nodes."
        )
    if buffers is not None and not (
        isinstance(buffers, Mapping) and all(isinstance(n, str) for n in buffers)
    ):
        raise PlanError(
            f"buffers is {cut_text(repr(buffers), 80)}; it is a dict of name patterns and rules. "
            f"Pass one such as {{'*.running_mean': 'mean'}}."
        )
    if run_dir is not None and not isinstance(run_dir, str | os.PathLike):
        raise UsageError(
            f"run_dir is {cut_text(repr(run_dir), 80)}; it is the path of a folder. Pass a text."
        )
