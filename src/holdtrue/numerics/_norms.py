"""Portable forms of normalisation layers: statistics and formulas in float64, each result rounded once.

A layer's values are seen as [outer, n, inner]: statistics run over some axes, weight and bias belong to others.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch

from . import _rows as rows
from ._functions import divided, sqrt64
from ._reductions import moments
from ._registry import form
from ._sums import sum64

Maybe = torch.Tensor | None


def _gradient_through_norm(
    g: torch.Tensor, hat: torch.Tensor, scale: torch.Tensor, dims: Sequence[int], n: float
) -> torch.Tensor:
    """Gradient of a normalised value with respect to its input: all float64."""
    about = divided(sum64(g, dims, keepdim=True), n)
    along = divided(sum64(g * hat, dims, keepdim=True), n)
    return (g - about - hat * along) * scale


@form("native_layer_norm")
def layer_norm(
    x: torch.Tensor, normalized_shape: Sequence[int], weight: Maybe, bias: Maybe, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Output, mean and reciprocal standard deviation."""
    dims = list(range(x.dim() - len(normalized_shape), x.dim()))
    x = x.contiguous()
    shape = (1, x.numel() // max(1, math.prod(normalized_shape)), math.prod(normalized_shape))
    done = rows.moments(x, shape)
    if done is not None:
        mean, scale = done[0], _reciprocal_root(done[1] + eps)
        y = rows.normalise(x, shape, mean, scale, weight, bias, per_c=False)
        if y is not None:
            kept = [1 if d in dims else n for d, n in enumerate(x.shape)]
            return y, mean.reshape(kept).to(x.dtype), scale.reshape(kept).to(x.dtype)
    middle, square, apart = moments(x, dims)
    scale = _reciprocal_root(square + eps)
    out = apart * scale
    if weight is not None:
        out = out * weight.double()
    if bias is not None:
        out = out + bias.double()
    return out.to(x.dtype), middle.to(x.dtype), scale.to(x.dtype)


def _reciprocal_root(x: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(x) / sqrt64(x)


@form("native_layer_norm_backward")
def layer_norm_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    normalized_shape: Sequence[int],
    mean: torch.Tensor,
    rstd: torch.Tensor,
    weight: Maybe,
    bias: Maybe,
    output_mask: Sequence[bool],
) -> tuple[Maybe, Maybe, Maybe]:
    """Gradients of input, weight and bias."""
    inner = list(range(x.dim() - len(normalized_shape), x.dim()))
    outer = list(range(x.dim() - len(normalized_shape)))
    length = math.prod(normalized_shape)
    done = rows.normalise_back(
        grad,
        x.contiguous(),
        (1, x.numel() // max(1, length), length),
        mean.double().reshape(-1),
        rstd.double().reshape(-1),
        weight,
        (output_mask[0], output_mask[1], output_mask[2]),
        per_c=False,
    )
    if done is not None:
        gx, along, _ = done
        gw = _over(along, outer).to(x.dtype) if along is not None else None
        return gx, gw, _over(grad.double(), outer).to(x.dtype) if output_mask[2] else None
    g, scale = grad.double(), rstd.double()
    hat = (x.double() - mean.double()) * scale
    into = g if weight is None else g * weight.double()
    n = float(math.prod(normalized_shape))
    gx = _gradient_through_norm(into, hat, scale, inner, n).to(x.dtype) if output_mask[0] else None
    gw = _over(g * hat, outer).to(x.dtype) if output_mask[1] else None
    gb = _over(g, outer).to(x.dtype) if output_mask[2] else None
    return gx, gw, gb


def _over(x: torch.Tensor, dims: list[int]) -> torch.Tensor:
    return sum64(x, dims) if dims else x


@form("_fused_rms_norm")
def rms_norm(
    x: torch.Tensor, normalized_shape: Sequence[int], weight: Maybe, eps: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output and reciprocal root of the mean square."""
    dims = list(range(x.dim() - len(normalized_shape), x.dim()))
    y = x.double()
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    square = divided(sum64(y * y, dims, keepdim=True), float(math.prod(normalized_shape)))
    scale = _reciprocal_root(square + eps)
    out = y * scale
    return (out if weight is None else out * weight.double()).to(x.dtype), scale.to(x.dtype)


@form("_fused_rms_norm_backward")
def rms_norm_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    normalized_shape: Sequence[int],
    rstd: torch.Tensor,
    weight: Maybe,
    output_mask: Sequence[bool],
) -> tuple[Maybe, Maybe]:
    """Gradients of input and weight."""
    inner = list(range(x.dim() - len(normalized_shape), x.dim()))
    outer = list(range(x.dim() - len(normalized_shape)))
    g, scale = grad.double(), rstd.double()
    hat = x.double() * scale
    into = g if weight is None else g * weight.double()
    along = divided(sum64(into * hat, inner, keepdim=True), float(math.prod(normalized_shape)))
    gx = ((into - hat * along) * scale).to(x.dtype) if output_mask[0] else None
    gw = _over(g * hat, outer).to(x.dtype) if output_mask[1] and weight is not None else None
    return gx, gw


@form("native_group_norm")
def group_norm(
    x: torch.Tensor, weight: Maybe, bias: Maybe, N: int, C: int, HxW: int, group: int, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Output, and mean and reciprocal standard deviation of each group."""
    middle, square, apart = moments(x.reshape(N, group, -1), [2])
    scale = _reciprocal_root(square + eps)
    out = (apart * scale).reshape(N, C, HxW)
    if weight is not None:
        out = out * weight.double()[:, None]
    if bias is not None:
        out = out + bias.double()[:, None]
    return (
        out.reshape(x.shape).to(x.dtype),
        middle.reshape(N, group).to(x.dtype),
        scale.reshape(N, group).to(x.dtype),
    )


@form("native_group_norm_backward")
def group_norm_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    weight: Maybe,
    N: int,
    C: int,
    HxW: int,
    group: int,
    output_mask: Sequence[bool],
) -> tuple[Maybe, Maybe, Maybe]:
    """Gradients of input, weight and bias."""
    g = grad.double().reshape(N, C, HxW)
    scale = rstd.double().reshape(N, group, 1)
    hat = (x.double().reshape(N, group, -1) - mean.double().reshape(N, group, 1)) * scale
    into = (g if weight is None else g * weight.double()[:, None]).reshape(N, group, -1)
    gx = gw = gb = None
    if output_mask[0]:
        gx = _gradient_through_norm(into, hat, scale, [2], float(into.shape[2])).to(x.dtype).reshape(x.shape)
    if output_mask[1]:
        gw = sum64(g * hat.reshape(N, C, HxW), [0, 2]).to(x.dtype)
    if output_mask[2]:
        gb = sum64(g, [0, 2]).to(x.dtype)
    return gx, gw, gb


def _by_channel(values: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return values.double().reshape([1, -1] + [1] * (x.dim() - 2))


def _batch_norm(
    x: torch.Tensor,
    weight: Maybe,
    bias: Maybe,
    mean: Maybe,
    var: Maybe,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    dims = [d for d in range(x.dim()) if d != 1]
    x = x.contiguous()
    shape = (x.shape[0], x.shape[1], math.prod(x.shape[2:]))
    apart: Maybe = None
    if training or mean is None or var is None:
        done = rows.moments(x, shape)
        if done is not None:
            middle, square = (t.reshape([1, -1] + [1] * (x.dim() - 2)) for t in done)
        else:
            middle, square, apart = moments(x, dims)
        n = float(x.numel() // x.shape[1])
        if mean is not None and var is not None:
            unbiased = square * (n / (n - 1.0)) if n > 1 else square
            for kept, now in ((mean, middle), (var, unbiased)):
                kept.copy_((kept.double() * (1.0 - momentum) + now.reshape(-1) * momentum).to(kept.dtype))
        saved_mean = middle.reshape(-1).to(x.dtype)
        scale = _reciprocal_root(square + eps)
        saved_scale = scale.reshape(-1).to(x.dtype)
    else:
        middle, scale = _by_channel(mean, x), _reciprocal_root(_by_channel(var, x) + eps)
        saved_mean = saved_scale = x.new_empty(0)
    y = rows.normalise(x, shape, middle.reshape(-1), scale.reshape(-1), weight, bias, per_c=True)
    if y is not None:
        return y, saved_mean, saved_scale
    out = (x.double() - middle if apart is None else apart) * scale
    if weight is not None:
        out = out * _by_channel(weight, x)
    if bias is not None:
        out = out + _by_channel(bias, x)
    return out.to(x.dtype), saved_mean, saved_scale


@form("native_batch_norm", "_native_batch_norm_legit")
def batch_norm(x: torch.Tensor, weight: Maybe, bias: Maybe, *rest: Any) -> tuple[torch.Tensor, ...]:
    """Output, and saved mean and scale. Any: with running statistics or without (`.no_stats`)."""
    mean, var, training, momentum, eps = rest if len(rest) == 5 else (None, None, *rest)
    return _batch_norm(x, weight, bias, mean, var, training, momentum, eps)


@form("_batch_norm_with_update")
def batch_norm_with_update(
    x: torch.Tensor,
    weight: Maybe,
    bias: Maybe,
    mean: torch.Tensor,
    var: torch.Tensor,
    momentum: float,
    eps: float,
) -> tuple[torch.Tensor, ...]:
    """As `native_batch_norm` in training, with an empty reserve."""
    return (*_batch_norm(x, weight, bias, mean, var, True, momentum, eps), x.new_empty(0, dtype=torch.uint8))


@form("_batch_norm_no_update")
def batch_norm_no_update(
    x: torch.Tensor, weight: Maybe, bias: Maybe, mean: Maybe, var: Maybe, momentum: float, eps: float
) -> tuple[torch.Tensor, ...]:
    """As `native_batch_norm` in evaluation, with an empty reserve."""
    return (*_batch_norm(x, weight, bias, mean, var, False, momentum, eps), x.new_empty(0, dtype=torch.uint8))


@form("native_batch_norm_backward")
def batch_norm_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: Maybe,
    running_mean: Maybe,
    running_var: Maybe,
    save_mean: Maybe,
    save_invstd: Maybe,
    train: bool,
    eps: float,
    output_mask: Sequence[bool],
) -> tuple[Maybe, Maybe, Maybe]:
    """Gradients of input, weight and bias."""
    dims = [d for d in range(x.dim()) if d != 1]
    gx: Maybe
    if train:
        assert save_mean is not None, "training saves it"
        assert save_invstd is not None, "training saves it"
        middle, scale = _by_channel(save_mean, x), _by_channel(save_invstd, x)
    else:
        assert running_mean is not None, "evaluation has running statistics"
        assert running_var is not None, "evaluation has running statistics"
        middle, scale = _by_channel(running_mean, x), _reciprocal_root(_by_channel(running_var, x) + eps)
    if train:
        shape = (x.shape[0], x.shape[1], math.prod(x.shape[2:]))
        wanted = (output_mask[0], output_mask[1], output_mask[2])
        done = rows.normalise_back(
            grad, x.contiguous(), shape, middle.reshape(-1), scale.reshape(-1), weight, wanted, per_c=True
        )
        if done is not None:
            gx, gw, gb = done
            return gx, None if gw is None else gw.to(x.dtype), None if gb is None else gb.to(x.dtype)
    g = grad.double()
    hat = (x.double() - middle) * scale
    into = g if weight is None else g * _by_channel(weight, x)
    gx = None
    if output_mask[0]:
        n = float(x.numel() // x.shape[1])
        gx = (_gradient_through_norm(into, hat, scale, dims, n) if train else into * scale).to(x.dtype)
    gw = sum64(g * hat, dims).to(x.dtype) if output_mask[1] else None
    gb = sum64(g, dims).to(x.dtype) if output_mask[2] else None
    return gx, gw, gb


@form("batch_norm_backward")
def batch_norm_backward_with_reserve(
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    running_mean: Maybe,
    running_var: Maybe,
    save_mean: Maybe,
    save_var: Maybe,
    update: bool,
    eps: float,
    output_mask: Sequence[bool],
    reserve: torch.Tensor,
) -> tuple[Maybe, Maybe, Maybe]:
    """As `native_batch_norm_backward`."""
    return batch_norm_backward(
        grad, x, weight, running_mean, running_var, save_mean, save_var, update, eps, output_mask
    )


@form("_weight_norm_interface")
def weight_norm(v: torch.Tensor, g: torch.Tensor, dim: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """v scaled to the norms g along `dim`, and the norms of v."""
    y = v.double()
    norms = sqrt64(sum64(y * y, [d for d in range(v.dim()) if d != dim % v.dim()], keepdim=True))
    return (y * (g.double() / norms)).to(v.dtype), norms.to(v.dtype)


@form("_weight_norm_interface_backward")
def weight_norm_backward(
    grad: torch.Tensor, v: torch.Tensor, g: torch.Tensor, norms: torch.Tensor, dim: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of v and g."""
    others = [d for d in range(v.dim()) if d != dim % v.dim()]
    into, y, n = grad.double(), v.double(), norms.double()
    along = sum64(into * y, others, keepdim=True) / n
    return ((into - y * (along / n)) * (g.double() / n)).to(v.dtype), along.to(g.dtype)
