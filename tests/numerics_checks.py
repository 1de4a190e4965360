"""What tests of portable numerics share."""

from collections.abc import Callable, Iterator

import torch

from holdtrue.numerics import engines, force_engine


def bits(x: torch.Tensor) -> torch.Tensor:
    """A tensor's bits, with every NaN as one value."""
    x = torch.where(x.isnan(), torch.nan, x).contiguous()
    return x.view(torch.int32 if x.dtype == torch.float32 else torch.int64)


def each_engine() -> Iterator[str]:
    """Every engine here, in use while it is yielded."""
    try:
        for name in engines():
            force_engine(name)
            yield name
    finally:
        force_engine(None)


def same_for_all_engines(compute: Callable[[], torch.Tensor]) -> torch.Tensor:
    """The value of `compute`, after comparing its bits for all engines."""
    found = [(name, compute()) for name in each_engine()]
    for name, value in found:
        assert torch.equal(bits(value), bits(found[0][1])), name
    return found[0][1]
