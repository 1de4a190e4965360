"""The solver for a plan that is fixed: the best mapping, and what keeps devices idle."""

from collections.abc import Iterator, Sequence
from collections.abc import Mapping as Dictionary
from dataclasses import dataclass, replace

from holdtrue.errors import PlanError
from holdtrue.mapping import Mapping
from holdtrue.plan import Plan
from holdtrue.profile import Profile, check_profile
from holdtrue.units import format_bytes

from ._cost import Costs, KindCost, cost_devices
from ._devices import DeviceGroup
from ._layout import aligned_mapping, blocks_of, gradients_held, lay_out
from ._predict import StepPrediction, predict_costs
from ._search import search_counts

MOST_NEAR = 32
"""Devices up to which the solver looks around its answer: those that gain by the others' rest share one host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A mapping and what it is predicted to cost."""

    plan: Plan
    """The plan that it serves."""
    largest_pass: int
    """Virtual-node batch size: examples in the largest pass of a full batch, before any fusing."""
    mapping: Mapping
    """Virtual nodes of each device, in the order of the device list; empty for an idle one."""
    prediction: StepPrediction
    """Seconds, throughput and memory."""

    @property
    def step_s(self) -> float:
        """Predicted seconds of a step."""
        return self.prediction.step_s


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleDevices:
    """Devices of one kind that the answer gives nothing to do."""

    kind: str
    """Kind of device."""
    count: int
    """How many of them."""
    standby: bool
    """Whether they cannot hold one pass, and so could not be given any."""
    reason: str
    """Why, in a sentence."""


def _answer(costs: Costs, plan: Plan, mapping: Mapping) -> Answer:
    prediction = predict_costs(costs, mapping)
    return Answer(plan=plan, largest_pass=costs.largest_pass, mapping=mapping, prediction=prediction)


def answer_costs(costs: Costs, plan: Plan) -> Answer | None:
    """The best answer for these costs; None if the devices cannot hold the plan's virtual nodes."""
    mapping = best_mapping(costs)
    return None if mapping is None else _answer(costs, plan, mapping)


def best_mapping(costs: Costs) -> Mapping | None:
    """The mapping of least step time for these costs; None if the devices cannot hold the virtual nodes.

    Guarantee:
        Optimal where no kind is faster while the others rest (lone factor 1). Else never worse than the best choice of one
        kind, and with up to `MOST_NEAR` devices no move of 1, 2, 4, ... virtual nodes to another one makes it better.
    """
    found = _searched(costs)
    if all(kind.lone == 1.0 for kind in costs.kinds):
        return found
    # The search does not know of it: its answer, and each kind's own, are where the look around begins.
    own = [_searched_alone(costs, kind) for kind in costs.kinds]
    starts = [each for each in (found, *own) if each is not None]
    best = min(starts, key=lambda each: predict_costs(costs, each).step_s, default=None)
    return best if best is None or costs.world_size > MOST_NEAR else _improve(costs, best)


def _searched(costs: Costs) -> Mapping | None:
    found = search_counts(costs)
    return None if found is None else lay_out(costs.virtual_nodes, found.counts, found.tail)


def _searched_alone(costs: Costs, kind: KindCost) -> Mapping | None:
    """The search's answer for the devices of one kind, as a mapping of all devices."""
    found = search_counts(replace(costs, kinds=(replace(kind, ranks=range(len(kind.ranks))),)))
    if found is None:
        return None
    counts = [0] * costs.world_size
    for rank, count in zip(kind.ranks, found.counts, strict=True):
        counts[rank] = count
    tail = None if found.tail is None else (found.tail[0], kind.ranks[found.tail[1]])
    return lay_out(costs.virtual_nodes, counts, tail)


def _improve(costs: Costs, mapping: Mapping) -> Mapping:
    """Move virtual nodes between two devices as long as the prediction falls."""
    step_s = predict_costs(costs, mapping).step_s
    while True:
        options = ((predict_costs(costs, option).step_s, option) for option in _neighbours(costs, mapping))
        better_s, better = min(options, key=lambda option: option[0], default=(step_s, mapping))
        if better_s >= step_s * (1.0 - 1e-9):
            return mapping
        mapping, step_s = better, better_s


