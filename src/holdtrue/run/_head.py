"""What members say when a group is formed: where they are."""

import json
from dataclasses import dataclass

from holdtrue.units import format_ids, parse_ids


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Where a worker says that it is when a group is formed."""

    done: int
    """Gathers that it has completed; `NO_STATE` for a joiner."""
    step: int
    mapped_at: int
    """Generation in which its mapping was made."""
    held: dict[int, tuple[int, ...]]
    """That mapping, by number of the worker."""
    ordered_by: str
    """Text of the mapping from which an order takes its shape where it depends on one."""
    model: str
    """Full name of its device's model, where limits of memory depend on it."""
    place: str
    """Its device, told from those of all others."""

    def encode(self) -> bytes:
        held = {str(worker): format_ids(ids) for worker, ids in self.held.items()}
        return json.dumps(
            [self.done, self.step, self.mapped_at, held, self.ordered_by, self.model, self.place]
        ).encode()

    @classmethod
    def decode(cls, message: bytes) -> "Head":
        done, step, mapped_at, held, ordered_by, model, place = json.loads(message)
        return cls(
            done=done,
            step=step,
            mapped_at=mapped_at,
            held={int(worker): parse_ids(ids) for worker, ids in held.items()},
            ordered_by=ordered_by,
            model=model,
            place=place,
        )
