"""Python's own numbers: pow and cos in optimizers and schedulers call libm, whose last bit differs by machine.

A `Steady` is a float whose power is computed by decimal arithmetic, correctly rounded; other arithmetic on floats is
IEEE as it is. Optimizers and schedulers run with their settings as Steady numbers, and with a `math` of their own.
"""

import decimal
import math
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from functools import lru_cache
from typing import Any

from holdtrue.errors import NumericsError

_CONTEXT = decimal.Context(prec=60, Emin=-999_999, Emax=999_999, rounding=decimal.ROUND_HALF_EVEN)
_HALF_PI = decimal.Decimal("1.57079632679489661923132169163975144209858469968755291048747229615390820314310")


@lru_cache(maxsize=65536)
def steady_pow(base: float, exponent: float) -> float:
    """base ** exponent, correctly rounded but for ties closer than 1e-40; the same on every machine.

    >>> steady_pow(0.9, 10.0) == float(Fraction(0.9) ** 10)
    True
    """
    if exponent == 0.0 or base == 1.0:
        return 1.0
    if not (math.isfinite(base) and math.isfinite(exponent)) or base == 0.0:
        return float(base**exponent)  # no rounding is involved
    if base < 0.0 and not float(exponent).is_integer():
        raise NumericsError(f"{base} ** {exponent} is not a real number. Use a base of 0 or more.")
    if exponent == 0.5:
        return math.sqrt(base)
    if float(exponent).is_integer() and abs(exponent) <= 4:
        return _of_fraction(Fraction(base) ** int(exponent))
    size = _CONTEXT.power(decimal.Decimal(abs(base)), decimal.Decimal(exponent))
    return -float(size) if base < 0.0 and int(exponent) % 2 else float(size)


def _of_fraction(value: Fraction) -> float:
    try:
        return value.numerator / value.denominator  # integers divide with one rounding
    except OverflowError:
        return math.inf if value > 0 else -math.inf


@lru_cache(maxsize=4096)
def steady_cos(x: float) -> float:
    """cos(x) of a float, by a decimal series of 60 digits.

    >>> steady_cos(0.0), steady_cos(math.pi)
    (1.0, -1.0)
    """
    return float(_cos(decimal.Decimal(x)))


@lru_cache(maxsize=4096)
def steady_sin(x: float) -> float:
    """sin(x) of a float, by a decimal series of 60 digits."""
    return float(_cos(_CONTEXT.subtract(decimal.Decimal(x), _HALF_PI)))


def _cos(x: decimal.Decimal) -> decimal.Decimal:
    c = _CONTEXT
    turn = c.multiply(_HALF_PI, decimal.Decimal(4))
    r = c.subtract(x, c.multiply(turn, c.to_integral_value(c.divide(x, turn))))
    # Signs by the context's own methods: a unary minus rounds to the user's precision, 28 digits by default.
    square, term, total, n = c.minus(c.multiply(r, r)), decimal.Decimal(1), decimal.Decimal(1), 0
    while c.abs(term) > decimal.Decimal("1e-58"):
        n += 2
        term = c.divide(c.multiply(term, square), decimal.Decimal(n * (n - 1)))
        total = c.add(total, term)
    return total


@lru_cache(maxsize=4096)
def steady_exp(x: float) -> float:
    """exp(x) of a float, correctly rounded."""
    return float(_CONTEXT.exp(decimal.Decimal(x)))


class Steady(float):
    """A float whose power has one answer; sums, products and quotients with it are Steady again."""

    __slots__ = ()

    def __pow__(self, other: Any, mod: None = None) -> "Steady":  # Any: a number
        return Steady(steady_pow(float(self), float(other)))

    def __rpow__(self, other: Any, mod: None = None) -> "Steady":  # Any: a number
        return Steady(steady_pow(float(other), float(self)))


def _closed(name: str) -> Any:  # Any: a method of float
    plain = getattr(float, name)

    def method(self: Steady, other: Any) -> Any:  # Any: a number
        found = plain(float(self), other)
        return Steady(found) if isinstance(found, float) else found

    return method


for _name in ("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv"):
    setattr(Steady, f"__{_name}__", _closed(f"__{_name}__"))


def _steadied(value: Any) -> Any:  # Any: a setting of an optimizer or scheduler
    if isinstance(value, float):
        return Steady(value)
    if isinstance(value, list | tuple):
        return type(value)(_steadied(v) for v in value)
    return value


def _plain(value: Any) -> Any:  # Any: as above
    if isinstance(value, Steady):
        return float(value)
    if isinstance(value, list | tuple):
        return type(value)(_plain(v) for v in value)
    return value


COVERED_OPTIMIZERS = ("SGD", "Adam", "AdamW")
"""Optimizers of torch.optim whose every step is tested; others run if their operators are covered."""


class _Depth(threading.local):
    value = 0


_depth = _Depth()


class _Math:
    """Stands for `math` where schedulers look it up: its own functions within `steady_scheduler`, else the real ones."""

    def __getattr__(self, name: str) -> Any:  # Any: a function or constant of math
        return STEADY_MATH[name] if _depth.value and name in STEADY_MATH else getattr(math, name)


STEADY_MATH = {"cos": steady_cos, "sin": steady_sin, "pow": steady_pow, "exp": steady_exp}
_MATH = _Math()


@contextmanager
def steady_optimizer(optimizer: Any) -> Iterator[None]:  # Any: a torch optimizer
    """Within it the optimizer's own Python arithmetic has one answer, and it updates tensor by tensor."""
    saved = []
    for group in optimizer.param_groups:
        saved.append(dict(group))
        for name, value in group.items():
            if name != "params":
                group[name] = _steadied(value)
        for name in ("foreach", "fused"):
            if name in group:
                group[name] = False
    try:
        yield
    finally:
        for group, before in zip(optimizer.param_groups, saved, strict=True):
            for name, value in group.items():
                if name == "params":
                    continue
                group[name] = before[name] if name in ("foreach", "fused") else _plain(value)


@contextmanager
def steady_scheduler(scheduler: Any) -> Iterator[None]:  # Any: a torch scheduler
    """Within it the scheduler's own Python arithmetic has one answer, and so has `math` in the functions of a LambdaLR."""
    import torch.optim.lr_scheduler as module

    with ExitStack() as stack:
        chained = getattr(scheduler, "_schedulers", [])
        before = {name: value for name, value in vars(scheduler).items() if isinstance(value, float | list)}
        before = {n: v for n, v in before.items() if _steadied(v) is not v and n != "_schedulers"}
        for inner in chained:
            stack.enter_context(steady_scheduler(inner))
        stack.enter_context(steady_optimizer(scheduler.optimizer))
        for name, value in before.items():
            setattr(scheduler, name, _steadied(value))
        functions = (getattr(fn, "func", fn) for fn in getattr(scheduler, "lr_lambdas", ()))
        for names in (vars(module), *(getattr(fn, "__globals__", {}) for fn in functions)):
            if names.get("math") is math:
                names["math"] = _MATH  # stays: in another thread, and afterwards, it is the real one
        _depth.value += 1
        try:
            yield
        finally:
            _depth.value -= 1
            for name in before:
                setattr(scheduler, name, _plain(getattr(scheduler, name)))
