"""What virtual nodes cost on each kind of device: seconds by number, limits by memory, and the exchange.

    step = max over workers of (fixed + passes)  +  latency + (c + 1) * G * (W - 1) / W / bandwidth

with W workers that hold virtual nodes, G bytes of gradients, and c the most contributions of any worker:
each worker sends its c contributions to the owners of their slices, and gathers the reduced slices. The
slowest link among the workers counts. Level `fast` exchanges one sum per worker (c = 1) and may fuse
several virtual nodes into one pass.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from holdtrue.plan import Plan
from holdtrue.profile import DeviceProfile, Profile
from holdtrue.units import format_bytes

from ._devices import DeviceGroup

Seconds = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KindCost:
    """Cost and limits of one kind of device, for one size of pass."""

    kind: str
    """Kind of device."""
    ranks: Sequence[int]
    """Ascending ranks of its devices."""
    fixed_s: float
    """Part of `seconds` that does not depend on n, where n is not 0."""
    seconds: Seconds
    """Seconds of a step with n virtual nodes, by n from 0 to V; never falling."""
    fused: tuple[int, ...]
    """By n: virtual nodes in the last pass of the best way to fuse n; empty where nothing is fused."""
    lone: float
    """Seconds of a pass while no other device is at work, over those in `seconds`."""
    cap: int
    """Most virtual nodes that memory allows a worker in a group; 0 for none."""
    gradients: int
    """Sets of gradients that memory allows a worker in a group."""
    fits_alone: bool
    """Whether one such device can hold all virtual nodes when it is the only worker."""
    base_bytes: Mapping[int, int | None]
    """Peak bytes of a pass, by the number of virtual nodes that are fused into it."""
    bytes_per_s: float
    """Bandwidth of its link; infinite where not measured."""
    latency_s: float
    """Latency of an exchange over its link."""
    refusal: str
    """Why it cannot hold one pass; empty where it can."""

    def alone_s(self, count: int) -> float:
        """Seconds of a step with `count` virtual nodes when no other device is at work."""
        return self.fixed_s + self.lone * (float(self.seconds[count]) - self.fixed_s)

    def passes(self, count: int) -> tuple[int, ...]:
        """Virtual nodes in each pass of a step with `count` of them, largest first."""
        if not self.fused:
            return (1,) * count
        sizes: list[int] = []
        while count:
            sizes.append(self.fused[count])
            count -= sizes[-1]
        return tuple(sorted(sizes, reverse=True))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Costs:
    """One problem for the solver: the kinds, and what they share."""

    virtual_nodes: int
    """V."""
    global_batch_size: int
    """B."""
    largest_pass: int
    """Examples in the largest virtual node of a full batch."""
    fuses: bool
    """Whether virtual nodes may be fused and added in any order (level `fast`)."""
    gradient_bytes: int
    """G, bytes of one set of gradients."""
    kinds: tuple[KindCost, ...]
    """In the order of the device list."""

    @property
    def world_size(self) -> int:
        """Number of devices, idle ones included."""
        return 1 + max(kind.ranks[-1] for kind in self.kinds)

    def exchange_s(self, kinds: Sequence[KindCost], workers: int, contributions: int) -> float:
        """Seconds of the exchange between `workers` of these kinds, with at most `contributions` each."""
        if workers < 2:
            return 0.0
        latency_s = max(kind.latency_s for kind in kinds)
        volume = ((1 if self.fuses else contributions) + 1) * self.gradient_bytes * (workers - 1) / workers
        return latency_s + volume / min(kind.bytes_per_s for kind in kinds)


def _fuse_passes(
    device: DeviceProfile, size: int, most: int, virtual_nodes: int
) -> tuple[Seconds, tuple[int, ...]]:
    """By n: least seconds of n virtual nodes in passes of up to `most`, and the size of the last pass."""
    one = np.array([device.pass_s(k * size) or math.inf for k in range(1, most + 1)])
    best, last = np.zeros(virtual_nodes + 1), [0] * (virtual_nodes + 1)
    for n in range(1, virtual_nodes + 1):
        choices = one[:n] + best[max(0, n - most) : n][::-1]
        last[n] = int(np.argmin(choices)) + 1
        best[n] = choices[last[n] - 1]
    # Noise can make a larger pass look faster than a smaller one; more work is never said to take less time.
    never_falling: Seconds = np.maximum.accumulate(best)
    return never_falling, tuple(last)


def _fits(device: DeviceProfile, size: int, extra: int, limit: int | None) -> bool:
    needed = device.pass_bytes(size)
    return device.pass_s(size) is not None and (limit is None or needed is None or needed + extra <= limit)


def _gradient_limit(peak: int | None, limit: int | None, gradient_bytes: int) -> int:
    """Sets of gradients that fit beside a pass, its own included."""
    if peak is None or limit is None or gradient_bytes == 0:
        return 64
    return min(64, max(0, 1 + (limit - peak) // gradient_bytes))


def _refuse(device: DeviceProfile, size: int, extra: int, limit: int | None) -> str:
    """Why a pass of `size` does not fit, as the end of a sentence."""
    largest = device.points[-1].batch_size
    if device.pass_s(size) is None:
        side = f"up to {largest}" if size > largest else f"from {device.points[0].batch_size}"
        return f"its points go {side}, and a pass of {size} was not measured"
    needed = format_bytes((device.pass_bytes(size) or 0) + extra)
    return f"a pass of {size} with its exchange needs {needed}, and it has {format_bytes(limit or 0)}"


def _cost_of(device: DeviceProfile, ranks: range, costs: Costs, limit: int | None) -> KindCost:
    size, virtual_nodes, gradient_bytes = costs.largest_pass, costs.virtual_nodes, costs.gradient_bytes
    fits, fits_bare = (_fits(device, size, extra, limit) for extra in (gradient_bytes, 0))
    fused: tuple[int, ...] = ()
    most = 1
    seconds: Seconds
    if costs.fuses and fits_bare:
        while most < virtual_nodes and _fits(device, (most + 1) * size, gradient_bytes, limit):
            most += 1
        seconds, fused = _fuse_passes(device, size, most, virtual_nodes)
    else:
        pass_s = (device.pass_s(size) if fits_bare else None) or math.inf
        seconds = np.arange(virtual_nodes + 1, dtype=np.float64)
        seconds[1:] *= pass_s
    seconds[1:] += device.fixed_s
    peak = None if costs.fuses else device.pass_bytes(size)
    gradients = _gradient_limit(peak, limit and limit - gradient_bytes, gradient_bytes)
    alone = _gradient_limit(peak, limit, gradient_bytes)
    return KindCost(
        kind=device.kind,
        ranks=ranks,
        fixed_s=device.fixed_s,
        lone=device.lone_factor,
        seconds=seconds,
        fused=fused,
        cap=min(virtual_nodes, (1 << gradients) - 1) if fits else 0,
        gradients=gradients,
        fits_alone=fits_bare and virtual_nodes.bit_length() <= alone,
        base_bytes={k: device.pass_bytes(k * size) for k in range(1, most + 1)},
        bytes_per_s=device.exchange_bytes_per_s or math.inf,
        latency_s=device.exchange_latency_s,
        refusal="" if fits else _refuse(device, size, gradient_bytes, limit),
    )


def cost_devices(
    profile: Profile,
    groups: Sequence[DeviceGroup],
    plan: Plan,
    memory_bytes: Mapping[str, int],
) -> Costs:
    """The cost of every kind of device for this plan.

    Args:
        profile: Measured passes; has every kind of `groups`.
        groups: The devices; ranks are given in their order.
        plan: V, the global batch size and the level of numerics.
        memory_bytes: Limits by kind, in place of the profile's.
    """
    costs = Costs(
        virtual_nodes=plan.virtual_nodes,
        global_batch_size=plan.global_batch_size,
        largest_pass=-(-plan.global_batch_size // plan.virtual_nodes),
        fuses=plan.numerics == "fast",
        gradient_bytes=profile.gradient_bytes,
        kinds=(),
    )
    kinds: list[KindCost] = []
    start = 0
    for group in groups:
        device, ranks = profile.device(group.kind), range(start, start + group.count)
        limit = memory_bytes.get(group.kind, device.memory_bytes)
        kinds.append(_cost_of(device, ranks, costs, limit))
        start += group.count
    return Costs(
        virtual_nodes=costs.virtual_nodes,
        global_batch_size=costs.global_batch_size,
        largest_pass=costs.largest_pass,
        fuses=costs.fuses,
        gradient_bytes=costs.gradient_bytes,
        kinds=tuple(kinds),
    )
