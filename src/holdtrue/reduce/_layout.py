"""Where each parameter's gradient lies in the flat buffers that workers exchange.

# P parameters, N elements of a bucket, W workers
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from holdtrue.plan import divide_batch

ALIGNMENT_ELEMENTS = 16
"""Segments start at multiples of 64 bytes (float32): bits of some kernels depend on alignment."""

BUCKET_BYTES = 8 * 2**20
"""Buckets close when they reach this size. Bits do not depend on it."""


def widened_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which gradients of parameters of `dtype` are added: float32 for 16-bit, else their own (real part's).

    >>> widened_dtype(torch.bfloat16), widened_dtype(torch.float64)
    (torch.float32, torch.float64)
    """
    if dtype in (torch.float64, torch.complex128):
        return torch.float64
    return torch.float32


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One parameter's place in a bucket."""

    parameter: int
    """Index into the layout's parameters."""
    offset: int
    """First element."""
    size: tuple[int, ...]
    """Shape as real numbers: a complex parameter has a last axis of 2."""
    stride: tuple[int, ...]
    """Strides of the parameter if it is dense, so that the gradient keeps its memory format."""

    def view_of(self, flat: torch.Tensor) -> torch.Tensor:
        """This segment of a bucket's flat tensor, in the parameter's shape."""
        return flat.as_strided(self.size, self.stride, flat.storage_offset() + self.offset)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """Gradients that travel together; all of one dtype."""

    dtype: torch.dtype
    segments: tuple[Segment, ...]
    elements: int
    """Length of the flat tensor, padding between segments included."""

    def slice_bounds(self, workers: int) -> tuple[int, ...]:
        """W + 1 bounds that part the bucket into slices of near-equal length, aligned."""
        blocks = -(-self.elements // ALIGNMENT_ELEMENTS)
        starts = [a * ALIGNMENT_ELEMENTS for a, _ in divide_batch(blocks, workers)]
        return (*starts, self.elements)


@dataclass(frozen=True, slots=True)
class GradientLayout:
    """Buckets over the parameters that need gradients, last parameters first: backward reaches them first."""

    buckets: tuple[Bucket, ...]
    parameters: int
    """P."""

    @classmethod
    def build(cls, parameters: Sequence[torch.Tensor], bucket_bytes: int = BUCKET_BYTES) -> "GradientLayout":
        """The layout of these parameters: a pure function of their order, shapes, strides and dtypes."""
        buckets: list[Bucket] = []
        open_segments: list[Segment] = []
        open_dtype = torch.float32
        end = 0

        def close() -> None:
            nonlocal end
            if open_segments:
                buckets.append(Bucket(dtype=open_dtype, segments=tuple(open_segments), elements=end))
            open_segments.clear()
            end = 0

        for index in reversed(range(len(parameters))):
            parameter = parameters[index].detach()
            real = torch.view_as_real(parameter) if parameter.is_complex() else parameter
            dtype = widened_dtype(parameter.dtype)
            if dtype != open_dtype or end * dtype.itemsize >= bucket_bytes:
                close()
                open_dtype = dtype
            stride = real.stride() if is_dense(real) else torch.empty(real.shape, device="meta").stride()
            open_segments.append(
                Segment(parameter=index, offset=end, size=tuple(real.shape), stride=tuple(stride))
            )
            end += -(-real.numel() // ALIGNMENT_ELEMENTS) * ALIGNMENT_ELEMENTS
        close()
        return cls(tuple(buckets), len(parameters))

    def describe(self) -> str:
        """A text that is equal on two workers only if their layouts are."""
        return ";".join(
            f"{b.dtype}:{','.join(f'{s.parameter}@{s.offset}{s.size}{s.stride}' for s in b.segments)}"
            for b in self.buckets
        )


def is_dense(tensor: torch.Tensor) -> bool:
    """Whether the elements fill one block of memory without gaps or overlaps, in any order of axes."""
    expected = 1
    for stride, size in sorted(
        (st, n) for st, n in zip(tensor.stride(), tensor.shape, strict=True) if n != 1
    ):
        if stride != expected:
            return False
        expected *= size
    return True
