"""Random streams of passes, and the user's own streams as training state."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from holdtrue.data import (
    HostStreams,
    StreamStart,
    prepare_host_streams,
    restore_host_streams,
    save_host_streams,
    set_host_streams,
)


class PassStreams:
    """Every generator that torch, Python and NumPy draw from by default, set and put back together.

    Args:
        device: The worker's device; its default generator is set too.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda: torch.Generator | None = None
        if device.type == "cuda":
            torch.cuda.init()
            self._cuda = torch.cuda.default_generators[device.index or 0]
        self._ready: dict[int, StreamStart] = {}
        self._saved: tuple[HostStreams, torch.Tensor | None] | None = None

    def save(self) -> None:
        """Keep the user's streams until `restore`; a second call before it changes nothing."""
        if self._saved is None:
            self._saved = save_host_streams(), None if self._cuda is None else self._cuda.get_state()

    def prepare(self, keys: Sequence[int]) -> None:
        """Make ready for `set` with these keys, one after the other: cheaper at once than between passes."""
        self._ready = {key: prepare_host_streams(key) for key in keys}

    def set(self, key: int) -> None:
        """Start all streams at a 64-bit key."""
        set_host_streams(self._ready.pop(key, key))
        if self._cuda is not None:
            self._cuda.manual_seed(key - 2**64 if key >= 2**63 else key)

    def restore(self) -> None:
        """Put the user's streams back, if they are kept."""
        if self._saved is None:
            return
        host, cuda = self._saved
        restore_host_streams(host)
        if self._cuda is not None and cuda is not None:
            self._cuda.set_state(cuda)
        self._saved = None


def export_user_streams() -> dict[str, Any]:  # Any: values of torch.save(weights_only)
    """The user's own streams, of the CPU and of a CUDA device that this process drives, as values for a checkpoint."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    own = {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_initialized() else {}
    return own | {
        "torch": torch.get_rng_state(),
        "python": {"version": version, "words": list(words), "gauss": gauss},
        "numpy": {
            "name": str(name),
            "keys": torch.from_numpy(np.asarray(keys).astype(np.int64)),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached": float(cached),
        },
    }


def import_user_streams(saved: dict[str, Any]) -> None:  # Any: as above
    """Put back what `export_user_streams` gave."""
    torch.set_rng_state(saved["torch"])
    if "cuda" in saved and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(saved["cuda"])
    random.setstate((saved["python"]["version"], tuple(saved["python"]["words"]), saved["python"]["gauss"]))
    numpy = saved["numpy"]
    np.random.set_state(
        (
            numpy["name"],
            numpy["keys"].numpy().astype(np.uint32),
            numpy["position"],
            numpy["has_gauss"],
            numpy["cached"],
        )
    )
