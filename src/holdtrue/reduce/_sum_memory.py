"""Memory for sums that wait between passes, taken before the first pass.

A sum that waits where backward made it lies in the middle of where that pass's activations were, and free memory on both
sides of it does not come together for the next pass: the heap grows (docs/log.md, "Sums that wait where activations were").
"""

from collections.abc import Sequence

import torch

from ._layout import GradientLayout


class SumMemory:
    """Tensors that sums are added into when they are going to wait; the bits are those of adding elsewhere.

    Only on the CPU: a device's caching allocator keeps blocks of one size for that size.

    Args:
        layout: Of the parameters; each tensor has its parameter's shape, strides and widened dtype.
        parameters: What the layout was built from.
    """

    def __init__(self, layout: GradientLayout, parameters: Sequence[torch.Tensor]) -> None:
        self._segments = {
            s.parameter: (s, b.dtype)
            for b in layout.buckets
            for s in b.segments
            if parameters[s.parameter].device.type == "cpu"
        }
        self._made: dict[int, list[torch.Tensor]] = {p: [] for p in self._segments}
        self._free: dict[int, list[torch.Tensor]] = {p: [] for p in self._segments}
        self._ids: set[int] = set()
        self._sums = 0

    def reserve(self, sums: int) -> None:
        """Have memory for so many sums. Pages that no sum is written to cost nothing."""
        for _ in range(self._sums, sums):
            for p, (segment, dtype) in self._segments.items():
                tensor = torch.empty_strided(segment.size, segment.stride, dtype=dtype)
                self._made[p].append(tensor)
                self._free[p].insert(0, tensor)
                self._ids.add(id(tensor))
        self._sums = max(sums, self._sums)

    def free_all(self) -> None:
        """Nothing waits: a round begins."""
        self._free = {p: made[::-1] for p, made in self._made.items()}

    def holds(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor lies here."""
        return id(tensor) in self._ids

    def take(self, parameter: int, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor | None:
        """Where `left + right` can wait; None if nothing that fits is free. The one given back last comes first."""
        free = self._free.get(parameter)
        if not free or type(left) is not torch.Tensor or type(right) is not torch.Tensor:
            return None
        shape, dtype = free[-1].shape, free[-1].dtype
        fits = all(t.shape == shape and t.dtype == dtype and t.device.type == "cpu" for t in (left, right))
        return free.pop() if fits else None

    def give_back(self, parameter: int, tensor: torch.Tensor) -> None:
        """Say that a tensor's sum is of no use any more; one that does not lie here is left alone."""
        if id(tensor) in self._ids:
            self._free[parameter].append(tensor)
