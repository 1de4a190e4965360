"""What passes left in small buffers of a CPU, kept as rows of bytes until the round ends.

Between two passes caches are cold, and every call of torch costs several times what it costs in a loop. So a
pass leaves one copy of the buffers' bytes, and what is to be made of them is made for all passes at once.

    row of one pass    | family 0: member, member, ... | family 1: ... |    bytes, families by falling item size
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from holdtrue.numerics import byte_taker

from ._buffer_family import Family

ROWS_BYTES = 1 << 22
"""So much memory the rows of a round may take; larger buffers are taken pass by pass."""

RULES = ("mean", "first", "alike")
"""Rules of families that can wait for the end of the round."""


class PassRows:
    """Rows of the passes of a round, and the copies that put the start back.

    Args:
        families: All families of the models; they hold the values of the start.
    """

    def __init__(self, families: Sequence[Family]) -> None:
        self._families = families
        self._order = sorted(range(len(families)), key=lambda i: -families[i].start.element_size())
        self._ranges: dict[int, tuple[int, int]] = {}
        end = 0
        for i in self._order:
            self._ranges[i] = end, end + families[i].start.nbytes
            end += families[i].start.nbytes
        self._width = end
        self._stride = -(-end // 8) * 8
        flats = [flat for i in self._order for flat in families[i].views or ()]
        starts = [view for i in self._order for view in families[i].start_views]
        self._views = [_bytes_of(flat) for flat in flats]
        self._pairs = [
            (view, _bytes_of(start.reshape(-1))) for view, start in zip(self._views, starts, strict=True)
        ]
        self._take = byte_taker([each for each in flats if each.numel()], [s for s in starts if s.numel()])
        self._rows = np.empty((0, self._stride), dtype=np.uint8)
        self._address = 0
        """Of the first row."""
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
        """Forget the round before."""
        self._passes.clear()

    @property
    def has_room(self) -> bool:
        """Whether another pass fits."""
        return (len(self._passes) + 1) * self._stride <= ROWS_BYTES

    def take(self, virtual_node: int, weight: float) -> None:
        """Keep what a pass left, and put the start back."""
        at = len(self._passes)
        if at == len(self._rows):
            grown = np.empty((max(8, 2 * at), self._stride), dtype=np.uint8)
            grown[:at] = self._rows
            self._rows = grown
            self._address = grown.ctypes.data
        if self._take is not None:
            self._take(self._address + at * self._stride)
        else:
            np.concatenate(self._views, out=self._rows[at, : self._width])
            for view, start in self._pairs:
                view[:] = start
        self._passes.append((virtual_node, weight))

    def work_off(self) -> list[tuple[int, list[torch.Tensor | None]]]:
        """Compare all rows, and give what each pass adds to the sums: (virtual node, float64 sums), in order."""
        passes, self._passes = self._passes, []
        if not passes:
            return []
        rows = torch.from_numpy(self._rows)[: len(passes)]
        nodes, weights = [v for v, _ in passes], [weight for _, weight in passes]
        sums: list[torch.Tensor] = []
        for i, family in enumerate(self._families):
            start, stop = self._ranges[i]
            flats = rows[:, start:stop].view(family.start.dtype)
            family.compare_rows(flats, nodes)
            if family.rule == "mean":
                wide = flats.double()
                if any(weight != 1 for weight in weights):
                    wide.mul_(torch.tensor(weights, dtype=torch.float64).unsqueeze(1))
                sums.append(wide)
        return [(v, [wide[k] for wide in sums]) for k, (v, _) in enumerate(passes)]


def _bytes_of(flat: torch.Tensor) -> npt.NDArray[np.uint8]:
    return flat.view(torch.uint8).numpy()
