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
    return through64(x, lambda y: torch.where(y > 0, y, f.expm164(f.divided(y, float(alpha))) * float(alpha)))


@form("hardswish")
def hardswish(x: torch.Tensor) -> torch.Tensor:
    """x * clamp(x + 3, 0, 6) / 6, in float64, rounded once."""
    return through64(x, lambda y: f.divided(y * _held(y + 3.0, 0.0, 6.0), 6.0))


@form("hardswish_backward")
def hardswish_backward(grad: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Gradient of `hardswish`."""
    y = x.double()
    slope = torch.where(y < -3.0, 0.0, torch.where(y <= 3.0, f.divided(y, 3.0) + 0.5, 1.0))
    return (grad.double() * slope).to(grad.dtype)


@form("hardsigmoid")
def hardsigmoid(x: torch.Tensor) -> torch.Tensor:
    """clamp(x + 3, 0, 6) / 6, in float64, rounded once."""
    return through64(x, lambda y: f.divided(_held(y + 3.0, 0.0, 6.0), 6.0))


@form("hardsigmoid_backward")
def hardsigmoid_backward(grad: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Gradient of `hardsigmoid`."""
    return torch.where(
        (x > -3) & (x < 3), f.divided(grad.double(), 6.0).to(grad.dtype), torch.zeros_like(grad)
    )


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


# Rational approximations of the normal quantile in three ranges: numerator and denominator, from the constant term up.
# Source: Wichura, "Algorithm AS 241: The Percentage Points of the Normal Distribution", Applied Statistics 37, 1988 (PPND16).
_QUANTILE_MIDDLE = (
    (
        3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3, 1.3731693765509461125e4,
        4.5921953931549871457e4, 6.7265770927008700853e4, 3.3430575583588128105e4, 2.5090809287301226727e3,
    ),
    (
        1.0, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3,
        2.1213794301586595867e4, 3.9307895800092710610e4, 2.8729085735721942674e4, 5.2264952788528545610e3,
    ),
)  # fmt: skip
_QUANTILE_SIDE = (
    (
        1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0, 3.64784832476320460504e0,
        1.27045825245236838258e0, 2.41780725177450611770e-1, 2.27238449892691845833e-2, 7.74545014278341407640e-4,
    ),
    (
        1.0, 2.05319162663775882187e0, 1.67638483018380384940e0, 6.89767334985100004550e-1,
        1.48103976427480074590e-1, 1.51986665636164571966e-2, 5.47593808499534494600e-4, 1.05075007164441684324e-9,
    ),
)  # fmt: skip
_QUANTILE_FAR = (
    (
        6.65790464350110377720e0, 5.46378491116411436990e0, 1.78482653991729133580e0, 2.96560571828504891230e-1,
        2.65321895265761230930e-2, 1.24266094738807843860e-3, 2.71155556874348757815e-5, 2.01033439929228813265e-7,
    ),
    (
        1.0, 5.99832206555887937690e-1, 1.36929880922735805310e-1, 1.48753612908506148525e-2,
        7.86869131145613259100e-4, 1.84631831751005468180e-5, 1.42151175831644588870e-7, 2.04426310338993978564e-15,
    ),
)  # fmt: skip
_SQRT_HALF = float.fromhex("0x1.6a09e667f3bcdp-1")


def _ratio(u: torch.Tensor, parts: tuple[tuple[float, ...], tuple[float, ...]]) -> torch.Tensor:
    above, below = (f.poly64(u, coefficients) for coefficients in parts)
    return above / below


def _erfinv64(x: torch.Tensor) -> torch.Tensor:
    """By the normal quantile of (1 + x) / 2, over the square root of 2; NaN outside [-1, 1]."""
    q = x * 0.5
    a = torch.where(q < 0.0, -q, q)
    middle = q * _ratio(0.180625 - q * q, _QUANTILE_MIDDLE)
    tail = torch.where(a < 0.5, 0.5 - a, 1.0)  # of 1 and -1: any value, it is not used
    r = f.sqrt64(-f.log64(tail))
    far = torch.where(r <= 5.0, _ratio(r - 1.6, _QUANTILE_SIDE), _ratio(r - 5.0, _QUANTILE_FAR))
    far = torch.where(a == 0.5, torch.inf, far)
    far = torch.where(q < 0.0, -far, far)
    found = torch.where(a <= 0.425, middle, far) * _SQRT_HALF
    return torch.where(a <= 0.5, found, torch.nan)


@form("erfinv")
def erfinv(x: torch.Tensor) -> torch.Tensor:
    """Inverse of the error function; `torch.nn.init.trunc_normal_` is made of it."""
    return through64(x, _erfinv64)