def _neighbours(costs: Costs, mapping: Mapping) -> Iterator[Mapping]:
    """Mappings with 1, 2, 4, ... virtual nodes moved to another device; of alike devices one stands for all."""
    counts = [len(ids) for ids in mapping.held]
    first: dict[tuple[int, int], int] = {}
    last: dict[tuple[int, int], int] = {}
    for index, kind in enumerate(costs.kinds):
        for rank in kind.ranks:
            first.setdefault((index, counts[rank]), rank)
            last[index, counts[rank]] = rank
    for gives in first.values():
        for gets in {*first.values(), *last.values()} - {gives}:
            for amount in (1 << bit for bit in range(counts[gives].bit_length())):
                if (moved := _with_moved(costs, counts, gives, gets, amount)) is not None:
                    yield moved


def _with_moved(costs: Costs, counts: Sequence[int], gives: int, gets: int, amount: int) -> Mapping | None:
    """The aligned mapping in which one rank has given virtual nodes to another; None if the devices cannot hold it."""
    moved = list(counts)
    moved[gives] -= amount
    moved[gets] += amount
    mapping = aligned_mapping(costs.virtual_nodes, moved)
    return mapping if can_hold(costs, mapping) else None


def can_hold(costs: Costs, mapping: Mapping) -> bool:
    """Whether every worker has room for its passes, and for the gradients that wait while it adds them up."""
    kinds = {rank: kind for kind in costs.kinds for rank in kind.ranks}
    busy = [(kinds[rank], ids) for rank, ids in enumerate(mapping.held) if ids]
    if len(busy) == 1:
        return busy[0][0].fits_alone
    return all(has_room(costs, kind, ids) for kind, ids in busy)


def has_room(costs: Costs, kind: KindCost, ids: Sequence[int]) -> bool:
    """Whether a worker of a kind, one of several, can hold these virtual nodes (ascending)."""
    return len(ids) <= kind.cap and (
        kind.gradients > costs.virtual_nodes
        or gradients_held(blocks_of(tuple(ids), costs.virtual_nodes)) <= kind.gradients
    )


def move_some(costs: Costs, answer: Answer, source: str | None, target: str) -> Answer | None:
    """The best answer that moves 1, 2, 4, ... virtual nodes to a device of kind `target`.

    Args:
        costs: The problem.
        answer: The mapping to start from.
        source: Kind to take them from, the device with most; None tries every kind.
        target: Kind to give them to, the device with fewest.
    """
    options: list[Answer] = []
    counts = [len(ids) for ids in answer.mapping.held]
    to = next(kind for kind in costs.kinds if kind.kind == target)
    gets = min(to.ranks, key=lambda rank: (counts[rank], rank))
    for kind in costs.kinds:
        gives = max(kind.ranks, key=lambda rank: (counts[rank], -rank))
        if (source is not None and kind.kind != source) or gives == gets:
            continue
        for amount in (1 << bit for bit in range(counts[gives].bit_length())):
            same = kind.kind == target and counts[gives] - counts[gets] == amount  # they only change places
            if not same and (mapping := _with_moved(costs, counts, gives, gets, amount)) is not None:
                options.append(_answer(costs, answer.plan, mapping))
    return min(options, key=lambda option: option.step_s, default=None)


def explain_idle(costs: Costs, answer: Answer) -> tuple[IdleDevices, ...]:
    """Devices without virtual nodes, by kind, each with the reason."""
    idle: list[IdleDevices] = []
    for kind in costs.kinds:
        count = sum(1 for rank in kind.ranks if not answer.mapping.held[rank])
        if not count:
            continue
        standby = bool(kind.refusal)
        if standby:
            reason = f"cannot hold a pass: {kind.refusal}"
        else:
            reason = _explain_unused(answer, move_some(costs, answer, None, kind.kind), kind.kind)
        idle.append(IdleDevices(kind=kind.kind, count=count, standby=standby, reason=reason))
    return tuple(idle)


def format_count(virtual_nodes: int) -> str:
    """A number of virtual nodes as words.

    >>> format_count(1), format_count(2)
    ('1 virtual node', '2 virtual nodes')
    """
    return f"{virtual_nodes} virtual node" + "s" * (virtual_nodes != 1)


