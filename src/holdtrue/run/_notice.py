"""The run's own words in each round's ledger: where the worker is, whether it wants to stop, its digest."""

import math
import struct
from dataclasses import dataclass

from holdtrue.engine import NOTICE_BYTES
from holdtrue.errors import CallMismatchError

_FORMAT = struct.Struct("<B4q32sd")
assert _FORMAT.size <= NOTICE_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """One worker's words."""

    generation: int
    call: int
    step: int
    wants_end: bool = False
    """The script called `run.stop`."""
    is_interrupted: bool = False
    """The process was asked to end (Ctrl-C, SIGTERM)."""
    planned: int = 0
    """Newest planned generation that this worker knows; 0 for none."""
    digest: bytes = bytes(32)
    """Digest of the training state before the step, where one was due; else zeros."""
    pass_s: float | None = None
    """Seconds that one of this worker's passes took in the step; None where it ran none."""

    def pack(self) -> bytes:
        """As bytes of fixed length."""
        return _FORMAT.pack(
            self.wants_end | self.is_interrupted << 1,
            self.generation,
            self.call,
            self.step,
            self.planned,
            self.digest,
            math.nan if self.pass_s is None else self.pass_s,
        )

    @classmethod
    def unpack(cls, message: bytes) -> "Notice":
        """The notice that `pack` wrote; trailing bytes do not count."""
        flags, generation, call, step, planned, digest, pass_s = _FORMAT.unpack_from(message)
        return cls(
            generation=generation,
            call=call,
            step=step,
            wants_end=bool(flags & 1),
            is_interrupted=bool(flags & 2),
            planned=planned,
            digest=digest,
            pass_s=None if math.isnan(pass_s) else pass_s,
        )


def read_notices(messages: list[bytes]) -> list[Notice]:
    """Everyone's notices, which must be of the same step.

    Raises:
        CallMismatchError: two workers are at different steps or calls.
    """
    notices = [Notice.unpack(m) for m in messages]
    first = notices[0]
    for rank, notice in enumerate(notices):
        if (notice.generation, notice.call, notice.step) != (first.generation, first.call, first.step):
            raise CallMismatchError(
                f"worker {rank} is at step {notice.step} (call {notice.call}, generation {notice.generation}) and worker 0 at "
                f"step {first.step} (call {first.call}, generation {first.generation}); every worker makes the same calls in "
                f"the same order. Leave a loop on all workers at the same step, or call run.stop(reason)."
            )
    return notices
