"""The recommendation: which V and which mapping, against every rival, with reasons."""

from collections.abc import Iterator, Sequence
from collections.abc import Mapping as Dictionary
from dataclasses import dataclass

from holdtrue.errors import PlanError
from holdtrue.plan import NumericsLevel, Plan
from holdtrue.profile import Profile, check_profile
from holdtrue.units import MOST_IDS, cut_text

from ._cost import Costs, cost_devices
from ._devices import DeviceGroup
from ._solve import Answer, IdleDevices, answer_costs, explain_idle, format_count, move_some, refuse_plan

MOST_VIRTUAL_NODES = 16_384
"""More are not considered unasked, where fewer would do: thousands of passes a step only cost bookkeeping."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OneType:
    """The best that one kind of device reaches without the others."""

    kind: str
    """Kind of device."""
    count: int
    """How many there are."""
    answer: Answer | None
    """Its best mapping; None if it cannot hold the batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerUp:
    """The best rival of the recommendation."""

    answer: Answer
    """Its mapping and prediction."""
    name: str
    """What it does differently."""
    reason: str
    """Why it lost, in a sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """What to run, and how it compares."""

    answer: Answer
    """Virtual nodes, mapping and prediction."""
    one_type: tuple[OneType, ...]
    """What each kind of device reaches alone, in the order of the device list."""
    gain: float | None
    """Throughput over that of the best one-type choice; None if no kind can hold the batch alone."""
    runner_up: RunnerUp | None
    """The best rival; None if there is no other choice."""
    idle: tuple[IdleDevices, ...]
    """Devices that are given nothing to do, by kind."""
    fast_examples_per_s: float | None
    """Throughput at level `fast`, where virtual nodes may be fused; None if the answer is of that level."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    profile: Profile
    global_batch_size: int
    virtual_nodes: tuple[int, ...]
    memory_bytes: Dictionary[str, int]

    def answers(
        self, groups: Sequence[DeviceGroup], numerics: NumericsLevel
    ) -> Iterator[tuple[Costs, Answer]]:
        """An answer for each number of virtual nodes that the devices can hold."""
        for virtual_nodes in self.virtual_nodes:
            plan = Plan(
                virtual_nodes=virtual_nodes, global_batch_size=self.global_batch_size, numerics=numerics
            )
            costs = cost_devices(self.profile, groups, plan, self.memory_bytes)
            answer = answer_costs(costs, plan)
            if answer is not None:
                yield costs, answer

    def refusal(self, groups: Sequence[DeviceGroup], numerics: NumericsLevel) -> PlanError:
        plan = Plan(
            virtual_nodes=max(self.virtual_nodes),
            global_batch_size=self.global_batch_size,
            numerics=numerics,
        )
        costs = cost_devices(self.profile, groups, plan, self.memory_bytes)
        return refuse_plan(costs, self.profile, groups, self.memory_bytes)


