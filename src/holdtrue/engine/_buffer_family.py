"""Buffers of one rule, handled as one flat tensor: what passes did to them, and their next values."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ._buffer_places import Place

BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integer dtype by item size: values are compared as bits, so that NaN equals itself."""

NUMPY_DTYPES = {
    torch.float32: np.float32,
    torch.float64: np.float64,
    torch.int64: np.int64,
    torch.int32: np.int32,
}
"""Dtypes whose arithmetic on the CPU is left to NumPy, which needs fewer calls; sums are of floating-point ones."""

PRINT_BYTES = 8
"""Bytes of a buffer's fingerprint."""

Bits = npt.NDArray[Any]
"""Values of a CPU's buffers, as integers or as what they are."""

Mask = torch.Tensor | npt.NDArray[np.bool_]
"""One entry for each element on a device, or for each buffer on the CPU."""


@dataclass(slots=True)
class Tracked:
    """One buffer, by where it hangs."""

    name: str
    place: Place
    tensor: torch.Tensor
    flat: torch.Tensor
    """The tensor as one axis; a view of it where it is contiguous."""
    is_view: bool


@dataclass(slots=True)
class Family:
    """Buffers of one rule, dtype and device, handled as one flat tensor."""

    rule: str
    members: list[Tracked] = field(default_factory=list)
    start: torch.Tensor = field(init=False)
    start_bits: Bits | None = field(init=False)
    """The start as integers, on a CPU."""
    start_views: list[torch.Tensor] = field(init=False)
    tensors: list[torch.Tensor] = field(init=False)
    first_flat: torch.Tensor | None = None
    """Values after the pass of this worker's lowest virtual node, on a device."""
    first_bits: Bits | None = None
    """The same on a CPU, as integers."""
    first_node: int = -1
    """That virtual node. Passes come in ascending order, but for those taken over from a worker that died."""
    changed: Mask | None = None
    """Where some pass left another value than `start`; None while no pass has."""
    unlike: Mask | None = None
    """Where some pass left another value than the first pass."""
    extreme: torch.Tensor | None = None
    """Running maximum or minimum, for these rules."""

    all_changed: bool = False
    """Whether every member is known to have changed, and need not be compared again (CPU)."""
    all_unlike: bool = False
    """Whether every member is known to be unlike after two passes (CPU)."""
    views: list[torch.Tensor] | None = field(init=False)
    """Every member as one axis, if each is a view of it."""
    offsets: npt.NDArray[np.intp] = field(init=False)
    """Where members that are not empty begin in the flat tensor, for CPUs."""
    filled: npt.NDArray[np.bool_] = field(init=False)
    """Which members are not empty."""
    bounds: list[tuple[int, int]] = field(init=False)
    """Where each member begins and ends in the flat tensor."""
    kinds: list[bytes] = field(init=False)
    """Dtype and shape of each member, as a text."""
    cells: list[memoryview] | None = field(init=False)
    """Every member's bytes, on a CPU, if each is in one piece and NumPy knows the dtype."""

    def close(self) -> None:
        """No member comes to it any more."""
        sizes = np.array([m.tensor.numel() for m in self.members], dtype=np.intp)
        self.filled = sizes > 0
        self.offsets = (np.cumsum(sizes) - sizes)[self.filled]
        self.bounds = [(int(end - size), int(end)) for size, end in zip(sizes, np.cumsum(sizes), strict=True)]
        self.tensors = [m.tensor for m in self.members]
        self.kinds = [_kind_of(m.tensor) for m in self.members]
        self.views = [m.flat for m in self.members] if all(m.is_view for m in self.members) else None
        self.move_start(self.flat())
        self.cells = None
        if self.views is not None and self.start.device.type == "cpu" and self.start.dtype in NUMPY_DTYPES:
            self.cells = [view.view(torch.uint8).numpy().data for view in self.views]

    def begin_round(self, *, keep: bool = True) -> None:
        """Forget the round before, and keep the present values as those that every pass starts from.

        Args:
            keep: False where `start` is written by others.
        """
        self.first_flat = self.first_bits = self.changed = self.unlike = self.extreme = None
        self.first_node, self.all_changed, self.all_unlike = -1, False, False
        if keep:
            self.start.copy_(self.flat(is_regular=True))

    def put_back(self) -> None:
        """Give every member the value of the start."""
        if self.cells is None or self.start_bits is None or not self.start_bits.size:
            write_unlike(self.tensors, self.start_views)
        else:
            self.write_cells(self.cells, self.start_bits, [False] * len(self.cells))

    def write_cells(self, cells: Sequence[memoryview], flat: Bits, are_unlike: Sequence[bool]) -> None:
        """Copy values of all members into their memory, but not where they are there: a constant may be read-only.

        Args:
            cells: The memory.
            flat: The values, one axis.
            are_unlike: Members that are known to have been written.
        """
        values, size = flat.data.cast("B"), self.start.element_size()
        for cell, (a, b), is_unlike in zip(cells, self.bounds, are_unlike, strict=True):
            value = values[a * size : b * size]
            if is_unlike or bytes(cell) != bytes(value):
                cell[:] = value

    def move_start(self, flat: torch.Tensor) -> None:
        """Keep the start in `flat` from here on, which holds it."""
        self.start = flat
        self.start_views = self.split(flat)
        self.start_bits = bits_of(flat).numpy() if flat.device.type == "cpu" else None

    @property
    def first(self) -> torch.Tensor | None:
        """Values after the pass of this worker's lowest virtual node; None while no pass is over."""
        if self.first_bits is None:
            return self.first_flat
        return torch.from_numpy(self.first_bits).view(self.start.dtype)

    def flat(self, *, is_regular: bool = False) -> torch.Tensor:
        """Present values of all members, in one new tensor.

        Args:
            is_regular: Whether every member is known to be the tensor that it was at the start.
        """
        if is_regular and self.views is not None:
            return torch.cat(self.views)
        values = []
        for m in self.members:
            now = m.place.owner[m.place.key]
            assert now is not None, f"buffer {m.name} is tracked and gone"
            values.append(m.flat if m.is_view and m.place.is_untouched() else now.reshape(-1))
        return torch.cat(values)

    def compare(self, flat: torch.Tensor, virtual_node: int) -> None:
        """Note where a pass left other values than the start, and than the first pass."""
        if flat.device.type == "cpu":
            self.compare_rows(bits_of(flat).numpy()[np.newaxis], (virtual_node,))
            return
        if self.first_flat is None:
            self.first_flat, self.first_node = flat, virtual_node
        # Nothing is read back from the device before the round ends.
        self.changed = _mark(self.changed, flat, self.start)
        self.unlike = _mark(self.unlike, flat, self.first_flat)
        if virtual_node < self.first_node:
            self.first_flat, self.first_node = flat, virtual_node

    def compare_rows(self, rows: Bits, virtual_nodes: Sequence[int]) -> None:
        """As `compare` for several passes on the CPU, at once.

        Args:
            rows: What each pass left as integers, as in `start_bits`, by row.
            virtual_nodes: The passes.
        """
        assert self.start_bits is not None, "a device's values are compared there"
        if self.first_bits is None:
            self.first_bits, self.first_node = rows[0], virtual_nodes[0]
        if not self.all_changed:
            self.changed = self._mark_rows(self.changed, rows, self.start_bits)
            self.all_changed = self.changed is not None and bool(self.changed.all())
        if not self.all_unlike:
            self.unlike = self._mark_rows(self.unlike, rows, self.first_bits)
            self.all_unlike = self.unlike is not None and bool(self.unlike.all())
        lowest = min(range(len(virtual_nodes)), key=virtual_nodes.__getitem__)
        if virtual_nodes[lowest] < self.first_node:
            self.first_bits, self.first_node = rows[lowest], virtual_nodes[lowest]

    def split(self, flat: torch.Tensor) -> list[torch.Tensor]:
        """Views of `flat` in the members' shapes."""
        pieces = flat.split([m.tensor.numel() for m in self.members])
        return [p.view(m.tensor.shape) for p, m in zip(pieces, self.members, strict=True)]

    def _mark_rows(self, mask: Mask | None, rows: Bits, others: Bits) -> Mask | None:
        """`mask`, one entry for each member, with those set whose bits in some row differ from `others`."""
        differs = (rows != others).any(axis=0)
        if not differs.any():
            return mask
        found = np.zeros(len(self.members), dtype=np.bool_)
        found[self.filled] = np.logical_or.reduceat(differs, self.offsets)
        return found if mask is None else found | mask

    def prints_of_first(self, wanted: Sequence[bool]) -> list[str]:
        """Fingerprints of members' values after the first pass; empty texts where none is wanted."""
        if self.first_bits is None:
            first = self.start_views if self.first_flat is None else self.split(self.first_flat)
            return [
                fingerprint_of(t) if is_wanted else "" for t, is_wanted in zip(first, wanted, strict=True)
            ]
        data, size = self.first_bits.tobytes(), self.first_bits.itemsize
        return [
            _print(kind, data[a * size : b * size]) if is_wanted else ""
            for kind, (a, b), is_wanted in zip(self.kinds, self.bounds, wanted, strict=True)
        ]

    def any_in_members(self, mask: Mask | None) -> list[bool]:
        """For each member, whether `mask` is set anywhere in it."""
        if mask is None:
            return [False] * len(self.members)
        if isinstance(mask, np.ndarray):
            return list(map(bool, mask))
        return [bool(piece.any()) for piece in self.split(mask.cpu())]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """What the workers agreed on about the buffers of a round; entries by family."""

    unlike: list[list[bool]]
    """For each member, whether two passes left different values in it."""
    first: list[torch.Tensor | Bits | None]
    """Values after the lowest virtual node's pass; None where no pass changed anything."""
    extremes: list[list[torch.Tensor]]
    """Largest or smallest values of each worker, for these rules."""
    odd: dict[str, torch.Tensor]
    """Buffers that appeared in the passes, by name."""
    per_node: dict[str, dict[int, torch.Tensor]]
    """What each virtual node's pass left in `per_node` buffers."""


