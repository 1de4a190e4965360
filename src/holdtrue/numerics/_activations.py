"""Portable forms of gates, shrinkages and rarer functions."""

import torch

from . import _coefficients as c
from . import _functions as f
from ._elementwise import Number, through64
from ._registry import form

LOG10E = float.fromhex("0x1.bcb7b1526e50ep-2")


@form("glu")
def glu(x: torch.Tensor, dim: int = -1) -> torch.Tensor:
    """The first half times the sigmoid of the second."""
    a, b = x.double().chunk(2, dim)
    return (a * f.sigmoid64(b)).to(x.dtype)


@form("glu_backward")
def glu_backward(grad: torch.Tensor, x: torch.Tensor, dim: int) -> torch.Tensor:
    """Gradient of `glu`."""
    a, b = x.double().chunk(2, dim)
    s, g = f.sigmoid64(b), grad.double()
    return torch.cat([g * s, g * a * ((1.0 - s) * s)], dim).to(x.dtype)


@form("_prelu_kernel")
def prelu(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x above 0, else weight * x."""
    return torch.where(x > 0, x, weight * x)


@form("_prelu_kernel_backward")
def prelu_backward(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of input and weight, element by element."""
    return torch.where(x > 0, grad, weight * grad), torch.where(x > 0, torch.zeros_like(x), x * grad)


@form("celu")
def celu(x: torch.Tensor, alpha: Number = 1) -> torch.Tensor:
    """Continuous exponential linear unit."""
    return through64(x, lambda y: torch.where(y > 0, y, f.expm164(y / float(alpha)) * float(alpha)))


@form("hardswish")
def hardswish(x: torch.Tensor) -> torch.Tensor:
    """x * clamp(x + 3, 0, 6) / 6, in float64, rounded once."""
    return through64(x, lambda y: y * _held(y + 3.0, 0.0, 6.0) / 6.0)


@form("hardswish_backward")
def hardswish_backward(grad: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Gradient of `hardswish`."""
    y = x.double()
    slope = torch.where(y < -3.0, 0.0, torch.where(y <= 3.0, y / 3.0 + 0.5, 1.0))
    return (grad.double() * slope).to(grad.dtype)


@form("hardsigmoid")
def hardsigmoid(x: torch.Tensor) -> torch.Tensor:
    """clamp(x + 3, 0, 6) / 6, in float64, rounded once."""
    return through64(x, lambda y: _held(y + 3.0, 0.0, 6.0) / 6.0)


@form("hardsigmoid_backward")
def hardsigmoid_backward(grad: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Gradient of `hardsigmoid`."""
    return torch.where((x > -3) & (x < 3), (grad.double() / 6.0).to(grad.dtype), torch.zeros_like(grad))


def _held(y: torch.Tensor, low: float, high: float) -> torch.Tensor:
    y = torch.where(y < low, low, y)
    return torch.where(y > high, high, y)


@form("softshrink")
def softshrink(x: torch.Tensor, lambd: Number = 0.5) -> torch.Tensor:
    """x moved towards 0 by lambd, and 0 within it; NaN stays."""
    y = torch.where(x > lambd, x - lambd, torch.where(x < -lambd, x + lambd, torch.zeros_like(x)))
    return torch.where(x.isnan(), x, y)


@form("hardshrink")
def hardshrink(x: torch.Tensor, lambd: Number = 0.5) -> torch.Tensor:
    """x, and 0 within lambd of it."""
    return torch.where((x >= -lambd) & (x <= lambd), torch.zeros_like(x), x)


@form("softshrink_backward", "hardshrink_backward")
def shrink_backward(grad: torch.Tensor, x: torch.Tensor, lambd: Number) -> torch.Tensor:
    """The gradient beyond lambd."""
    return torch.where((x >= -lambd) & (x <= lambd), torch.zeros_like(grad), grad)


@form("threshold")
def threshold(x: torch.Tensor, threshold: Number, value: Number) -> torch.Tensor:
    """x above the threshold, else the value."""
    return torch.where(x <= threshold, torch.full((), value, dtype=x.dtype, device=x.device), x)


@form("exp2")
def exp2(x: torch.Tensor) -> torch.Tensor:
    """2^x."""
    return through64(x, lambda y: f.exp64(y * c.LOG_2))


@form("log10")
def log10(x: torch.Tensor) -> torch.Tensor:
    """Logarithm to base 10."""
    return through64(x, lambda y: f.log64(y) * LOG10E)


@form("erfc")
def erfc(x: torch.Tensor) -> torch.Tensor:
    """1 - erf(x), without cancellation."""
    return through64(x, f.erfc64)


@form("tan")
def tan(x: torch.Tensor) -> torch.Tensor:
    """sin / cos."""
    return through64(x, lambda y: f.sin64(y) / f.cos64(y))


@form("sinh")
def sinh(x: torch.Tensor) -> torch.Tensor:
    """Hyperbolic sine from exp(x) - 1; beyond float32's range the sign of x times infinity."""

    def core(y: torch.Tensor) -> torch.Tensor:
        a = y.abs()
        t = f.expm164(a)
        s = 0.5 * (t + t / (t + 1.0))
        return torch.where(y == 0, y, torch.where(y < 0, -s, s))

    return through64(x, core)


@form("cosh")
def cosh(x: torch.Tensor) -> torch.Tensor:
    """Hyperbolic cosine."""
    return through64(x, lambda y: 0.5 * (f.exp64(y) + f.exp64(-y)))


@form("frac")
def frac(x: torch.Tensor) -> torch.Tensor:
    """x - trunc(x), which is exact."""
    return x - torch.trunc(x)


@form("logaddexp")
def logaddexp(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """log(exp(a) + exp(b)), in float64, rounded once."""
    x, y = a.double(), b.double()
    top = torch.where(x > y, x, y)
    apart = torch.where(x > y, y - x, x - y)
    whole = top + f.log1p64(f.exp64(apart))
    return torch.where(x == y, x + c.LOG_2, torch.where(top.isinf() & ~x.isnan(), top, whole)).to(a.dtype)
