"""Portable forms of convolution and pooling: windows are moved into columns, and overlaps added in a fixed order."""

from collections.abc import Iterator, Sequence

import torch

from holdtrue.errors import NumericsError

from . import _transposed as transpose
from ._functions import divided
from ._matmul import matmul
from ._registry import form
from ._sums import sum64

# N images, C channels in, O channels out, g groups, k kernel, L places of the window

Pair = tuple[int, int]


def _pair(values: Sequence[int] | int) -> Pair:
    values = [values] if isinstance(values, int) else list(values)
    return (values[0], values[0]) if len(values) == 1 else (values[0], values[1])


def _places(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def _columns(x: torch.Tensor, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> torch.Tensor:
    """[N, C * kh * kw, L]: a move."""
    return torch.ops.aten.im2col(x, kernel, dilation, padding, stride)  # type: ignore[no-any-return]


@form("col2im")
def fold(
    columns: torch.Tensor,
    output_size: Sequence[int],
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
) -> torch.Tensor:
    """Adds columns [N, C * kh * kw, L] where they came from, kernel place by kernel place in row-major order."""
    batched = columns if columns.dim() == 3 else columns.unsqueeze(0)
    (H, W), (kh, kw), (dh, dw) = _pair(output_size), _pair(kernel_size), _pair(dilation)
    (ph, pw), (sh, sw) = _pair(padding), _pair(stride)
    oh, ow = _places(H, kh, sh, ph, dh), _places(W, kw, sw, pw, dw)
    parts = batched.reshape(batched.shape[0], -1, kh, kw, oh, ow)
    out = batched.new_zeros((batched.shape[0], parts.shape[1], H + 2 * ph, W + 2 * pw))
    for i in range(kh):
        for j in range(kw):
            top, left = i * dh, j * dw
            out[:, :, top : top + sh * oh : sh, left : left + sw * ow : sw] += parts[:, :, i, j]
    out = out[:, :, ph : ph + H, pw : pw + W].contiguous()
    return out if columns.dim() == 3 else out[0]


def _as_2d(x: torch.Tensor) -> torch.Tensor:
    return x.unsqueeze(2) if x.dim() == 3 else x


def _lead(values: Sequence[int], one_dimensional: bool, filler: int) -> Pair:
    return (filler, values[0]) if one_dimensional else _pair(values)


def _refuse(x: torch.Tensor, weight: torch.Tensor, groups: int, *, transposed: bool) -> None:
    if x.dim() not in (3, 4):
        raise NotImplementedError(f"a convolution of {x.dim() - 2} dimensions; portable ones have 1 or 2")
    if x.dtype != torch.float32 or weight.dtype != torch.float32:
        raise NotImplementedError(f"a convolution of {x.dtype} and {weight.dtype}; portable ones are float32")
    channels, kernels = x.shape[1], list(weight.shape)
    wanted = weight.shape[0] if transposed else groups * weight.shape[1]
    if weight.dim() != x.dim() or groups < 1 or channels != wanted or weight.shape[0] % groups:
        raise NumericsError(
            f"a convolution of images {list(x.shape)} (N, channels, ...) and weights {kernels} in {groups} group(s): these "
            f"weights are for {wanted} channels, in groups of one size, and the images have {channels}. Compare the layer's "
            f"in_channels and groups with what it is given."
        )


@form("convolution")
def convolution(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> torch.Tensor:
    """Convolution as a product of the weights with columns of windows."""
    _refuse(x, weight, groups, transposed=transposed)
    flat = x.dim() == 3
    s, p, d = _lead(stride, flat, 1), _lead(padding, flat, 0), _lead(dilation, flat, 1)
    images, kernels = _as_2d(x), _as_2d(weight)
    if transposed:
        more = _lead(output_padding, flat, 0)
        size = transpose.output_size(images, (kernels.shape[2], kernels.shape[3]), s, p, d, more)
        out = transpose.spread_out(images, kernels, groups, size, (s, p, d))
        out = out if bias is None else out + bias[:, None, None]
        return out.squeeze(2) if flat else out
    N, _, H, W = images.shape
    out_channels, _, kh, kw = kernels.shape
    oh, ow = _places(H, kh, s[0], p[0], d[0]), _places(W, kw, s[1], p[1], d[1])
    columns = _columns(images, (kh, kw), s, p, d).reshape(N, groups, -1, oh * ow)
    rows = kernels.reshape(groups, out_channels // groups, -1)
    parts = [matmul(rows[g : g + 1], columns[:, g]) for g in range(groups)]
    out = (parts[0] if groups == 1 else torch.cat(parts, 1)).reshape(N, out_channels, oh, ow)
    if bias is not None:
        out = out + bias[:, None, None]
    return out.squeeze(2) if flat else out


@form("convolution_backward")
def convolution_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    output_mask: Sequence[bool],
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """Gradients of input, weight and bias; that of the weight is one product over all images and places."""
    _refuse(x, weight, groups, transposed=transposed)
    flat = x.dim() == 3
    s, p, d = _lead(stride, flat, 1), _lead(padding, flat, 0), _lead(dilation, flat, 1)
    images, kernels, g4 = _as_2d(x), _as_2d(weight), _as_2d(grad)
    if transposed:
        found = transpose.spread_out_backward(g4, images, kernels, groups, (s, p, d), output_mask)
        gx, gw, gb = found
        return (
            None if gx is None else gx.reshape(x.shape),
            None if gw is None else gw.reshape(weight.shape),
            gb,
        )
    N, _, H, W = images.shape
    out_channels, _, kh, kw = kernels.shape
    g_NOL = g4.reshape(N, groups, out_channels // groups, -1)
    gx = gw = gb = None
    if output_mask[0]:
        rows = kernels.reshape(groups, out_channels // groups, -1).transpose(1, 2)
        parts = [matmul(rows[g : g + 1], g_NOL[:, g]) for g in range(groups)]
        gx = fold(torch.cat(parts, 1), (H, W), (kh, kw), d, p, s).reshape(x.shape)
    if output_mask[1]:
        columns = _columns(images, (kh, kw), s, p, d).reshape(N, groups, -1, g_NOL.shape[3])
        gw = torch.stack(
            [
                matmul(
                    g_NOL[:, g].transpose(0, 1).reshape(out_channels // groups, -1),
                    columns[:, g].permute(0, 2, 1).reshape(-1, columns.shape[2]),
                )
                for g in range(groups)
            ]
        ).reshape(weight.shape)
    if output_mask[2]:
        gb = sum64(g4, [0, 2, 3]).to(grad.dtype)
    return gx, gw, gb


# ---- pooling ----


def _window_places(
    size: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> Iterator[tuple[int, int, slice, slice]]:
    """Kernel places in row-major order, with where each lies in the padded image."""
    oh = _places(size[0], kernel[0], stride[0], padding[0], dilation[0])
    ow = _places(size[1], kernel[1], stride[1], padding[1], dilation[1])
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            top, left = i * dilation[0], j * dilation[1]
            yield (
                i,
                j,
                slice(top, top + stride[0] * oh, stride[0]),
                slice(left, left + stride[1] * ow, stride[1]),
            )


def _padded(x: torch.Tensor, padding: Pair, value: float) -> torch.Tensor:
    if padding == (0, 0):
        return x
    return torch.nn.functional.pad(x, (padding[1], padding[1], padding[0], padding[0]), value=value)


@form("max_pool2d_with_indices")
def max_pool(
    x: torch.Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = 0,  # type: ignore[assignment]  # ATen expands a number
    dilation: Sequence[int] = 1,  # type: ignore[assignment]
    ceil_mode: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Largest value of each window, the first of equals, and its index in the image."""
    if ceil_mode:
        raise NotImplementedError("a pooling with ceil_mode=True; pad the images instead")
    images = x if x.dim() == 4 else x.unsqueeze(0)
    k, p, d = _pair(kernel_size), _pair(padding), _pair(dilation)
    s = _pair(stride) if stride else k
    H, W = images.shape[2:]
    around = _padded(images, p, -torch.inf)
    index = torch.arange(H * W, device=x.device).reshape(1, 1, H, W)
    index = torch.nn.functional.pad(index, (p[1], p[1], p[0], p[0]), value=-1)
    best: torch.Tensor | None = None
    at = index
    for _, _, rows, cols in _window_places((H, W), k, s, p, d):
        value, place = around[:, :, rows, cols], index[:, :, rows, cols]
        if best is None:
            best, at = value.clone(), place.expand(value.shape).clone()
            continue
        better = (value > best) | value.isnan() | ((at < 0) & (place >= 0))
        best, at = torch.where(better, value, best), torch.where(better, place, at)
    assert best is not None, "a kernel has a place"
    return (best, at) if x.dim() == 4 else (best[0], at[0])


@form("max_pool2d_with_indices_backward")
def max_pool_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    indices: torch.Tensor,
) -> torch.Tensor:
    """Each gradient where its value came from; overlaps are added kernel place by kernel place."""
    images, g, at = (t if t.dim() == 4 else t.unsqueeze(0) for t in (x, grad, indices))
    k, p, d = _pair(kernel_size), _pair(padding), _pair(dilation)
    s = _pair(stride) if stride else k
    H, W = images.shape[2:]
    out = images.new_zeros((*images.shape[:2], H + 2 * p[0], W + 2 * p[1]))
    index = torch.arange(H * W, device=x.device).reshape(1, 1, H, W)
    index = torch.nn.functional.pad(index, (p[1], p[1], p[0], p[0]), value=-1)
    for _, _, rows, cols in _window_places((H, W), k, s, p, d):
        out[:, :, rows, cols] += torch.where(at == index[:, :, rows, cols], g, 0.0)
    return out[:, :, p[0] : p[0] + H, p[1] : p[1] + W].reshape(x.shape)


def _divisors(
    size: Pair,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    include_pad: bool,
    override: int | None,
    x: torch.Tensor,
) -> torch.Tensor:
    if override is not None or include_pad:
        return torch.full((), float(override or kernel[0] * kernel[1]), dtype=torch.float64, device=x.device)
    ones = _padded(torch.ones((1, 1, *size), dtype=torch.float64, device=x.device), padding, 0.0)
    return _added_windows(ones, size, kernel, stride, padding)


def _added_windows(
    around: torch.Tensor, size: Pair, kernel: Pair, stride: Pair, padding: Pair
) -> torch.Tensor:
    total: torch.Tensor | None = None
    for _, _, rows, cols in _window_places(size, kernel, stride, padding, (1, 1)):
        part = around[:, :, rows, cols].double()
        total = part + 0.0 if total is None else total + part
    assert total is not None, "a kernel has a place"
    return total


@form("avg_pool2d")
def avg_pool(
    x: torch.Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = 0,  # type: ignore[assignment]  # ATen expands a number
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> torch.Tensor:
    """Mean of each window, in float64, rounded once."""
    if ceil_mode:
        raise NotImplementedError("a pooling with ceil_mode=True; pad the images instead")
    images = x if x.dim() == 4 else x.unsqueeze(0)
    k, p = _pair(kernel_size), _pair(padding)
    s = _pair(stride) if stride else k
    size = (images.shape[2], images.shape[3])
    total = _added_windows(_padded(images, p, 0.0), size, k, s, p)
    out = (total / _divisors(size, k, s, p, count_include_pad, divisor_override, x)).to(x.dtype)
    return out if x.dim() == 4 else out[0]


@form("avg_pool2d_backward")
def avg_pool_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> torch.Tensor:
    """Each gradient divided over its window; overlaps are added kernel place by kernel place, in float64."""
    images, g = (t if t.dim() == 4 else t.unsqueeze(0) for t in (x, grad))
    k, p = _pair(kernel_size), _pair(padding)
    s = _pair(stride) if stride else k
    H, W = images.shape[2:]
    share = g.double() / _divisors((H, W), k, s, p, count_include_pad, divisor_override, x)
    out = share.new_zeros((*images.shape[:2], H + 2 * p[0], W + 2 * p[1]))
    for _, _, rows, cols in _window_places((H, W), k, s, p, (1, 1)):
        out[:, :, rows, cols] += share
    return out[:, :, p[0] : p[0] + H, p[1] : p[1] + W].reshape(x.shape).to(x.dtype)


def _bounds(size: int, wanted: int) -> list[tuple[int, int]]:
    """Where each window of an adaptive pooling begins and ends, as torch has it."""
    return [(i * size // wanted, -(-(i + 1) * size // wanted)) for i in range(wanted)]


def _even(size: Sequence[int], wanted: Sequence[int]) -> Pair | None:
    """The kernel of windows that divide the image evenly, if they do."""
    if size[0] % wanted[0] or size[1] % wanted[1]:
        return None
    return size[0] // wanted[0], size[1] // wanted[1]


@form("_adaptive_avg_pool2d")
def adaptive_avg_pool(x: torch.Tensor, output_size: Sequence[int]) -> torch.Tensor:
    """Mean pooling to a size; each window a mean in float64, rounded once."""
    size = _pair(output_size)
    k = _even(x.shape[-2:], size)
    if k is not None:
        return avg_pool(x, k, k)
    rows = [
        torch.stack(
            [
                divided(sum64(x[..., a:b, c:d], [-2, -1]), float((b - a) * (d - c)))
                for c, d in _bounds(x.shape[-1], size[1])
            ],
            -1,
        )
        for a, b in _bounds(x.shape[-2], size[0])
    ]
    return torch.stack(rows, -2).to(x.dtype)


@form("_adaptive_avg_pool2d_backward")
def adaptive_avg_pool_backward(grad: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Gradient of `adaptive_avg_pool`; overlaps are added window by window in row-major order, in float64."""
    size = (grad.shape[-2], grad.shape[-1])
    k = _even(x.shape[-2:], size)
    if k is not None:
        return avg_pool_backward(grad, x, k, k, (0, 0), False, True, None)
    out, g = torch.zeros(x.shape, dtype=torch.float64, device=x.device), grad.double()
    for i, (a, b) in enumerate(_bounds(x.shape[-2], size[0])):
        for j, (c, d) in enumerate(_bounds(x.shape[-1], size[1])):
            out[..., a:b, c:d] += divided(g[..., i, j], float((b - a) * (d - c)))[..., None, None]
    return out.to(x.dtype)
