"""Transposed convolution: the gradient of a convolution as a function of its own."""

from collections.abc import Sequence

import torch

from ._matmul import matmul
from ._sums import sum64

# N images, C channels in, O channels out, g groups, L places of the input

Pair = tuple[int, int]


def output_size(
    images: torch.Tensor, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, more: Pair
) -> Pair:
    """Height and width of the result."""
    H, W = images.shape[2:]
    return (
        (H - 1) * stride[0] - 2 * padding[0] + dilation[0] * (kernel[0] - 1) + more[0] + 1,
        (W - 1) * stride[1] - 2 * padding[1] + dilation[1] * (kernel[1] - 1) + more[1] + 1,
    )


def spread_out(
    images: torch.Tensor, kernels: torch.Tensor, groups: int, size: Pair, where: tuple[Pair, Pair, Pair]
) -> torch.Tensor:
    """The images through kernels `[C, O / g, kh, kw]`: products to columns, and columns added where they belong.

    Args:
        images: `[N, C, H, W]`.
        kernels: As above.
        groups: g.
        size: Height and width of the result.
        where: Stride, padding and dilation.
    """
    from ._windows import fold

    N, C = images.shape[:2]
    stride, padding, dilation = where
    parts = images.reshape(N, groups, C // groups, -1)
    rows = kernels.reshape(groups, C // groups, -1).transpose(1, 2)
    columns = [matmul(rows[g : g + 1], parts[:, g]) for g in range(groups)]
    kernel = (kernels.shape[2], kernels.shape[3])
    return fold(torch.cat(columns, 1), size, kernel, dilation, padding, stride)


def spread_out_backward(
    grad: torch.Tensor,
    images: torch.Tensor,
    kernels: torch.Tensor,
    groups: int,
    where: tuple[Pair, Pair, Pair],
    output_mask: Sequence[bool],
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """Gradients of images, kernels and bias."""
    N, C = images.shape[:2]
    stride, padding, dilation = where
    kernel = (kernels.shape[2], kernels.shape[3])
    gx = gw = gb = None
    if output_mask[0] or output_mask[1]:
        columns = torch.ops.aten.im2col(grad, kernel, dilation, padding, stride)
        columns = columns.reshape(N, groups, -1, images.shape[2] * images.shape[3])
        if output_mask[0]:
            rows = kernels.reshape(groups, C // groups, -1)
            gx = torch.cat([matmul(rows[g : g + 1], columns[:, g]) for g in range(groups)], 1)
            gx = gx.reshape(images.shape)
        if output_mask[1]:
            parts = images.reshape(N, groups, C // groups, -1)
            gw = torch.stack(
                [
                    matmul(
                        parts[:, g].transpose(0, 1).reshape(C // groups, -1),
                        columns[:, g].permute(0, 2, 1).reshape(-1, columns.shape[2]),
                    )
                    for g in range(groups)
                ]
            ).reshape(kernels.shape)
    if output_mask[2]:
        gb = sum64(grad, [0, 2, 3]).to(grad.dtype)
    return gx, gw, gb
