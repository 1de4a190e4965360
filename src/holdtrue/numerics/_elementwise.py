"""Portable forms of operators that work element by element."""

import math
from collections.abc import Callable
from typing import Any

import torch

from . import _coefficients as c
from . import _functions as f
from ._registry import IN_PLACE, form

Number = int | float
Value = torch.Tensor | Number


def _is_plain(x: torch.Tensor) -> bool:
    return not x.is_floating_point()


def _named(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
    def of(x: torch.Tensor) -> torch.Tensor:
        return f.function(name, x.float() if _is_plain(x) else x)

    return of


for _name in ("exp", "log", "tanh", "sigmoid", "erf", "rsqrt", "sin", "cos", "log1p", "expm1", "silu"):
    form(_name)(_named(_name))


def through64(x: torch.Tensor, core: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """`core` in float64, rounded once to x's dtype."""
    dtype = torch.float32 if _is_plain(x) else x.dtype
    return core(x.double()).to(dtype)


@form("sqrt")
def sqrt(x: torch.Tensor) -> torch.Tensor:
    """Correctly rounded square root."""
    return f.sqrt(x.float() if _is_plain(x) else x)


@form("reciprocal")
def reciprocal(x: torch.Tensor) -> torch.Tensor:
    """1 / x by a division."""
    x = x.float() if _is_plain(x) else x
    return torch.ones_like(x) / x


@form("log2")
def log2(x: torch.Tensor) -> torch.Tensor:
    """Logarithm to base 2."""
    return through64(x, lambda y: f.log64(y) * c.LOG2E)


@form("square")
def square(x: torch.Tensor) -> torch.Tensor:
    """x * x."""
    return x * x


@form("add")
def add(a: Value, b: Value, *, alpha: Number = 1) -> torch.Tensor:
    """a + alpha * b, rounded twice: never a fused multiply-add."""
    return torch.add(a, _times(b, alpha))


@form("sub", "subtract")
def sub(a: Value, b: Value, *, alpha: Number = 1) -> torch.Tensor:
    """a - alpha * b, rounded twice."""
    return torch.sub(a, _times(b, alpha))


@form("rsub")
def rsub(a: torch.Tensor, b: Value, alpha: Number = 1) -> torch.Tensor:
    """b - alpha * a, rounded twice."""
    return torch.rsub(_times(a, alpha), b)


def _times(x: Any, factor: Number) -> Any:  # Any: a tensor or a number, and the same back
    return x if factor == 1 else x * factor


@form("div", "divide", "true_divide")
def div(a: Value, b: Value, *, rounding_mode: str | None = None) -> torch.Tensor:
    """a / b by IEEE division; CUDA would multiply by the reciprocal of a scalar, so the scalar becomes a tensor there."""
    if isinstance(a, torch.Tensor) and a.device.type != "cpu":
        if not isinstance(b, torch.Tensor):
            b = torch.full((), b, dtype=a.dtype if a.is_floating_point() else torch.float32, device=a.device)
        elif b.device.type == "cpu":
            b = b.to(a.device)
    if rounding_mode is None:
        return torch.div(a, b)
    if isinstance(a, torch.Tensor) and _is_plain(a) and (not isinstance(b, torch.Tensor) or _is_plain(b)):
        return torch.div(a, b, rounding_mode=rounding_mode)
    raise NotImplementedError(
        "a division of floating-point numbers with rounding_mode; use floor or trunc of a / b"
    )


@form("addcmul")
def addcmul(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, *, value: Number = 1) -> torch.Tensor:
    """x + value * (a * b), each operation rounded."""
    return torch.add(x, _times(a * b, value))


@form("addcdiv")
def addcdiv(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, *, value: Number = 1) -> torch.Tensor:
    """x + value * (a / b), each operation rounded."""
    return torch.add(x, _times(div(a, b), value))


@form("lerp")
def lerp(start: torch.Tensor, end: torch.Tensor, weight: Value) -> torch.Tensor:
    """start + weight * (end - start), or from the other end for weights of a half or more, as torch chooses."""
    if not isinstance(weight, torch.Tensor):
        if abs(weight) < 0.5:
            return start + (end - start) * weight
        return end - (end - start) * (1 - weight)
    near = start + (end - start) * weight
    return torch.where(weight.abs() < 0.5, near, end - (end - start) * (1 - weight))


def _add_into(a: torch.Tensor, b: Value, *, alpha: Number = 1) -> None:
    a.add_(_times(b, alpha))


def _sub_into(a: torch.Tensor, b: Value, *, alpha: Number = 1) -> None:
    a.sub_(_times(b, alpha))


def _addcmul_into(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, *, value: Number = 1) -> None:
    x.add_(_times(a * b, value))


def _addcdiv_into(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, *, value: Number = 1) -> None:
    x.add_(_times(div(a, b), value))


def _lerp_into(start: torch.Tensor, end: torch.Tensor, weight: Value) -> None:
    if isinstance(weight, torch.Tensor) or abs(weight) >= 0.5:
        start.copy_(lerp(start, end, weight))
    else:
        start.add_((end - start) * weight)


IN_PLACE.update(add=_add_into, sub=_sub_into, addcmul=_addcmul_into, addcdiv=_addcdiv_into, lerp=_lerp_into)


@form("maximum", "max_other")
def maximum(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The larger; of zeros of unlike signs +0; NaN if one is."""
    same = torch.where(a == 0, a + b, a)
    return torch.where(a > b, a, torch.where(b > a, b, torch.where(a == b, same, a + b)))


@form("minimum", "min_other")
def minimum(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The smaller; of zeros of unlike signs -0; NaN if one is."""
    return -maximum(-a, -b)


@form("relu")
def relu(x: torch.Tensor) -> torch.Tensor:
    """x above 0, else +0; NaN stays."""
    return torch.where(x <= 0, torch.zeros((), dtype=x.dtype, device=x.device), x)


@form("clamp", "clip")
def clamp(x: torch.Tensor, min: Value | None = None, max: Value | None = None) -> torch.Tensor:
    """x held between two bounds, by comparisons."""
    if min is not None:
        x = torch.where(x < min, torch.as_tensor(min, dtype=x.dtype, device=x.device), x)
    if max is not None:
        x = torch.where(x > max, torch.as_tensor(max, dtype=x.dtype, device=x.device), x)
    return x


@form("hardtanh")
def hardtanh(x: torch.Tensor, min_val: Number = -1, max_val: Number = 1) -> torch.Tensor:
    """x held between two bounds, -1 and 1 by default."""
    return clamp(x, min_val, max_val)


@form("clamp_min")
def clamp_min(x: torch.Tensor, min: Value) -> torch.Tensor:
    """x, or `min` where it is smaller."""
    return clamp(x, min)


@form("clamp_max")
def clamp_max(x: torch.Tensor, max: Value) -> torch.Tensor:
    """x, or `max` where it is larger."""
    return clamp(x, None, max)


@form("leaky_relu")
def leaky_relu(x: torch.Tensor, negative_slope: Number = 0.01) -> torch.Tensor:
    """x above 0, else slope * x."""
    return torch.where(x > 0, x, x * negative_slope)


@form("elu")
def elu(x: torch.Tensor, alpha: Number = 1, scale: Number = 1, input_scale: Number = 1) -> torch.Tensor:
    """Exponential linear unit, in float64."""
    return through64(x, lambda y: torch.where(y > 0, y * scale, f.expm164(y * input_scale) * (alpha * scale)))


@form("elu_backward")
def elu_backward(
    grad: torch.Tensor, alpha: Number, scale: Number, input_scale: Number, is_result: bool, x: torch.Tensor
) -> torch.Tensor:
    """Gradient of elu from its input or its result."""
    y, g = x.double(), grad.double()
    if is_result:
        slope = (y + alpha * scale) * input_scale
    else:
        slope = f.exp64(y * input_scale) * (input_scale * alpha * scale)
    return torch.where(y > 0, g * scale, g * slope).to(grad.dtype)


@form("pow")
def power(base: Value, exponent: Value) -> torch.Tensor:
    """base ^ exponent: small whole exponents by multiplications, others as exp(exponent * log base) in float64."""
    if isinstance(base, torch.Tensor) and not isinstance(exponent, torch.Tensor):
        if _is_plain(base) and isinstance(exponent, int):
            return torch.pow(base, exponent)
        simple = _simple_power(base.float() if _is_plain(base) else base, float(exponent))
        if simple is not None:
            return simple
    if not any(
        t.is_floating_point() if isinstance(t, torch.Tensor) else isinstance(t, float)
        for t in (base, exponent)
    ):
        return torch.pow(base, exponent)  # type: ignore[arg-type]  # integers, at least one of them a tensor
    like = base if isinstance(base, torch.Tensor) else exponent
    assert isinstance(like, torch.Tensor), "one of them is a tensor"
    x = torch.as_tensor(base, dtype=torch.float64, device=like.device)
    y = torch.as_tensor(exponent, dtype=torch.float64, device=like.device)
    dtypes = [t.dtype for t in (base, exponent) if isinstance(t, torch.Tensor) and t.is_floating_point()]
    dtype = torch.float64 if torch.float64 in dtypes else torch.float32
    size = f.exp64(y * f.log64(x.abs()))
    size = torch.where(
        (y * f.log64(x.abs())) < -700, 0.0, torch.where((y * f.log64(x.abs())) > 700, torch.inf, size)
    )
    whole, odd = y == torch.floor(y), torch.floor(y * 0.5) * 2.0 != y
    signed = torch.where((x < 0) & odd & whole, -size, size)
    signed = torch.where((x < 0) & ~whole, torch.nan, signed)
    return torch.where((y == 0) | (x == 1), 1.0, signed).to(dtype)


def _simple_power(x: torch.Tensor, exponent: float) -> torch.Tensor | None:
    if exponent == 0.5:
        return sqrt(x)
    if exponent == -0.5:
        return f.function("rsqrt", x)
    if exponent in (0.0, 1.0, 2.0, 3.0, 4.0, -1.0, -2.0):
        y = x.double()
        up = {0: torch.ones_like(y), 1: y, 2: y * y, 3: y * y * y, 4: (y * y) * (y * y)}[int(abs(exponent))]
        return (up if exponent >= 0 else torch.ones_like(up) / up).to(x.dtype)
    return None


@form("gelu")
def gelu(x: torch.Tensor, *, approximate: str = "none") -> torch.Tensor:
    """GELU, exact or by tanh."""
    if approximate == "none":
        return f.function("gelu", x)
    return through64(x, lambda y: (0.5 * y) * (1.0 + f.tanh64(_gelu_inner(y))))


def _gelu_inner(y: torch.Tensor) -> torch.Tensor:
    return math.sqrt(2.0 / math.pi) * (y + 0.044715 * (y * y * y))


@form("gelu_backward")
def gelu_backward(grad: torch.Tensor, x: torch.Tensor, *, approximate: str = "none") -> torch.Tensor:
    """Gradient of gelu."""
    if approximate == "none":
        return grad * f.function("gelu_slope", x)
    y = x.double()
    t = f.tanh64(_gelu_inner(y))
    inner = math.sqrt(2.0 / math.pi) * (1.0 + 3 * 0.044715 * (y * y))
    slope = 0.5 * (1.0 + t) + (0.5 * y) * ((1.0 - t * t) * inner)
    return (grad.double() * slope).to(grad.dtype)


@form("silu_backward")
def silu_backward(grad: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Gradient of silu."""
    return grad * f.function("silu_slope", x)


@form("tanh_backward")
def tanh_backward(grad: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """grad * (1 - y^2), each operation rounded."""
    return grad * (1.0 - y * y)


@form("sigmoid_backward")
def sigmoid_backward(grad: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """grad * (1 - y) * y, each operation rounded."""
    return grad * ((1.0 - y) * y)


@form("softplus")
def softplus(x: torch.Tensor, beta: Number = 1, threshold: Number = 20) -> torch.Tensor:
    """log(1 + exp(beta x)) / beta."""
    return through64(
        x,
        lambda y: torch.where(y * beta > threshold, y, f.divided(f.log1p64(f.exp64(y * beta)), float(beta))),
    )


@form("softplus_backward")
def softplus_backward(grad: torch.Tensor, x: torch.Tensor, beta: Number, threshold: Number) -> torch.Tensor:
    """Gradient of softplus."""
    y = x.double() * beta
    return torch.where(y > threshold, grad.double(), grad.double() * f.sigmoid64(y)).to(grad.dtype)


@form("mish")
def mish(x: torch.Tensor) -> torch.Tensor:
    """x * tanh(softplus(x))."""
    return through64(x, lambda y: y * f.tanh64(_softplus64(y)))


@form("mish_backward")
def mish_backward(grad: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Gradient of mish."""
    y = x.double()
    t = f.tanh64(_softplus64(y))
    return (grad.double() * (t + y * ((1.0 - t * t) * f.sigmoid64(y)))).to(grad.dtype)


def _softplus64(y: torch.Tensor) -> torch.Tensor:
    return torch.where(y > 0, y, 0.0) + f.log1p64(f.exp64(-y.abs()))


@form("xlogy")
def xlogy(x: Value, y: Value) -> torch.Tensor:
    """x * log(y), and 0 where x is 0."""
    like = x if isinstance(x, torch.Tensor) else y
    assert isinstance(like, torch.Tensor), "one of them is a tensor"
    a = torch.as_tensor(x, dtype=torch.float64, device=like.device)
    b = torch.as_tensor(y, dtype=torch.float64, device=like.device)
    whole = torch.where((a == 0) & ~b.isnan(), 0.0, a * f.log64(b))
    return whole.to(like.dtype if like.is_floating_point() else torch.float32)


def log_sigmoid64(y: torch.Tensor) -> torch.Tensor:
    """log(sigmoid(y)) in float64, without overflow."""
    return torch.where(y < 0, y, 0.0) - f.log1p64(f.exp64(-y.abs()))


@form("log_sigmoid_forward")
def log_sigmoid_forward(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """log(sigmoid(x)), and an empty buffer."""
    return through64(x, log_sigmoid64), x.new_empty(0)


@form("log_sigmoid_backward")
def log_sigmoid_backward(grad: torch.Tensor, x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """Gradient of log_sigmoid."""
    return (grad.double() * f.sigmoid64(-x.double())).to(grad.dtype)


@form("arange")
def arange(
    *bounds: Number, dtype: torch.dtype | None = None, **where: Any
) -> torch.Tensor:  # Any: layout, device
    """Evenly spaced numbers: start + i * step in float64, rounded once."""
    where.pop("layout", None), where.pop("pin_memory", None)
    start, end, step = (0, bounds[0], 1) if len(bounds) == 1 else (*bounds, 1)[:3]
    is_whole = all(isinstance(v, int) for v in (start, end, step))
    if is_whole and (dtype is None or not dtype.is_floating_point):
        return torch.arange(start, end, step, dtype=dtype, **where)
    n = max(0, math.ceil((end - start) / step))
    index = torch.arange(n, **where).double()
    return (index * step + start).to(dtype or torch.float32)


@form("linspace")
def linspace(
    start: Number, end: Number, steps: int, *, dtype: torch.dtype | None = None, **where: Any
) -> torch.Tensor:  # Any: layout, device
    """Evenly spaced numbers, both ends included."""
    where.pop("layout", None), where.pop("pin_memory", None)
    index = torch.arange(steps, **where).double()
    width = (float(end) - float(start)) / (steps - 1) if steps > 1 else 0.0
    return torch.where((index == steps - 1) & (steps > 1), float(end), index * width + float(start)).to(
        dtype or torch.float32
    )
