"""How far two runtimes are apart on the same examples: in units in the last place, and in predictions."""

from dataclasses import dataclass
from typing import final

import torch


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What one runtime gives beside PyTorch."""

    ulps: int
    """Largest difference of an element, in float32 numbers that lie between; 0 for equal bits."""
    absolute: float
    """Largest absolute difference of an element."""
    differing: int
    """Examples with another prediction: another largest entry of the last axis."""
    examples: int
    """Examples compared."""

    @property
    def sentence(self) -> str:
        """The agreement for a reader."""
        bits = (
            "equal in every bit"
            if self.ulps == 0 and self.absolute == 0  # float64 has numbers between two of float32
            else f"at most {self.ulps} ulps apart ({self.absolute:.3g})"
        )
        return f"{bits}; {self.differing} of {self.examples} predictions differ"


def count_ulps(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Float32 numbers between each pair of elements; two NaNs count as equal, +0 and -0 too.

    Returns:
        int64, the shape of `a`; 2**32 where one of the two is NaN.

    >>> one = torch.tensor([1.0, -0.0, 1.0])
    >>> count_ulps(one, torch.tensor([1.0 + 2**-23, 0.0, float("nan")])).tolist()
    [1, 0, 4294967296]
    """
    nans = a.isnan(), b.isnan()
    places = [_place(t) for t in (a, b)]
    apart = (places[0] - places[1]).abs()
    apart[nans[0] & nans[1]] = 0
    apart[nans[0] ^ nans[1]] = 2**32
    return apart


def _place(values: torch.Tensor) -> torch.Tensor:
    """Number of each float32 in their order, counted from zero."""
    bits = values.float().contiguous().view(torch.int32).to(torch.int64)
    return torch.where(bits < 0, -(bits + 2**31), bits)


def compare_outputs(reference: torch.Tensor, other: torch.Tensor) -> Agreement:
    """What `other` is beside `reference`: both B examples, then the same further axes.

    >>> a = torch.tensor([[0.1, 0.9], [0.5, 0.4]])
    >>> compare_outputs(a, a.flip(1)).differing
    2
    """
    assert reference.shape == other.shape, f"{tuple(reference.shape)} beside {tuple(other.shape)}"
    reference, other = (t.to(torch.uint8) if t.dtype == torch.bool else t for t in (reference, other))
    examples = len(reference)
    differing = 0
    if reference.dim() > 1 and reference.shape[-1] > 1:
        parted = reference.argmax(-1) != other.argmax(-1)
        differing = int(parted.reshape(examples, -1).any(1).sum())
    ulps = count_ulps(reference, other)
    return Agreement(
        ulps=int(ulps.max()) if ulps.numel() else 0,
        absolute=float((reference.double() - other.double()).abs().nan_to_num(0.0).max())
        if ulps.numel()
        else 0.0,
        differing=differing,
        examples=examples,
    )
