"""Functions of one number: float64 polynomials of adds and multiplies, rounded once to float32.

`_functions.h` has the same operations in the same order; the compiled copy is used for float32 on CPU. Between the
rounding to float32 and the true value lies the polynomial's error of a few 1e-12, so results are the correctly rounded
float32 or, rarely, its neighbour.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from . import _coefficients as c
from ._native import native

Core = Callable[[torch.Tensor], torch.Tensor]

MAGIC = 6755399441055744.0
"""1.5 * 2^52: adding it rounds to an integer, ties to even."""

LARGEST_ANGLE = 2.0**27
"""sin and cos are NaN from here on: their reduction is exact below."""


def poly64(u: torch.Tensor, coefficients: Sequence[float]) -> torch.Tensor:
    """A polynomial of float64 by Horner's rule; coefficients from the constant term up."""
    p = torch.full_like(u, coefficients[-1])
    for a in reversed(coefficients[:-1]):
        p = p * u + a
    return p


def divided(x: torch.Tensor, number: float) -> torch.Tensor:
    """x / number by IEEE division; CUDA would multiply by the reciprocal of a number, so it becomes a tensor there."""
    if x.device.type == "cpu":
        return x / number
    return x / torch.full((), number, dtype=x.dtype, device=x.device)


def _whole(shifted: torch.Tensor) -> torch.Tensor:
    """The integer in a number to which MAGIC was added."""
    return shifted.view(torch.int64) - _bits_of_magic(shifted)


def _bits_of_magic(like: torch.Tensor) -> torch.Tensor:
    return torch.full((), MAGIC, dtype=torch.float64, device=like.device).view(torch.int64)


def exp64(x: torch.Tensor) -> torch.Tensor:
    """exp of float64; held at exp(700) and exp(-700) beyond."""
    x = torch.where(x > 700.0, 700.0, x)
    x = torch.where(x < -700.0, -700.0, x)
    shifted = x * c.LOG2E + MAGIC
    k = shifted - MAGIC
    r = (x - k * c.LN2[0]) - k * c.LN2[1]
    return poly64(r, c.EXP) * ((_whole(shifted) + 1023) << 52).view(torch.float64)


def _two_atanh(f: torch.Tensor) -> torch.Tensor:
    s = f * f
    return 2.0 * f + f * (s * poly64(s, c.LOG))


def log64(x: torch.Tensor) -> torch.Tensor:
    """Natural logarithm of float64 that is not denormal."""
    b = x.view(torch.int64)
    e = (b >> 52) - 1023
    m = ((b & 0xFFFFFFFFFFFFF) | 0x3FF0000000000000).view(torch.float64)
    up = m > c.SQRT2
    m = torch.where(up, m * 0.5, m)
    k = (e + up).double()
    y = k * c.LN2[0] + (_two_atanh((m - 1.0) / (m + 1.0)) + k * c.LN2[1])
    y = torch.where(x == torch.inf, torch.inf, y)
    y = torch.where(x == 0.0, -torch.inf, y)
    return torch.where(x >= 0.0, y, torch.nan)


def log1p64(x: torch.Tensor) -> torch.Tensor:
    """log(1 + x) of float64."""
    y = torch.where((x < 0.25) & (x > -0.25), _two_atanh(x / (2.0 + x)), log64(1.0 + x))
    return torch.where(x == 0.0, x, y)


def expm164(x: torch.Tensor) -> torch.Tensor:
    """exp(x) - 1 of float64."""
    return torch.where((x < 0.25) & (x > -0.25), x * poly64(x, c.EXP[1:]), exp64(x) - 1.0)


def tanh64(x: torch.Tensor) -> torch.Tensor:
    """Hyperbolic tangent of float64."""
    a = torch.where(x < 0.0, -x, x)
    s = x * x
    e = exp64(torch.where(a > 40.0, 80.0, 2.0 * a))
    large = (e - 1.0) / (e + 1.0)
    small = x * (
        1.0 + s * (float.fromhex("-0x1.5555555555555p-2") + s * float.fromhex("0x1.1111111111111p-3"))
    )
    large = torch.where(x < 0.0, -large, large)
    return torch.where(x.isnan(), x, torch.where(a < 0.015625, small, large))


def sigmoid64(x: torch.Tensor) -> torch.Tensor:
    """1 / (1 + exp(-x)) of float64."""
    return _reciprocal(1.0 + exp64(-x))


def silu64(x: torch.Tensor) -> torch.Tensor:
    """x * sigmoid(x) of float64."""
    return torch.where(x == -torch.inf, -0.0, x * sigmoid64(x))


def silu_slope64(x: torch.Tensor) -> torch.Tensor:
    """Derivative of silu."""
    s = sigmoid64(x)
    y = s * (1.0 + x * (1.0 - s))
    y = torch.where(x == -torch.inf, 0.0, y)
    return torch.where(x == torch.inf, 1.0, y)


