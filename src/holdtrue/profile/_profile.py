"""Profiles: what was measured on each kind of device, and under which conditions."""

import math
import re
from bisect import bisect_left
from dataclasses import dataclass
from datetime import date as calendar_date

from holdtrue.errors import UsageError
from holdtrue.plan import NUMERICS_LEVELS

KIND_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class PassPoint:
    """One measured pass: its size, its time and its peak memory.

    Raises:
        UsageError: a number is out of its range.
    """

    batch_size: int
    """Virtual-node batch size: examples in the pass, at least 1."""
    seconds: float
    """Forward and backward, in seconds, more than 0."""
    peak_bytes: int | None = None
    """Peak memory: weights, optimizer state, one set of gradients, activations; None if unknown."""
    spread: float = 0.0
    """Most minus least seconds of the repeats, over their median; 0 if unknown."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UsageError(
                f"a point has batch size {self.batch_size}; a pass has at least 1 example. Correct the point."
            )
        if not 0.0 < self.seconds < math.inf:
            raise UsageError(
                f"the point of batch size {self.batch_size} has {self.seconds} seconds; a pass takes a "
                f"positive, finite "
                f"time. Measure it again."
            )
        if not 0.0 <= self.spread < math.inf:
            raise UsageError(
                f"the point of batch size {self.batch_size} has a spread of {self.spread}; it is 0 or more. "
                f"Correct it, or leave it out."
            )
        if self.peak_bytes is not None and self.peak_bytes < 0:
            raise UsageError(
                f"the point of batch size {self.batch_size} has {self.peak_bytes} peak bytes; memory is 0 or "
                f"more. "
                f"Measure it again, or write null for unknown."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceProfile:
    """What one kind of device needs for a pass, for a step and for the exchange.

    Between two measured sizes the time is on the straight line between them. Nothing is ever guessed in the
    device's favour: memory is that of the next larger point, a pass of more than half the smallest size is
    charged as the smallest, and sizes beyond these are not covered.

    Raises:
        UsageError: a field is out of its range, or the points are not in ascending order of size.

    >>> points = (PassPoint(batch_size=8, seconds=0.1), PassPoint(batch_size=16, seconds=0.15))
    >>> device = DeviceProfile(kind="cpu", torch_version="2.13.0", date="2026-11-23", points=points)
    >>> device.pass_s(16), round(device.pass_s(12), 3), device.pass_s(6), device.pass_s(4), device.pass_s(17)
    (0.15, 0.125, 0.1, None, None)
    """

    kind: str
    """Name of the kind, as `--devices` names it: letters, digits, `_`, `.`, `-`."""
    points: tuple[PassPoint, ...]
    """Measured passes in ascending order of batch size; at least one."""
    torch_version: str
    """`torch.__version__` of the measurement."""
    date: str
    """Day of the measurement, YYYY-MM-DD."""
    name: str = ""
    """Full name of the device: workers on devices of this name stand on this entry."""
    type: str = ""
    """`cpu` or `cuda`; empty where unknown, and the kind's name says it then."""
    threads: int = 1
    """Intra-op threads of the worker."""
    fixed_s: float = 0.0
    """Seconds of a step that do not depend on the number of passes: reading, update, bookkeeping."""
    lone_factor: float = 1.0
    """Seconds of a pass while no other device is at work, over those of the points: below 1 where devices share a host."""
    memory_bytes: int | None = None
    """Memory that a worker may use on the device; None for no limit."""
    exchange_bytes_per_s: float | None = None
    """Bandwidth to and from other devices, in bytes per second each way; None charges nothing for bytes."""
    exchange_latency_s: float = 0.0
    """Seconds of an exchange of no bytes."""

    def __post_init__(self) -> None:
        if not KIND_PATTERN.fullmatch(self.kind):
            raise UsageError(
                f"the device kind {self.kind!r} is not letters, digits, '_', '.' and '-'. Rename it."
            )
        if self.type not in ("", "cpu", "cuda"):
            raise UsageError(
                f"the type of {self.kind} is {self.type!r}; it is cpu or cuda. Correct it, or leave it out."
            )
        sizes = [point.batch_size for point in self.points]
        if not sizes or sizes != sorted(set(sizes)):
            raise UsageError(
                f"the points of {self.kind} have batch sizes {sizes}; a profile has at least one point, in "
                f"ascending "
                f"order, each size once. Correct the list."
            )
        for name in ("fixed_s", "exchange_latency_s"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise UsageError(
                    f"{name} of {self.kind} is {getattr(self, name)}; it is 0 or more seconds. Correct it."
                )
        if not 0.0 < self.lone_factor < math.inf:
            raise UsageError(f"lone_factor of {self.kind} is {self.lone_factor}; it is above 0. Correct it.")
        speed = self.exchange_bytes_per_s
        if speed is not None and not 0.0 < speed < math.inf:
            raise UsageError(
                f"the exchange bandwidth of {self.kind} is {speed} bytes/s; it is positive, or null where "
                f"unknown. Correct it."
            )
        if self.threads < 1 or (self.memory_bytes is not None and self.memory_bytes < 1):
            raise UsageError(
                f"{self.kind} has threads {self.threads} and memory {self.memory_bytes} bytes; both are at "
                f"least 1 "
                f"(memory may be null for no limit). Correct them."
            )
        try:
            calendar_date.fromisoformat(self.date)
        except ValueError:
            raise UsageError(
                f"the date of {self.kind} is {self.date!r}; it is YYYY-MM-DD. Correct it."
            ) from None

    def pass_s(self, batch_size: int) -> float | None:
        """Seconds of a pass of `batch_size` examples, or None where the points do not cover that size."""
        sizes = [point.batch_size for point in self.points]
        if batch_size > sizes[-1] or 2 * batch_size <= sizes[0]:
            return None
        index = bisect_left(sizes, batch_size)
        upper = self.points[index]
        if index == 0 or upper.batch_size == batch_size:
            return upper.seconds
        lower = self.points[index - 1]
        part = (batch_size - lower.batch_size) / (upper.batch_size - lower.batch_size)
        return lower.seconds + part * (upper.seconds - lower.seconds)

    def pass_bytes(self, batch_size: int) -> int | None:
        """Peak bytes of a pass of `batch_size` examples that the points cover; None where not measured."""
        return next((point.peak_bytes for point in self.points if point.batch_size >= batch_size), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What was measured for one model, by kind of device.

    Raises:
        UsageError: no device, a kind that stands twice, unlike torch versions, or no such level of numerics.
    """

    model_name: str
    """Name of the model or script, for people."""
    devices: tuple[DeviceProfile, ...]
    """One entry for each kind."""
    model_hash: str | None = None
    """Hash of the model's structure, so that a profile is not used for another model; None if unknown."""
    numerics: str = "exact"
    """Level of numerics at which passes were measured."""
    gradient_bytes: int = 0
    """Bytes of one contribution: all gradients once, in float32; 0 charges nothing for them."""
    virtual_nodes: int | None = None
    """V of the plan that the script had when it was measured; None if unknown."""
    global_batch_size: int | None = None
    """B of that plan; None if unknown."""

    def __post_init__(self) -> None:
        kinds = [device.kind for device in self.devices]
        if not kinds or len(set(kinds)) != len(kinds):
            raise UsageError(
                f"the profile of {self.model_name} has devices {kinds}; it has at least one kind, each once. "
                f"Correct the list."
            )
        versions = sorted({device.torch_version for device in self.devices})
        if len(versions) > 1:
            raise UsageError(
                f"the profile of {self.model_name} mixes torch versions {', '.join(versions)}; a pass takes "
                f"another time "
                f"with another torch. Measure all kinds with one version."
            )
        if self.numerics not in NUMERICS_LEVELS:
            raise UsageError(
                f"the profile of {self.model_name} has numerics {self.numerics!r}; the levels are "
                f"{', '.join(NUMERICS_LEVELS)}. Correct it."
            )
        if self.gradient_bytes < 0:
            raise UsageError(f"gradient_bytes is {self.gradient_bytes}; it is 0 or more. Correct it.")

    @property
    def torch_version(self) -> str:
        """The torch version of every device in the profile."""
        return self.devices[0].torch_version

    def device(self, kind: str) -> DeviceProfile:
        """The entry of `kind`.

        Raises:
            UsageError: the profile has no such kind.
        """
        for device in self.devices:
            if device.kind == kind:
                return device
        raise UsageError(
            f"there is no profile for {kind}; this one has {', '.join(d.kind for d in self.devices)}. "
            f"Run `holdtrue profile` on a {kind}, or leave it out of --devices."
        )
