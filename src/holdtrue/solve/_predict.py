"""What a mapping costs: the same arithmetic that the search minimises, for any mapping."""

from collections.abc import Mapping as Dictionary
from collections.abc import Sequence
from dataclasses import dataclass

from holdtrue.errors import MappingError, PlanError
from holdtrue.mapping import Mapping
from holdtrue.plan import Plan
from holdtrue.profile import Profile, check_profile

from ._cost import Costs, KindCost, cost_devices
from ._devices import DeviceGroup
from ._layout import blocks_of, gradients_held


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPrediction:
    """What one worker does in a step."""

    rank: int
    """Rank of the worker."""
    kind: str
    """Kind of its device."""
    virtual_nodes: int
    """Virtual nodes that it holds; 0 for an idle device."""
    passes: tuple[int, ...]
    """Examples in each pass of a full batch, at most."""
    seconds: float
    """Fixed part and passes, without the exchange."""
    memory_bytes: int | None
    """Peak memory; None where the profile has none."""
    contributions: int
    """Contributions that it sends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPrediction:
    """What a step costs under one mapping."""

    step_s: float
    """Seconds of a step."""
    compute_s: float
    """Seconds of the slowest worker."""
    exchange_s: float
    """Seconds of the exchange."""
    examples_per_s: float
    """Global batch size over step time."""
    contributions: int
    """Most contributions of any worker."""
    workers: tuple[WorkerPrediction, ...]
    """By rank, idle devices included."""

    @property
    def busy(self) -> tuple[WorkerPrediction, ...]:
        """Workers that hold virtual nodes."""
        return tuple(worker for worker in self.workers if worker.virtual_nodes)

    @property
    def slowest(self) -> WorkerPrediction:
        """The worker that the others wait for; the lowest rank of several."""
        return max(self.busy, key=lambda worker: (worker.seconds, -worker.rank))


def _memory_of(
    costs: Costs, kind: KindCost, passes: tuple[int, ...], blocks: tuple[int, ...], alone: bool
) -> int | None:
    if not passes:
        return None
    peak = kind.base_bytes[passes[0]]
    if peak is None:
        return None
    waiting = 0 if costs.fuses else gradients_held(blocks) - 1
    return peak + costs.gradient_bytes * (waiting + (not alone))


def _compute_s(costs: Costs, busy: Sequence[WorkerPrediction]) -> float:
    """Seconds until the slowest worker is done; what it does after all others, it does with the host to itself."""
    slowest = max(busy, key=lambda worker: (worker.seconds, -worker.rank))
    kind = next(kind for kind in costs.kinds if slowest.rank in kind.ranks)
    if kind.lone == 1.0:
        return slowest.seconds
    others_s = max((w.seconds for w in busy if w.rank != slowest.rank), default=0.0)
    with_others_s = max(others_s, kind.fixed_s)
    return with_others_s + kind.lone * (slowest.seconds - with_others_s)


def predict_costs(costs: Costs, mapping: Mapping) -> StepPrediction:
    """The prediction for a mapping over the devices of `costs`, whether or not it fits their memory."""
    workers: list[WorkerPrediction] = []
    alone = sum(1 for ids in mapping.held if ids) == 1
    for kind in costs.kinds:
        for rank in kind.ranks:
            ids = mapping.held[rank]
            blocks, passes = blocks_of(ids, costs.virtual_nodes), kind.passes(len(ids))
            worker = WorkerPrediction(
                rank=rank,
                kind=kind.kind,
                virtual_nodes=len(ids),
                passes=tuple(min(k * costs.largest_pass, costs.global_batch_size) for k in passes),
                seconds=float(kind.seconds[len(ids)]),
                memory_bytes=_memory_of(costs, kind, passes, blocks, alone),
                contributions=min(1, len(blocks)) if costs.fuses else len(blocks),
            )
            workers.append(worker)
    workers.sort(key=lambda worker: worker.rank)
    busy = [worker for worker in workers if worker.virtual_nodes]
    used = [kind for kind in costs.kinds if any(mapping.held[rank] for rank in kind.ranks)]
    contributions = max(worker.contributions for worker in busy)
    compute_s = _compute_s(costs, busy)
    exchange_s = costs.exchange_s(used, len(busy), contributions)
    return StepPrediction(
        step_s=compute_s + exchange_s,
        compute_s=compute_s,
        exchange_s=exchange_s,
        examples_per_s=costs.global_batch_size / (compute_s + exchange_s),
        contributions=contributions,
        workers=tuple(workers),
    )


def predict_step(
    profile: Profile,
    groups: Sequence[DeviceGroup],
    plan: Plan,
    mapping: Mapping,
    *,
    memory_bytes: Dictionary[str, int] | None = None,
) -> StepPrediction:
    """Seconds, throughput and memory of a step under `mapping`.

    Args:
        profile: Measured passes.
        groups: The devices; ranks are given in their order.
        plan: V, the global batch size and the level of numerics.
        mapping: A worker for every virtual node; one entry for each device.
        memory_bytes: Limits by kind, in place of the profile's.

    Raises:
        UsageError: a device has no profile.
        MappingError: the mapping is for another number of devices or virtual nodes.
        PlanError: a pass does not fit a device that is to run it.
    """
    check_profile(profile, kinds=[group.kind for group in groups])
    costs = cost_devices(profile, groups, plan, memory_bytes or {})
    if mapping.world_size != costs.world_size or mapping.virtual_nodes != plan.virtual_nodes:
        raise MappingError(
            f"the mapping has {mapping.virtual_nodes} virtual nodes on {mapping.world_size} workers, and "
            f"there are "
            f"{plan.virtual_nodes} on {costs.world_size} devices; each device has one entry. Give idle "
            f"devices 'none'."
        )
    for kind in costs.kinds:
        most = max(len(mapping.held[rank]) for rank in kind.ranks)
        if most and kind.refusal and not (kind.fits_alone and most == plan.virtual_nodes):
            raise PlanError(
                f"{kind.kind} is to run {most} virtual nodes: {kind.refusal}; every pass of a plan has one "
                f"size. "
                f"Give them to another device, or raise the number of virtual nodes."
            )
    return predict_costs(costs, mapping)