def _reciprocal(x: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(x) / x  # a division by IEEE, never by an approximate reciprocal


def _erfc_far(a: torch.Tensor) -> torch.Tensor:
    a = torch.where(a > 28.0, 28.0, a)
    t = (a - 3.0) / (a + 3.0)
    return exp64(-(a * a)) * poly64(t, c.ERFC)


def erf64(x: torch.Tensor) -> torch.Tensor:
    """Error function of float64."""
    a = torch.where(x < 0.0, -x, x)
    far = 1.0 - _erfc_far(torch.where(a < 1.0, 1.0, a))
    near = x * poly64(x * x, c.ERF)
    far = torch.where(x < 0.0, -far, far)
    return torch.where(x.isnan(), x, torch.where(a < 1.0, near, far))


def erfc64(x: torch.Tensor) -> torch.Tensor:
    """1 - erf(x) of float64, without cancellation."""
    a = torch.where(x < 0.0, -x, x)
    tail = _erfc_far(torch.where(a < 1.0, 1.0, a))
    far = torch.where(x < 0.0, 2.0 - tail, tail)
    return torch.where(x.isnan(), x, torch.where(a < 1.0, 1.0 - x * poly64(x * x, c.ERF), far))


def _normal_below(x: torch.Tensor) -> torch.Tensor:
    z = x * c.ROOT_HALF
    a = torch.where(z < 0.0, -z, z)
    tail = 0.5 * _erfc_far(torch.where(a < 1.0, 1.0, a))
    near = 0.5 + 0.5 * (z * poly64(z * z, c.ERF))
    far = torch.where(z < 0.0, tail, 1.0 - tail)
    return torch.where(x.isnan(), x, torch.where(a < 1.0, near, far))


def gelu64(x: torch.Tensor) -> torch.Tensor:
    """x times the normal distribution function of float64."""
    return torch.where(x == -torch.inf, -0.0, x * _normal_below(x))


def gelu_slope64(x: torch.Tensor) -> torch.Tensor:
    """Derivative of gelu."""
    held = torch.where(x > 40.0, 40.0, x)
    held = torch.where(held < -40.0, -40.0, held)
    return _normal_below(x) + held * (exp64(-0.5 * (held * held)) * c.INV_ROOT_2PI)


def sqrt64(x: torch.Tensor) -> torch.Tensor:
    """Square root of float64, correctly rounded on every device.

    `torch.sqrt` is not, on a CPU: it asks a vector library, whose answer is off by an ulp for one number of eighty (torch
    2.13) and may be another on another processor. NumPy uses the processor's own instruction, which IEEE 754 defines.
    """
    if x.device.type != "cpu":
        return torch.sqrt(x)
    out = torch.empty_like(x)
    with np.errstate(invalid="ignore"):
        np.sqrt(x.detach().numpy(), out=out.numpy())
    return out


def rsqrt64(x: torch.Tensor) -> torch.Tensor:
    """1 / sqrt(x) of float64."""
    return _reciprocal(sqrt64(x))


def _turn(x: torch.Tensor, add: int) -> torch.Tensor:
    shifted = x * c.TWO_OVER_PI + MAGIC
    k = shifted - MAGIC
    r = ((x - k * c.HALF_PI[0]) - k * c.HALF_PI[1]) - k * c.HALF_PI[2]
    r = r - k * c.HALF_PI[3]
    s = r * r
    sine = r + r * (s * poly64(s, c.SIN))
    cosine = 1.0 + s * poly64(s, c.COS)
    quarter = _whole(shifted) + add
    y = torch.where((quarter & 1) != 0, cosine, sine)
    y = torch.where((quarter & 2) != 0, -y, y)
    return torch.where(x.abs() < LARGEST_ANGLE, y, torch.nan)


def sin64(x: torch.Tensor) -> torch.Tensor:
    """Sine of float64, |x| < 2^27."""
    return torch.where(x == 0.0, x, _turn(x, 0))


def cos64(x: torch.Tensor) -> torch.Tensor:
    """Cosine of float64, |x| < 2^27."""
    return _turn(x, 1)


CORES: dict[str, Core] = {
    "exp": exp64,
    "log": log64,
    "tanh": tanh64,
    "sigmoid": sigmoid64,
    "erf": erf64,
    "gelu": gelu64,
    "silu": silu64,
    "rsqrt": rsqrt64,
    "sin": sin64,
    "cos": cos64,
    "log1p": log1p64,
    "expm1": expm164,
    "gelu_slope": gelu_slope64,
    "silu_slope": silu_slope64,
}
"""Functions by name, in the order of their numbers in `_lanes.h`."""

NUMBERS = {name: number for number, name in enumerate(CORES)}


def function(name: str, x: torch.Tensor) -> torch.Tensor:
    """A function of CORES, element by element.

    Args:
        name: A key of CORES.
        x: float32, or float64, which stays float64.

    Returns:
        The same shape and type; within 1 ulp of the correctly rounded result for float32.
    """
    if x.dtype == torch.float64:
        return CORES[name](x)
    found = native(x)
    if found is None:
        return CORES[name](x.double()).float()
    x = x.contiguous()
    out = torch.empty_like(x)
    found[0].ht_function(NUMBERS[name], x.data_ptr(), out.data_ptr(), x.numel(), found[1])
    return out


def sqrt(x: torch.Tensor) -> torch.Tensor:
    """Square root, correctly rounded: rounded twice, which for a square root gives the same as once."""
    if x.dtype != torch.float32 or x.device.type != "cpu":
        return sqrt64(x.double()).to(x.dtype)
    out = torch.empty_like(x)
    with np.errstate(invalid="ignore"):
        np.sqrt(x.detach().numpy(), out=out.numpy())
    return out
