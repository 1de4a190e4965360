"""Numbers that a script hands over: what counts as one, and what a weight may be."""

import math
from typing import Any

import torch

from holdtrue.errors import UsageError
from holdtrue.units import cut_text


def one_number(value: Any) -> float | None:  # Any: whatever a script passes
    """The one number that `value` is or holds; None for a text, a tensor of several, and what else is none.

    >>> one_number(3), one_number(torch.tensor([2.5])), one_number("3"), one_number(torch.ones(3)), one_number(1j)
    (3.0, 2.5, None, None, None)
    """
    if isinstance(value, str | bytes | bytearray) or (isinstance(value, torch.Tensor) and value.numel() != 1):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None


def describe_value(value: Any) -> str:  # Any: whatever a script passes
    """A value in a message: a tensor of several elements by its shape.

    >>> describe_value(torch.ones(3)), describe_value("x"), describe_value(float("nan"))
    ('a tensor of shape (3,)', "'x'", 'nan')
    """
    if isinstance(value, torch.Tensor) and value.numel() != 1:
        return f"a tensor of shape {tuple(value.shape)}"
    return cut_text(repr(value.item() if isinstance(value, torch.Tensor) else value), 80)


def checked_number(value: Any, *, call: str, name: str) -> float:  # Any: whatever a script passes
    """`value` as a number.

    Args:
        value: What the script passed.
        call: Where, for the message, such as `run.log`.
        name: As what.

    Raises:
        UsageError: it is not one number.
    """
    number = one_number(value)
    if number is None:
        raise UsageError(
            f"{call} was given {describe_value(value)} for {name!r}; it takes numbers and tensors of one element. "
            f"Pass one number, such as a mean or a sum."
        )
    return number


def checked_weight(value: Any, *, what: str, way_out: str) -> float:  # Any: whatever a script passes
    """`value` as a weight.

    Args:
        value: What the script passed.
        what: Whose weight it is, for the message.
        way_out: What to give instead: a sentence.

    Raises:
        UsageError: it is negative, not finite, or not one number.
    """
    number = one_number(value)
    if number is None or not 0.0 <= number < math.inf:
        raise UsageError(
            f"{what} is {describe_value(value)}; a weight is a number of items, 0 or more. {way_out}"
        )
    return number
