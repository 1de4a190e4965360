"""Which operators are covered, and by what."""

import difflib
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from holdtrue.errors import NumericsError

Form = Callable[..., Any]  # Any: what the operator's schema says
F = TypeVar("F", bound=Form)

FORMS: dict[str, Form] = {}
"""Portable forms by operator name (`"softmax"` of ATen, or `"library::name"`); they take the operator's arguments."""

MOVES: set[str] = set()
"""Operators that move, select or compare values, for any dtype."""

IEEE: set[str] = set()
"""Operators that are one IEEE operation for each element, for float32 and float64."""


IN_PLACE: dict[str, Form] = {}
"""Forms that write to their first argument, for float32 alone: the same bits as the form and a copy, without the copy."""

ADDED: dict[str, Form] = {}
"""Those of FORMS that a user registered."""

RUNNERS: dict[Any, Form | None] = {}
"""How the mode runs an overload, as far as it has met it. Any: overloads of operators."""


def form(*names: str) -> Callable[[F], F]:
    """Make a function the portable form of operators; in-place, `out=` and `_foreach_` variants follow from it."""

    def keep(function: F) -> F:
        for name in names:
            FORMS[name] = function
        return function

    return keep


def register_operator(name: str, function: Form) -> None:
    """Add a portable form of an operator.

    Args:
        name: ATen's name without overload, such as `"cumprod"`, or `"library::name"` of a custom operator.
        function: Takes the operator's arguments and returns what it returns, from operators that are covered, or from
            kernels of its own. It runs below autograd, outside the mode. Test it with `check_portable`.

    Raises:
        NumericsError: the operator has a form already; there is no such operator; the form is no function.
    """
    if not isinstance(name, str) or not callable(function):
        raise NumericsError(
            f"register_operator was given {name!r} and {function!r}; it takes the name of an operator and a "
            f"function of its arguments. Pass these."
        )
    if name.startswith("aten::") or ("::" not in name and not hasattr(torch.ops.aten, name)):
        raise NumericsError(
            f"there is no operator {name!r}; ATen's are named without library and overload, such as 'lgamma', others as "
            f"'library::name'. Give the name as the refusal has it."
        )
    if name in FORMS:
        raise NumericsError(
            f"operator {name!r} has a portable form already; two would make its bits depend on which was registered last. "
            f"Remove one of the registrations, or register the operator under a name of its own."
        )
    FORMS[name] = ADDED[name] = function
    RUNNERS.clear()


def covered_operators() -> dict[str, tuple[str, ...]]:
    """Names of covered operators by kind: computed by forms of this room, IEEE by element, moves."""
    return {"forms": tuple(sorted(FORMS)), "ieee": tuple(sorted(IEEE)), "moves": tuple(sorted(MOVES))}


INSTEAD: dict[str, str] = {
    "_cdist_forward": "the differences themselves, squared and summed",
    "_ctc_loss": "numerics='exact' for this loss",
    "_fft_c2c": "a matrix product with the cosines and sines of the transform",
    "_fft_c2r": "a matrix product with the cosines and sines of the transform",
    "_fft_r2c": "a matrix product with the cosines and sines of the transform",
    "_scaled_dot_product_flash_attention_for_cpu": "attention called from Python, not in an exported program",
    "acos": "a form of your own (polynomials in float64: +, * and / have one answer)",
    "asin": "a form of your own (polynomials in float64: +, * and / have one answer)",
    "atan": "a form of your own (polynomials in float64: +, * and / have one answer)",
    "atan2": "a form of your own (polynomials in float64: +, * and / have one answer)",
    "kthvalue": "sort, then select",
    "lgamma": "a form of your own (polynomials in float64: +, * and / have one answer)",
    "logcumsumexp": "log(cumsum(exp(x - max))) + max",
    "max_pool3d_with_indices": "unfold, then amax",
    "mkldnn_rnn_layer": "the layer called from Python, not in an exported program",
    "median": "sort, then select",
    "multinomial": "argmax(log(p) - log(-log(u))) with u = torch.rand (Gumbel)",
    "upsample_bicubic2d": "upsample_bilinear2d",
}
"""What stands for operators that are asked for and not covered, where a like name would mislead."""


def nearest(name: str) -> str:
    """The covered operator that comes closest, as the end of a sentence: by meaning where known, else by name."""
    bare = name.split("::")[-1]
    if bare in INSTEAD:
        return f"the nearest covered form is {INSTEAD[bare]}"
    found = difflib.get_close_matches(bare.strip("_"), sorted({*FORMS, *IEEE}), n=1, cutoff=0.6)
    return f"the nearest covered operator is {found[0]!r}" if found else "no covered operator has a like name"
