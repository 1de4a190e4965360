"""What the lines of a run directory say, as values."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from holdtrue.plan import Plan

from ._files import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """One line of `steps.jsonl`: a step of the run, all its virtual nodes together."""

    step: int
    """Index of the step, from 0 over the whole run."""
    epoch: int
    """Epoch of the step, from 0."""
    loss: float | None
    """Weighted mean over the step; None where the script computed none."""
    seconds: float
    """Wall time of the step."""
    generation: int
    """Membership that computed the step."""
    digest: str | None = None
    """SHA-256 of the training state after the step; None between digests."""

    def to_dict(self) -> dict[str, Json]:
        """The step as JSON values; a loss that is not finite is null and its text stands beside it."""
        values: dict[str, Json] = {
            "step": self.step,
            "epoch": self.epoch,
            "loss": self.loss,
            "seconds": self.seconds,
            "generation": self.generation,
        }
        if self.loss is not None and not math.isfinite(self.loss):
            values |= {"loss": None, "loss_text": repr(float(self.loss))}
        if self.digest is not None:
            values["digest"] = self.digest
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "StepRecord":  # Any: JSON values
        """The step that `to_dict` wrote.

        Raises:
            KeyError, TypeError, ValueError: the values are not a step's.
        """
        loss = values["loss"] if "loss_text" not in values else values["loss_text"]
        return cls(
            step=int(values["step"]),
            epoch=int(values["epoch"]),
            loss=None if loss is None else float(loss),
            seconds=float(values["seconds"]),
            generation=int(values["generation"]),
            digest=None if values.get("digest") is None else str(values["digest"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DigestRecord:
    """One line of `digests.jsonl`: the training state after a step, entry by entry."""

    step: int
    """Index of the step; -1 is the state before the first."""
    digest: str
    """SHA-256 of the whole training state, 64 hex digits."""
    entries: Mapping[str, str]
    """16 hex digits for each entry of the training state, by name."""
    losses: tuple[float | None, ...] | None = None
    """Loss of each virtual node, None for an absent one; None as a whole when the run did not trace."""
    inputs: tuple[str | None, ...] | None = None
    """Fingerprint of what entered each virtual node's pass, None for an absent one; None when not tracing."""

    def to_dict(self) -> dict[str, Json]:
        """The digests as JSON values."""
        values: dict[str, Json] = {"step": self.step, "digest": self.digest, "entries": self.entries}
        if self.losses is not None:
            values["losses"] = self.losses
        if self.inputs is not None:
            values["inputs"] = self.inputs
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "DigestRecord":  # Any: JSON values
        """The digests that `to_dict` wrote.

        Raises:
            AttributeError, KeyError, TypeError, ValueError: the values are not digests.
        """
        losses, inputs = values.get("losses"), values.get("inputs")
        return cls(
            step=int(values["step"]),
            digest=str(values["digest"]),
            entries={str(name): str(digest) for name, digest in values["entries"].items()},
            losses=None if losses is None else tuple(None if x is None else float(x) for x in losses),
            inputs=None if inputs is None else tuple(None if x is None else str(x) for x in inputs),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRecord:
    """One line of `events.jsonl`: something that happened to the run, and why."""

    kind: str
    """Name of the event, such as `started`, `resumed`, `checkpoint`, `failed`."""
    step: int | None
    """Step at which it happened; None where there was none."""
    reason: str
    """A sentence."""
    details: Mapping[str, Any]  # Any: JSON values
    """What else belongs to the kind."""
    time_s: float
    """Seconds since 1970, by the clock of the machine that wrote it."""
    generation: int
    """Membership that wrote it."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "EventRecord":  # Any: JSON values
        """The event of one line.

        Raises:
            KeyError, TypeError, ValueError: the values are not an event's.
        """
        return cls(
            kind=str(values["kind"]),
            step=None if values["step"] is None else int(values["step"]),
            reason=str(values["reason"]),
            details=dict(values["details"]),
            time_s=float(values["time_s"]),
            generation=int(values["generation"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsRecord:
    """One line of `metrics.jsonl`: what the script logged."""

    step: int
    """Step at which it was logged."""
    values: Mapping[str, Any]  # Any: JSON values
    """Numbers by name; one that is not finite is its text, `nan`, `inf` or `-inf`."""
    time_s: float
    """Seconds since 1970, by the clock of the machine that wrote it."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "MetricsRecord":  # Any: JSON values
        """The metrics of one line.

        Raises:
            KeyError, TypeError, ValueError: the values are not metrics.
        """
        return cls(step=int(values["step"]), values=dict(values["values"]), time_s=float(values["time_s"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """A step that a run computed twice, as after a resume, with two results."""

    step: int
    """Index of the step; -1 is the state before the first."""
    what: Literal["loss", "digest"]
    """What differs."""
    first: str
    """The value written first."""
    last: str
    """The value written last: the one in force."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """Everything that a run directory says; of a step written twice, the last."""

    name: str
    """How sentences call the run: its folder."""
    plan: Plan
    """What was computed."""
    environment: Mapping[str, Any]  # Any: JSON values
    """Device, versions, threads of the run's start, nested."""
    steps: Mapping[int, StepRecord]
    """By step index, ascending."""
    digests: Mapping[int, DigestRecord]
    """By step index, ascending; -1 is the state before the first step."""
    events: tuple[EventRecord, ...] = ()
    """In the order in which they were written."""
    metrics: tuple[MetricsRecord, ...] = ()
    """In the order in which they were written."""
    conflicts: tuple[Conflict, ...] = ()
    """Steps that the run computed twice with two results, in the order in which they were written."""
