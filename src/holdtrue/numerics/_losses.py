"""Portable forms of losses: elements in float64, sums in the fixed order, one rounding."""

from collections.abc import Callable

import torch

from . import _functions as f
from ._elementwise import log_sigmoid64
from ._registry import form
from ._sums import sum64

Maybe = torch.Tensor | None
NONE, MEAN, SUM = 0, 1, 2


def _reduce(values: torch.Tensor, reduction: int, dtype: torch.dtype) -> torch.Tensor:
    if reduction == NONE:
        return values.to(dtype)
    whole = sum64(values)
    return (f.divided(whole, float(values.numel())) if reduction == MEAN else whole).to(dtype)


def _share(grad: torch.Tensor, reduction: int, numbers: int) -> torch.Tensor:
    """Gradient that reaches each element, float64."""
    g = grad.double()
    return f.divided(g, float(numbers)) if reduction == MEAN else g


def _chosen(
    x: torch.Tensor, target: torch.Tensor, weight: Maybe, ignore_index: int
) -> tuple[torch.Tensor, ...]:
    """Class axis 1: safe targets, and the float64 weight of each (0 where ignored)."""
    ignored = target == ignore_index
    safe = torch.where(ignored, 0, target)
    w = (
        torch.ones(target.shape, dtype=torch.float64, device=x.device)
        if weight is None
        else weight.double()[safe]
    )
    return safe, torch.where(ignored, 0.0, w), ignored


@form("nll_loss_forward", "nll_loss2d_forward")
def nll_loss(
    x: torch.Tensor, target: torch.Tensor, weight: Maybe, reduction: int, ignore_index: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and total weight."""
    axis = 0 if x.dim() == 1 else 1
    safe, w, ignored = _chosen(x, target, weight, ignore_index)
    picked = x.gather(axis, safe.unsqueeze(axis)).squeeze(axis).double()
    each = torch.where(ignored, 0.0, -(picked * w))
    heaviness = sum64(w)
    if reduction == NONE:
        return each.to(x.dtype), x.new_zeros(())
    whole = sum64(each)
    return (whole / heaviness if reduction == MEAN else whole).to(x.dtype), heaviness.to(x.dtype)


@form("nll_loss_backward", "nll_loss2d_backward")
def nll_loss_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    target: torch.Tensor,
    weight: Maybe,
    reduction: int,
    ignore_index: int,
    total_weight: torch.Tensor,
) -> torch.Tensor:
    """Gradient of `nll_loss`."""
    axis = 0 if x.dim() == 1 else 1
    safe, w, ignored = _chosen(x, target, weight, ignore_index)
    g = grad.double() / total_weight.double() if reduction == MEAN else grad.double()
    each = torch.where(ignored, 0.0, -(w * g)).to(x.dtype)
    return torch.zeros_like(x).scatter(axis, safe.unsqueeze(axis), each.unsqueeze(axis))


Two = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _pointwise(name: str, value: Callable[..., torch.Tensor], slope: Callable[..., torch.Tensor]) -> None:
    """Register a loss of input and target by its value and slope in float64."""

    def forward(
        x: torch.Tensor, y: torch.Tensor, reduction: int = MEAN, *shape: float, **named: float
    ) -> torch.Tensor:
        return _reduce(value(x.double(), y.double(), *shape, *named.values()), reduction, x.dtype)

    def backward(
        grad: torch.Tensor, x: torch.Tensor, y: torch.Tensor, reduction: int, *shape: float
    ) -> torch.Tensor:
        d = slope(x.double(), y.double(), *shape)
        return (_share(grad, reduction, d.numel()) * d).to(x.dtype)

    form(name)(forward)
    form(f"{name}_backward")(backward)


def _huber(d: torch.Tensor, delta: float) -> torch.Tensor:
    a = d.abs()
    return torch.where(a < delta, 0.5 * (d * d), delta * (a - 0.5 * delta))


_pointwise("mse_loss", lambda x, y: (x - y) * (x - y), lambda x, y: 2.0 * (x - y))
_pointwise(
    "huber_loss",
    lambda x, y, delta=1.0: _huber(x - y, delta),
    lambda x, y, delta: torch.where((x - y).abs() < delta, x - y, delta * torch.sign(x - y)),
)
_pointwise(
    "smooth_l1_loss",
    lambda x, y, beta=1.0: f.divided(_huber(x - y, beta), beta) if beta else (x - y).abs(),
    lambda x, y, beta: torch.where((x - y).abs() < beta, f.divided(x - y, beta or 1.0), torch.sign(x - y)),
)


@form("binary_cross_entropy")
def binary_cross_entropy(
    x: torch.Tensor, y: torch.Tensor, weight: Maybe = None, reduction: int = MEAN
) -> torch.Tensor:
    """Cross-entropy of probabilities; logarithms are held at -100, as torch's."""
    p, t = x.double(), y.double()
    low, high = torch.full_like(p, -100.0), f.log1p64(-p)
    log_p, log_q = f.log64(p), torch.where(high < low, low, high)
    log_p = torch.where(log_p < low, low, log_p)
    each = (t - 1.0) * log_q - t * log_p
    return _reduce(each if weight is None else each * weight.double(), reduction, x.dtype)


@form("binary_cross_entropy_backward")
def binary_cross_entropy_backward(
    grad: torch.Tensor, x: torch.Tensor, y: torch.Tensor, weight: Maybe = None, reduction: int = MEAN
) -> torch.Tensor:
    """Gradient of `binary_cross_entropy`; the denominator is held at 1e-12, as torch's."""
    p, t = x.double(), y.double()
    below = (1.0 - p) * p
    d = (p - t) / torch.where(below < 1e-12, 1e-12, below)
    d = d if weight is None else d * weight.double()
    return (_share(grad, reduction, p.numel()) * d).to(x.dtype)


@form("binary_cross_entropy_with_logits")
def binary_cross_entropy_with_logits(
    x: torch.Tensor, y: torch.Tensor, weight: Maybe = None, pos_weight: Maybe = None, reduction: int = MEAN
) -> torch.Tensor:
    """Cross-entropy of logits."""
    z, t = x.double(), y.double()
    strength = 1.0 if pos_weight is None else (pos_weight.double() - 1.0) * t + 1.0
    each = (1.0 - t) * z - strength * log_sigmoid64(z)
    return _reduce(each if weight is None else each * weight.double(), reduction, x.dtype)