def _mark(mask: Mask | None, values: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """`mask` with the places set where the bits of two tensors differ."""
    differs = bits_of(values) != bits_of(others)
    return differs if mask is None else differs.logical_or_(mask)  # type: ignore[arg-type]  # a tensor as this one is


def fingerprint_of(tensor: torch.Tensor) -> str:
    """Hash of a tensor's dtype, shape and bits."""
    data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return _print(_kind_of(tensor), data)


def _kind_of(tensor: torch.Tensor) -> bytes:
    return f"{tensor.dtype}{tuple(tensor.shape)}".encode()


def _print(kind: bytes, data: bytes) -> str:
    return hashlib.blake2b(kind + data, digest_size=PRINT_BYTES).hexdigest()


def write_unlike(tensors: Sequence[torch.Tensor], values: Sequence[torch.Tensor]) -> None:
    """Copy `values` into `tensors`; on a CPU only where bits differ, since a constant may lie in read-only memory."""
    if tensors and tensors[0].device.type == "cpu":
        unlike = [not torch.equal(bits_of(t), bits_of(v)) for t, v in zip(tensors, values, strict=True)]
        tensors, values = list(compress(tensors, unlike)), list(compress(values, unlike))
    if tensors:
        torch._foreach_copy_(list(tensors), list(values))


def bits_of(flat: torch.Tensor) -> torch.Tensor:
    if flat.dtype == torch.complex128:
        return torch.view_as_real(flat).view(torch.int64)
    return flat if flat.dtype == torch.bool else flat.view(BITS[flat.element_size()])


def settle_family(
    family: Family,
    unlike: Sequence[bool],
    first: torch.Tensor | Bits,
    total: torch.Tensor | Bits | None,
    weight: float,
    extremes: Sequence[torch.Tensor],
) -> None:
    """Set the members of one family to their values after the round."""
    if family.cells is not None and not extremes and family.rule != "sum":
        _settle_cells(family, family.cells, unlike, first, total, weight)
        return
    first = torch.from_numpy(first).view(family.start.dtype) if isinstance(first, np.ndarray) else first
    total = torch.from_numpy(total) if isinstance(total, np.ndarray) else total
    new = first.to(family.start.device, copy=True)
    combined: torch.Tensor | None = None
    if total is not None:
        total = total.to(family.start.device)
        # By a tensor: CUDA would multiply by the reciprocal of a number, and a CPU's replica divides.
        combined = total / torch.full_like(total, weight) if family.rule == "mean" else total + family.start
        combined = combined.to(family.start.dtype)
    for extreme in extremes:
        fold = torch.maximum if family.rule == "max" else torch.minimum
        combined = extreme if combined is None else fold(combined, extreme)
    if combined is not None:
        for target, source, is_unlike in zip(family.split(new), family.split(combined), unlike, strict=True):
            if is_unlike:
                target.copy_(source)
    write_unlike(family.tensors, family.split(new))


def _settle_cells(
    family: Family,
    cells: Sequence[memoryview],
    unlike: Sequence[bool],
    first: torch.Tensor | Bits,
    total: torch.Tensor | Bits | None,
    weight: float,
) -> None:
    """As `settle_family` where buffers are memory of a CPU: the same arithmetic, and copies of bytes."""
    dtype = NUMPY_DTYPES[family.start.dtype]
    new = first.view(dtype) if isinstance(first, np.ndarray) else first.numpy()
    if total is not None:
        total = total if isinstance(total, np.ndarray) else total.numpy()
        with np.errstate(all="ignore"):  # infinities and NaN are the user's, and no warning
            mean = (total / weight).astype(dtype)
        if not all(unlike):
            for (a, b), is_unlike in zip(family.bounds, unlike, strict=True):
                if not is_unlike:
                    mean[a:b] = new[a:b]
        new = mean
    family.write_cells(cells, np.ascontiguousarray(new), unlike)
