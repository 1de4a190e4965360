"""What each worker tells the others in every round besides gradients: one fixed-size message.

    flags | notice | loss, weight, input fingerprint of each virtual node held | presence bits

Its length depends on the plan, the mapping and the layout alone, so one collective carries it.
"""

import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

NOTICE_BYTES = 96
"""Room for the run's own words, at the head of each message."""

_ENTRY = struct.Struct("<ddQB")
FLAG_ODD_BUFFERS = 1
FLAG_TOTALS = 2


@dataclass(slots=True, kw_only=True)
class PassRecord:
    """What one pass leaves in the ledger."""

    loss: float = float("nan")
    """Mean loss over the pass's own items."""
    weight: float = 0.0
    """Items; 0 makes the virtual node an absent leaf."""
    fingerprint: int = 0
    """64-bit hash of the inputs, if the run traces them."""


@dataclass(slots=True, kw_only=True)
class Ledger:
    """One worker's message, or all of them merged."""

    passes: dict[int, PassRecord] = field(default_factory=dict)
    present: list[bool] = field(default_factory=list)
    flags: int = 0
    notices: list[bytes] = field(default_factory=list)
    reports: list[bytes] = field(default_factory=list)
    """What each worker's passes did to the buffers, by rank: `BufferBook.pack_report`."""

    def pack(self, notice: bytes, held: Sequence[int], slots: int) -> bytes:
        """This worker's message; `slots` is the largest number of virtual nodes that a worker holds."""
        assert len(notice) <= NOTICE_BYTES
        parts = [bytes([self.flags]), notice.ljust(NOTICE_BYTES, b"\0")]
        for v in held:
            record = self.passes.get(v)
            parts.append(
                _ENTRY.pack(0.0, 0.0, 0, 0)
                if record is None
                else _ENTRY.pack(record.loss, record.weight, record.fingerprint, 1)
            )
        parts.append(bytes(_ENTRY.size * (slots - len(held))))
        parts.append(np.packbits(np.array(self.present, dtype=bool)).tobytes())
        return b"".join(parts)

    @classmethod
    def merge(cls, messages: Sequence[bytes], held: Sequence[Sequence[int]], parameters: int) -> "Ledger":
        """Everyone's messages as one ledger."""
        merged = cls()
        slots = max(map(len, held))
        present = np.zeros(parameters, dtype=bool)
        for message, ids in zip(messages, held, strict=True):
            merged.flags |= message[0]
            merged.notices.append(message[1 : 1 + NOTICE_BYTES])
            for k, v in enumerate(ids):
                loss, weight, fingerprint, ran = _ENTRY.unpack_from(
                    message, 1 + NOTICE_BYTES + k * _ENTRY.size
                )
                if ran:
                    merged.passes[v] = PassRecord(loss=loss, weight=weight, fingerprint=fingerprint)
            bits = np.frombuffer(message, dtype=np.uint8, offset=1 + NOTICE_BYTES + slots * _ENTRY.size)
            present |= np.unpackbits(bits, count=parameters).astype(bool)
        merged.present = present.tolist()
        return merged


def merge_totals(parts: Sequence[Mapping[str, Mapping[str, str]]]) -> dict[str, dict[int, float]]:
    """Totals of all workers: name -> virtual node -> value, from their JSON with hexadecimal floats."""
    merged: dict[str, dict[int, float]] = {}
    for part in parts:
        for name, values in part.items():
            merged.setdefault(name, {}).update({int(v): float.fromhex(text) for v, text in values.items()})
    return merged


def settle(scalar: torch.Tensor) -> float | torch.Tensor:
    """What is kept of a tensor of one number until its round is over: its value, or where reading it would wait for a device, it.

    On the CPU a tensor that outlives its pass pins the heap: it was made among the pass's activations, and what is freed
    around it is no longer one piece (docs/log.md).
    """
    return scalar.item() if scalar.device.type == "cpu" else scalar.detach()


def numbers_of(scalars: Collection[float | torch.Tensor]) -> list[float]:
    """The values of what `settle` gave, those on a device read at once."""
    waiting = [scalar for scalar in scalars if isinstance(scalar, torch.Tensor)]
    if len({scalar.device for scalar in waiting}) != 1:
        return [scalar.double().item() if isinstance(scalar, torch.Tensor) else scalar for scalar in scalars]
    read = iter(torch.stack([scalar.reshape(()) for scalar in waiting]).double().tolist())
    return [next(read) if isinstance(scalar, torch.Tensor) else scalar for scalar in scalars]
