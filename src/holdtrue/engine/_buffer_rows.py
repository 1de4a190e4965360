"""What passes left in small buffers of a CPU, kept as rows of bytes until the round ends.

Between two passes caches are cold, and every call of torch costs several times what it costs in a loop. So a
pass leaves one copy of the buffers' bytes, and what is to be made of them is made for all passes at once. A few buffers are
copied piece by piece; for many, one compiled call costs less, if it is there.

    row of one pass    | family 0: member, member, ... | family 1: ... |    bytes, families by falling item size

# P passes, N elements of a family
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from holdtrue.mapping import Tree, evaluate_tree
from holdtrue.numerics import byte_taker

from ._buffer_family import NUMPY_DTYPES, Bits, Family

ROWS_BYTES = 1 << 22
"""So much memory the rows of a round may take; larger buffers are taken pass by pass."""

RULES = ("mean", "first", "alike")
"""Rules of families that can wait for the end of the round."""

FEW_PIECES = 8
"""Up to so many buffers are copied one by one: the way into a compiled call costs as much as eight copies."""


class PassRows:
    """Rows of the passes of a round, and the copies that put the start back.

    Args:
        families: All families of the models; they hold the values of the start, which come to lie in a row too.
    """

    def __init__(self, families: Sequence[Family]) -> None:
        self._families = families
        order = sorted(range(len(families)), key=lambda i: -families[i].start.element_size())
        self._ranges: dict[int, tuple[int, int]] = {}
        end = 0
        for i in order:
            self._ranges[i] = end, end + families[i].start.nbytes
            end += families[i].start.nbytes
        self._width = end
        self._stride = -(-end // 8) * 8
        self._start = np.zeros(self._stride, dtype=np.uint8)
        self._start_bytes = self._start.data
        for i in order:
            a, b = self._ranges[i]
            start = torch.from_numpy(self._start[a:b]).view(families[i].start.dtype)
            families[i].move_start(start.copy_(families[i].start))
        self._flats = [flat for i in order for flat in families[i].views or () if flat.numel()]
        self._cells = [_bytes_of(flat).data for flat in self._flats]
        self._starts: list[memoryview] = []
        self._places: list[int] = []
        at = 0
        for cell in self._cells:
            self._starts.append(self._start_bytes[at : at + cell.nbytes])
            self._places.append(at)
            at += cell.nbytes
        self._padded = [*self._cells, memoryview(bytes(self._stride - end))]
        starts = [s for i in order for s in families[i].start_views if s.numel()]
        self._take = byte_taker(self._flats, starts) if len(starts) > FEW_PIECES else None
        self._rows: list[bytes | memoryview] = []
        self._passes: list[tuple[int, float]] = []

    @staticmethod
    def can_hold(families: Sequence[Family]) -> bool:
        """Whether these buffers may wait for the end of the round: on the CPU, in plain memory, of rules that can wait."""
        return bool(families) and all(
            f.rule in RULES
            and f.views is not None
            and f.start.device.type == "cpu"
            and not f.start.is_complex()
            for f in families
        )

    def begin_round(self) -> None:
        """Forget the round before, and keep the present values as the start of every pass."""
        self._rows.clear()
        self._passes.clear()
        self._start_bytes[: self._width] = b"".join(self._cells)

    @property
    def has_room(self) -> bool:
        """Whether another pass fits."""
        return (len(self._passes) + 1) * self._stride <= ROWS_BYTES

    def take(self, virtual_node: int, weight: float) -> None:
        """Keep what a pass left, and put the start back."""
        if self._take is not None:
            row = np.zeros(self._stride, dtype=np.uint8)
            self._take(row.ctypes.data)
            self._rows.append(row.data)
        else:
            row_bytes = b"".join(self._padded)
            self._rows.append(row_bytes)
            for cell, start, at in zip(self._cells, self._starts, self._places, strict=True):
                if not row_bytes.startswith(start, at):  # one that is as it was may lie in read-only memory
                    cell[:] = start
        self._passes.append((virtual_node, weight))

    def work_off(self) -> list[tuple[int, list[torch.Tensor | None]]]:
        """Compare all rows, and give what each pass adds to the sums: (virtual node, float64 sums), in order."""
        passes, rows = self._compare()
        if not passes:
            return []
        sums: list[torch.Tensor] = []
        for i, family in enumerate(self._families):
            if family.rule == "mean":
                a, b = self._ranges[i]
                wide = torch.from_numpy(rows[:, a:b]).view(family.start.dtype).double()
                if any(weight != 1 for _, weight in passes):
                    weights = torch.tensor([weight for _, weight in passes], dtype=torch.float64)
                    wide.mul_(weights.unsqueeze(1))
                sums.append(wide)
        return [(v, [wide[k] for wide in sums]) for k, (v, _) in enumerate(passes)]

    def can_add_up(self, passes: int) -> bool:
        """Whether `add_up` may be called: all passes are here, and NumPy knows the dtypes."""
        return len(self._passes) == passes and all(
            f.rule != "mean" or f.start.dtype in NUMPY_DTYPES for f in self._families
        )

    def add_up(self, trees: Sequence[Tree]) -> list[list[Bits]]:
        """As `work_off`, with the sums of each subtree added up in its order: by subtree, then by family."""
        passes, rows = self._compare()
        totals: list[list[Bits]] = [[] for _ in trees]
        for i, family in enumerate(self._families if passes else ()):
            if family.rule != "mean":
                continue
            a, b = self._ranges[i]
            wide = rows[:, a:b].view(NUMPY_DTYPES[family.start.dtype]).astype(np.float64)
            leaves: dict[Tree, npt.NDArray[np.float64]] = {}
            with np.errstate(all="ignore"):  # infinities and NaN are the user's, and no warning
                for row, (v, weight) in zip(wide, passes, strict=True):
                    leaves[v] = row if weight == 1 else np.multiply(row, weight, out=row)
                for total, tree in zip(totals, trees, strict=True):
                    total.append(evaluate_tree(tree, leaves, _add))
        return totals

    def _compare(self) -> tuple[list[tuple[int, float]], npt.NDArray[np.uint8]]:
        """The passes, and their rows, once compared with the start and with each other."""
        passes, self._passes = self._passes, []
        rows = np.frombuffer(bytearray().join(self._rows), dtype=np.uint8).reshape(len(passes), self._stride)
        self._rows.clear()
        nodes = [v for v, _ in passes]
        for i, family in enumerate(self._families if passes else ()):
            a, b = self._ranges[i]
            assert family.start_bits is not None, "rows are of a CPU"
            family.compare_rows(rows[:, a:b].view(family.start_bits.dtype), nodes)
        return passes, rows


def _add(left: npt.NDArray[np.float64], right: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.add(left, right, out=left)


def _bytes_of(flat: torch.Tensor) -> npt.NDArray[np.uint8]:
    return flat.view(torch.uint8).numpy()