def _explain_unused(answer: Answer, other: Answer | None, kind: str) -> str:
    if len(answer.prediction.busy) == answer.plan.virtual_nodes or other is None:
        return f"all {answer.plan.virtual_nodes} virtual nodes have a device of their own"
    if other.step_s == answer.step_s:
        return f"with work there too a step still takes {answer.step_s:.4g} s"
    extra_s = other.prediction.exchange_s - answer.prediction.exchange_s
    cause = (
        f"the exchange {other.prediction.exchange_s:.4g} s instead of {answer.prediction.exchange_s:.4g} s"
    )
    if other.prediction.compute_s - answer.prediction.compute_s > extra_s:
        slowest = other.prediction.slowest
        cause = f"a {slowest.kind} needs {slowest.seconds:.4g} s for {format_count(slowest.virtual_nodes)}"
    longer = f"a step takes {other.step_s:.4g} s instead of {answer.step_s:.4g} s"
    there = sum(worker.virtual_nodes for worker in other.prediction.workers if worker.kind == kind) - sum(
        worker.virtual_nodes for worker in answer.prediction.workers if worker.kind == kind
    )
    return f"with {format_count(there)} there {longer}: {cause}"


def largest_fitting_pass(
    profile: Profile, groups: Sequence[DeviceGroup], memory_bytes: Dictionary[str, int]
) -> int | None:
    """The largest measured pass that some device of the groups can hold, or None."""
    fitting = [
        point.batch_size
        for device in (profile.device(group.kind) for group in groups)
        for point in device.points
        for limit in (memory_bytes.get(device.kind, device.memory_bytes),)
        if limit is None or point.peak_bytes is None or point.peak_bytes + profile.gradient_bytes <= limit
    ]
    return max(fitting, default=None)


def refuse_plan(
    costs: Costs, profile: Profile, groups: Sequence[DeviceGroup], limits: Dictionary[str, int]
) -> PlanError:
    """The error for a plan that no mapping can hold: the largest pass that would fit, and the V for it."""
    largest = largest_fitting_pass(profile, groups, limits)
    devices = "; ".join(
        f"{kind.kind}: " + (kind.refusal or f"holds at most {format_count(kind.cap)}") for kind in costs.kinds
    )
    if largest is None:
        least = min((p.peak_bytes or 0, p.batch_size) for g in groups for p in profile.device(g.kind).points)
        way_out = (
            f"No measured pass would fit (the least, of {least[1]}, needs {format_bytes(least[0])}): "
            f"measure smaller passes, or use devices with more memory"
        )
    elif largest < costs.largest_pass:
        count = -(-costs.global_batch_size // largest)
        way_out = f"The largest pass that would fit is {largest}: use {count} virtual nodes or more"
    else:
        way_out = f"The largest pass that would fit is {largest}: use fewer virtual nodes, or more devices"
    return PlanError(
        f"no mapping can hold a global batch of {costs.global_batch_size} in {costs.virtual_nodes} virtual "
        f"nodes of "
        f"{costs.largest_pass} examples ({devices}); every virtual node needs a device that holds its pass. "
        f"{way_out}."
    )


def solve(
    profile: Profile,
    groups: Sequence[DeviceGroup],
    plan: Plan,
    *,
    memory_bytes: Dictionary[str, int] | None = None,
) -> Answer:
    """The mapping of least predicted step time for this plan.

    Args:
        profile: Measured passes.
        groups: The devices; ranks are given in their order.
        plan: V, the global batch size and the level of numerics.
        memory_bytes: Limits by kind, in place of the profile's.

    Raises:
        UsageError: a device has no profile.
        PlanError: no mapping can hold the plan; the message gives the largest pass that would fit and its V.

    Guarantee:
        Optimal over all mappings under the cost model where the lone factor of all devices is 1, else as `best_mapping`
        says; ties go to fewer contributions (aligned blocks), then to fewer workers, then to devices listed first. Pure: the
        same arguments, the same answer.
    """
    limits = memory_bytes or {}
    check_profile(profile, kinds=[group.kind for group in groups])
    costs = cost_devices(profile, groups, plan, limits)
    answer = answer_costs(costs, plan)
    if answer is None:
        raise refuse_plan(costs, profile, groups, limits)
    return answer
