"""Keeping a run to its part of a device: it rests at step boundaries as long as others are to have the device."""

import time
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from ._core import Core

_SLICE_S = 0.05


def rest_s(busy_s: float, wall_s: float, percent: int) -> float:
    """Seconds to rest, so that `busy_s` of work are `percent` per cent of the time. Pure.

    Work that was slowed down by others has had its rest already.

    >>> rest_s(1.0, 1.0, 50), rest_s(1.0, 2.5, 50), rest_s(0.3, 0.3, 30)
    (1.0, 0.0, 0.7)
    """
    return max(0.0, busy_s * 100 / percent - wall_s)


def limit_memory(device: torch.device, percent: int) -> None:
    """Keep a run on a part of a CUDA device to that part of its memory: what goes beyond is out of memory.

    On a CPU the host of the worker sees to it (holdtrue.launch).
    """
    if device.type == "cuda" and percent < 100:
        torch.cuda.set_per_process_memory_fraction(percent / 100, device)


class Part:
    """The account of one step: what it used of the device, and for how long it must rest. Mutable, owned by the loop.

    On a CPU the process's own time counts, of all its threads; on CUDA, whose time a process cannot see, the step's.
    """

    def __init__(self, core: "Core") -> None:
        """Begin with the first step."""
        self._core = core
        self._percent = core.settings.device_percent
        self._begin()

    def _begin(self) -> None:
        self._wall_s, self._busy_s = time.perf_counter(), time.process_time()

    def rest(self) -> None:
        """Rest after a step; a wish to end ends the rest.

        Blocks:
            As long as `device_percent` asks for after this step's work.
        """
        if self._percent == 100:
            return
        wall_s = time.perf_counter() - self._wall_s
        busy_s = time.process_time() - self._busy_s if self._core.device.type == "cpu" else wall_s
        until_s = time.perf_counter() + rest_s(busy_s, wall_s, self._percent)
        while (left_s := until_s - time.perf_counter()) > 0:
            if self._core.wishes.is_interrupted or self._core.must_stop:
                break
            time.sleep(min(left_s, _SLICE_S))
        self._begin()
