"""The published digests of the reference trainings."""

from dataclasses import dataclass
from pathlib import Path
from typing import final

from holdtrue.record import RunRecord, read_expectation

STEPS = 16
"""Steps of each that are compared, with the whole training state after every one."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """One training whose digests are published."""

    name: str
    """Also the name of its file of digests."""
    what: str
    """What it covers, for a table."""

    @property
    def module(self) -> str:
        """What `python -m` runs."""
        return f"holdtrue.reference._{self.name}"

    @property
    def file(self) -> Path:
        """Its published digests, as `holdtrue digest --json` prints them."""
        return Path(__file__).parent / "digests" / f"{self.name}.json"


REFERENCES = (
    Reference(name="cnn", what="convolutions, batch norm, dropout; SGD"),
    Reference(name="lstm", what="embedding, LSTM, dropout; Adam, clipping"),
    Reference(name="transformer", what="causal attention, layer norm, GELU; AdamW, clipping"),
)


def published(reference: Reference) -> RunRecord:
    """The run that every hardware must get, step by step.

    Raises:
        UsageError: the installation lacks the file, or it is damaged.
    """
    return read_expectation(reference.file)