def candidate_virtual_nodes(
    profile: Profile, groups: Sequence[DeviceGroup], global_batch_size: int
) -> tuple[int, ...]:
    """Numbers of virtual nodes whose largest pass is a measured size, or as little below one as can be.

    Args:
        profile: Measured passes.
        groups: The devices.
        global_batch_size: B.

    Raises:
        PlanError: no plan has as many as the largest size that was measured would need.
    """
    sizes = {point.batch_size for group in groups for point in profile.device(group.kind).points}
    numbers = sorted({-(-global_batch_size // size) for size in sizes})
    if numbers[0] > MOST_IDS:
        raise PlanError(
            f"global_batch_size is {cut_text(str(global_batch_size), 40)}, and the largest pass that was measured has "
            f"{max(sizes)} examples; a plan has at most {MOST_IDS} virtual nodes, of one pass each. Lower it."
        )
    return tuple(number for number in numbers if number <= max(MOST_VIRTUAL_NODES, numbers[0]))


def _rank_answer(answer: Answer) -> tuple[float, int, int]:
    """Order of answers: step time, then contributions, then virtual nodes."""
    return answer.step_s, answer.prediction.contributions, answer.plan.virtual_nodes


def _explain_loss(answer: Answer, other: Answer) -> str:
    mine, theirs = answer.prediction, other.prediction
    if theirs.step_s == mine.step_s:
        if theirs.contributions != mine.contributions:
            return (
                f"as fast, but its blocks are not as aligned: up to {theirs.contributions} contributions "
                f"a worker instead of {mine.contributions}"
            )
        if len(theirs.busy) != len(mine.busy):
            return f"as fast, but it keeps {len(theirs.busy)} devices busy instead of {len(mine.busy)}"
        if other.plan.virtual_nodes == answer.plan.virtual_nodes:
            return "as fast; ties go to devices that are listed first"
        return f"as fast, with {other.plan.virtual_nodes} virtual nodes; ties go to fewer"
    percent = 100 * (theirs.step_s / mine.step_s - 1)
    longer = f"a step takes {theirs.step_s:.4g} s, {percent:.1f} % more"
    if theirs.exchange_s - mine.exchange_s > theirs.compute_s - mine.compute_s:
        return (
            f"{longer}: its exchange takes {theirs.exchange_s:.4g} s instead of {mine.exchange_s:.4g} s "
            f"({len(theirs.busy)} workers, up to {theirs.contributions} contributions each)"
        )
    slowest = theirs.slowest
    return (
        f"{longer}: {slowest.kind} with {format_count(slowest.virtual_nodes)} of {other.largest_pass} needs "
        f"{slowest.seconds:.4g} s, and the slowest device here {mine.compute_s:.4g} s"
    )


def _rivals(
    costs: Costs, answer: Answer, others: Sequence[Answer], one_type: Sequence[OneType]
) -> Iterator[tuple[str, Answer]]:
    """Every other choice that was looked at, with a name."""
    for other in others:
        yield f"{other.plan.virtual_nodes} virtual nodes x {other.largest_pass}", other
    if len(one_type) > 1:
        for one in one_type:
            used = {worker.kind for worker in answer.prediction.busy}
            if one.answer is not None and used != {one.kind}:
                yield f"{one.kind}:{one.count} alone", one.answer
    for source in costs.kinds:
        for target in costs.kinds:
            moved = move_some(costs, answer, source.kind, target.kind)
            if moved is not None:
                most = max(
                    len(new) - len(old)
                    for new, old in zip(moved.mapping.held, answer.mapping.held, strict=True)
                )
                yield f"{format_count(most)} more on a {target.kind}, fewer on a {source.kind}", moved


def recommend(
    profile: Profile,
    groups: Sequence[DeviceGroup],
    *,
    global_batch_size: int,
    virtual_nodes: int | None = None,
    numerics: NumericsLevel = "exact",
    memory_bytes: Dictionary[str, int] | None = None,
) -> Recommendation:
    """The number of virtual nodes and the mapping of least predicted step time, and how they compare.

    Args:
        profile: Measured passes.
        groups: The devices; ranks are given in their order.
        global_batch_size: B.
        virtual_nodes: V; None chooses among those whose passes have a measured size.
        numerics: Level of numerics; at `fast` virtual nodes may be fused into one pass.
        memory_bytes: Limits by kind, in place of the profile's.

    Raises:
        UsageError: a device has no profile.
        PlanError: no mapping can hold the batch; the message gives the largest pass that would fit and its V.

    Guarantee:
        For each V optimal (see `solve`); ties between them go to fewer contributions, then to fewer virtual
        nodes. Never slower than the best one-type choice. Pure.
    """
    check_profile(profile, kinds=[group.kind for group in groups])
    if global_batch_size < 1:
        raise PlanError(
            f"global_batch_size is {global_batch_size}; a batch has at least 1 example. Raise it."
        )
    chosen = (
        (virtual_nodes,) if virtual_nodes else candidate_virtual_nodes(profile, groups, global_batch_size)
    )
    question = _Question(
        profile=profile,
        global_batch_size=global_batch_size,
        virtual_nodes=chosen,
        memory_bytes=memory_bytes or {},
    )
    answers = sorted(question.answers(groups, numerics), key=lambda pair: _rank_answer(pair[1]))
    if not answers:
        raise question.refusal(groups, numerics)
    costs, answer = answers[0]
    one_type = tuple(_answer_alone(question, group, numerics) for group in groups)
    alone = [one.answer.step_s for one in one_type if one.answer is not None]
    rivals = list(_rivals(costs, answer, [other for _, other in answers[1:]], one_type))
    name, rival = min(rivals, key=lambda pair: _rank_answer(pair[1]), default=("", None))
    fast = [other.step_s for _, other in question.answers(groups, "fast")] if numerics != "fast" else []
    return Recommendation(
        answer=answer,
        one_type=one_type,
        gain=min(alone) / answer.step_s if alone else None,
        runner_up=RunnerUp(answer=rival, name=name, reason=_explain_loss(answer, rival)) if rival else None,
        idle=explain_idle(costs, answer),
        fast_examples_per_s=global_batch_size / min(fast) if fast else None,
    )


def _answer_alone(question: _Question, group: DeviceGroup, numerics: NumericsLevel) -> OneType:
    answers = (answer for _, answer in question.answers((group,), numerics))
    return OneType(kind=group.kind, count=group.count, answer=min(answers, key=_rank_answer, default=None))
