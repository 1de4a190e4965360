"""Peak memory of a pass, without what the trial itself keeps waiting beside it.

    the second step of a trial   pass 0 | pass 1 | pass 2 | pass 3 | exchange, update
    sets that are charged apart  0        1        1        2        0

A worker that adds its passes up keeps sums waiting, and the cost model charges them to each mapping by itself. So while
the trial warms up each pass is looked at alone, and what the model would charge by then is taken off: the rest is the
least peak of a pass with which the model covers everything that was measured.
"""

import ctypes
import gc
from pathlib import Path
from typing import final

import torch

WAITING = (0, 1, 1, 2)
"""By pass of a trial's worker, the sets of gradients that the cost model charges besides the pass's own: see
`holdtrue.solve`, which has 1, 2, 2 and 3 sets in all for blocks of 1 to 4 virtual nodes."""


def reset_peak(device: torch.device) -> None:
    """Begin to look for the peak of memory."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # the peak of the whole process is an upper bound


def read_peak(device: torch.device) -> int | None:
    """Peak memory since `reset_peak`: on a CPU, of the whole process; on CUDA, of torch's allocator."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


def give_back_memory(device: torch.device) -> None:
    """Let go of what is freed, so that the next peak is its own."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        return


def forget_trial(device: torch.device) -> None:
    """Let go of what the trial before has left."""
    gc.collect()
    give_back_memory(device)


@final
class PeakWatch:
    """The peak of the passes of one trial; told of steps and passes by the trial's timer and marks.

    Args:
        device: The worker's.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._is_close = False
        self._pass = -1
        self._windows: list[tuple[int, int]] = []
        """(sets that are charged apart, peak bytes) of what was looked at one by one."""

    def begin_step(self, *, closely: bool) -> None:
        """A step begins; with `closely` its passes are looked at one by one, which takes time."""
        was_close, self._is_close = self._is_close, closely
        if was_close:
            self._close_window(0)
        if was_close or closely:
            give_back_memory(self._device)  # what others have left free would count as this step's
            reset_peak(self._device)
        self._pass = -1

    def begin_pass(self) -> None:
        """A pass begins, and the one before is over."""
        self._close_pass()
        self._pass += 1

    def end_passes(self) -> None:
        """The last pass of a round is over."""
        self._close_pass()
        self._pass = -1

    def _close_pass(self) -> None:
        if self._is_close and self._pass >= 0:
            self._close_window(WAITING[self._pass] if self._pass < len(WAITING) else 0)
            give_back_memory(self._device)
            reset_peak(self._device)

    def _close_window(self, waiting: int) -> None:
        peak = read_peak(self._device)
        if peak is not None:
            self._windows.append((waiting, peak))

    def peak_bytes(self, gradient_bytes: int) -> int | None:
        """Peak bytes of a pass, or of exchange and update where that is more; None where it cannot be read.

        Args:
            gradient_bytes: Of one set of gradients.

        Called by:
            The worker, at the end of the trial: its later steps count as a whole, with all that is charged to four passes.
        """
        last = read_peak(self._device)
        if last is None or not self._windows:
            return last
        rest = last - WAITING[-1] * gradient_bytes
        return max([rest, *(peak - waiting * gradient_bytes for waiting, peak in self._windows)])


@final
class WatchedMark:
    """Stands in the place of a run's pass mark, and tells the watch."""

    def __init__(self, watch: PeakWatch) -> None:
        self._watch = watch

    def enter(self, step: int, round_: int, virtual_node: int) -> None:
        """See `PassMark.enter`."""
        self._watch.begin_pass()

    def leave(self) -> None:
        """See `PassMark.leave`."""
