"""The solver against brute force, over all mappings where they can be listed and over all counts where not."""

import itertools
import math
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdtrue.errors import PlanError
from holdtrue.mapping import (
    Mapping,
    contributions_of,
    leaves_of,
    merges_after,
    order_by_tree,
    proportional_mapping,
)
from holdtrue.plan import Plan
from holdtrue.profile import DeviceProfile, PassPoint, Profile
from holdtrue.solve import DeviceGroup, aligned_mapping, predict_step, recommend, solve

PEAK, GRADIENTS, SIZE = 1000, 100, 4
SPEEDS = st.sampled_from([0.5, 1.0, 1.5, 2.0, 3.0]) | st.floats(0.1, 3.0)


def make_device(kind: str, **fields: object) -> DeviceProfile:
    return DeviceProfile(kind=kind, torch_version="2.13.0", date="2026-11-23", **fields)  # type: ignore[arg-type]


@st.composite
def problems(
    draw: st.DrawFn, *, kinds: int, devices: int, virtual_nodes: int
) -> tuple[Profile, tuple[DeviceGroup, ...], Plan]:
    number = draw(st.integers(1, kinds))
    counts = [1] * number
    for extra in draw(st.lists(st.integers(0, number - 1), max_size=devices - number)):
        counts[extra] += 1
    profiles = [
        make_device(
            f"k{index}",
            points=(PassPoint(batch_size=SIZE, seconds=draw(SPEEDS), peak_bytes=PEAK),),
            fixed_s=draw(st.sampled_from([0.0, 0.0, 0.5, 1.25])),
            memory_bytes=draw(st.sampled_from([None, None, 900, 1000, 1100, 1200, 1300, 1400])),
            exchange_bytes_per_s=draw(st.sampled_from([None, 20.0, 50.0, 100.0, 1000.0])),
            exchange_latency_s=draw(st.sampled_from([0.0, 0.0, 0.3])),
        )
        for index in range(number)
    ]
    profile = Profile(
        model_name="m",
        devices=tuple(profiles),
        gradient_bytes=draw(st.sampled_from([0, GRADIENTS, GRADIENTS])),
    )
    groups = tuple(DeviceGroup(kind=f"k{index}", count=count) for index, count in enumerate(counts))
    v = draw(st.integers(1, virtual_nodes))
    return profile, groups, Plan(virtual_nodes=v, global_batch_size=v * SIZE)


def devices_of(profile: Profile, groups: tuple[DeviceGroup, ...]) -> list[DeviceProfile]:
    return [profile.device(group.kind) for group in groups for _ in range(group.count)]


def cost(
    profile: Profile, devices: list[DeviceProfile], counts: tuple[int, ...], most: int, held: tuple[int, ...]
) -> float:
    """Step time from the formula of the design; infinite where memory is exceeded. `held`: gradients at once."""
    used = [rank for rank, count in enumerate(counts) if count]
    for rank in used:
        limit = devices[rank].memory_bytes
        extra = profile.gradient_bytes * (held[rank] - 1 + (len(used) > 1))
        if limit is not None and PEAK + extra > limit:
            return math.inf
    compute_s = max(devices[rank].fixed_s + counts[rank] * devices[rank].points[0].seconds for rank in used)
    if len(used) == 1:
        return compute_s
    bytes_per_s = min(devices[rank].exchange_bytes_per_s or math.inf for rank in used)
    volume = (most + 1) * profile.gradient_bytes * (len(used) - 1) / len(used)
    return compute_s + max(devices[rank].exchange_latency_s for rank in used) + volume / bytes_per_s


def cost_of_mapping(profile: Profile, devices: list[DeviceProfile], mapping: Mapping) -> float:
    """The same, with contributions and gradients counted by running the tree of holdtrue.mapping."""
    most, held = 0, []
    for ids in mapping.held:
        contributions = contributions_of(order_by_tree(mapping), set(ids))
        most = max(most, len(contributions))
        now = peak = 0
        for merges in merges_after(contributions).values():
            now += 1
            peak = max(peak, now)
            now -= merges
        held.append(peak)
    return cost(profile, devices, tuple(len(ids) for ids in mapping.held), most, tuple(held))


def all_mappings(virtual_nodes: int, devices: int) -> Iterator[Mapping]:
    for ranks in itertools.product(range(devices), repeat=virtual_nodes):
        yield Mapping(
            virtual_nodes,
            tuple(tuple(v for v, r in enumerate(ranks) if r == rank) for rank in range(devices)),
        )


def all_counts(virtual_nodes: int, devices: int) -> Iterator[tuple[int, ...]]:
    if devices == 1:
        yield (virtual_nodes,)
        return
    for first in range(virtual_nodes + 1):
        for rest in all_counts(virtual_nodes - first, devices - 1):
            yield (first, *rest)


def cost_of_counts(profile: Profile, devices: list[DeviceProfile], counts: tuple[int, ...]) -> float:
    """The least cost of any ids for these counts: blocks of powers of two, and at most one uneven tail."""
    virtual_nodes, ones = sum(counts), [count.bit_count() for count in counts]
    if max(counts) == virtual_nodes:
        return cost(profile, devices, counts, 1, tuple(count.bit_length() for count in counts))
    held = tuple(count.bit_length() for count in counts)
    best = cost(profile, devices, counts, max(ones), held)
    for tail in {virtual_nodes % 2**bit for bit in range(1, virtual_nodes.bit_length())}:
        for rank, count in enumerate(counts):
            if 0 < tail <= count:
                others = max(n for r, n in enumerate(ones) if r != rank)
                own = (count - tail).bit_count()
                stack = list(held)
                stack[rank] = max((count - tail).bit_length(), own + tail.bit_length())
                best = min(best, cost(profile, devices, counts, max(others, own + 1), tuple(stack)))
    return best


def check_against(problem: tuple[Profile, tuple[DeviceGroup, ...], Plan], best_s: float) -> None:
    profile, groups, plan = problem
    if best_s == math.inf:
        with pytest.raises(PlanError, match="no mapping can hold"):
            solve(profile, groups, plan)
        return
    answer = solve(profile, groups, plan)
    assert answer.step_s == pytest.approx(best_s, rel=1e-12)
    devices = devices_of(profile, groups)
    assert cost_of_mapping(profile, devices, answer.mapping) == pytest.approx(answer.step_s, rel=1e-12)
    assert predict_step(profile, groups, plan, answer.mapping) == answer.prediction
    for worker, device in zip(answer.prediction.workers, devices, strict=True):
        assert isinstance(worker.virtual_nodes, int)
        if worker.virtual_nodes and device.memory_bytes is not None:
            assert worker.memory_bytes is not None
            assert worker.memory_bytes <= device.memory_bytes


@settings(deadline=None, max_examples=250, derandomize=True)
@given(problems(kinds=3, devices=3, virtual_nodes=6))
def test_the_answer_is_the_best_of_all_mappings(
    problem: tuple[Profile, tuple[DeviceGroup, ...], Plan],
) -> None:
    profile, groups, plan = problem
    devices = devices_of(profile, groups)
    mappings = all_mappings(plan.virtual_nodes, len(devices))
    check_against(problem, min(cost_of_mapping(profile, devices, mapping) for mapping in mappings))


@settings(deadline=None, max_examples=500, derandomize=True)
@given(problems(kinds=4, devices=5, virtual_nodes=12))
def test_the_answer_is_the_best_of_all_counts_for_four_kinds_and_twelve_virtual_nodes(
    problem: tuple[Profile, tuple[DeviceGroup, ...], Plan],
) -> None:
    profile, groups, plan = problem
    devices = devices_of(profile, groups)
    counts = all_counts(plan.virtual_nodes, len(devices))
    check_against(problem, min(cost_of_counts(profile, devices, one) for one in counts))


@settings(deadline=None, max_examples=40, derandomize=True)
@given(st.data())
def test_the_fused_answer_is_the_best_of_all_counts_and_all_ways_to_fuse(data: st.DataObject) -> None:
    number = data.draw(st.integers(1, 3))
    speeds = st.lists(st.floats(0.1, 2.0), min_size=3, max_size=3)
    times = [sorted(data.draw(speeds)) for _ in range(number)]
    fixed = [data.draw(st.sampled_from([0.0, 0.5])) for _ in range(number)]
    speed = data.draw(st.sampled_from([None, 100.0, 20.0]))
    profile = Profile(
        model_name="m",
        gradient_bytes=10,
        devices=tuple(
            make_device(
                f"k{i}",
                points=tuple(
                    PassPoint(batch_size=b, seconds=s) for b, s in zip((1, 2, 3), times[i], strict=True)
                ),
                fixed_s=fixed[i],
                exchange_bytes_per_s=speed,
            )
            for i in range(number)
        ),
    )
    v = data.draw(st.integers(1, 9))

    def least_s(kind: int, count: int) -> float:
        return min(
            (times[kind][k - 1] + least_s(kind, count - k) for k in (1, 2, 3) if k <= count), default=0.0
        )

    table = [[least_s(kind, count) for count in range(v + 1)] for kind in range(number)]

    def step_s(counts: tuple[int, ...]) -> float:
        used = [(kind, count) for kind, count in enumerate(counts) if count]
        exchange_s = 2 * 10 * (len(used) - 1) / len(used) / (speed or math.inf)
        return max(fixed[kind] + table[kind][count] for kind, count in used) + exchange_s

    groups = tuple(DeviceGroup(kind=f"k{i}", count=1) for i in range(number))
    answer = solve(profile, groups, Plan(virtual_nodes=v, global_batch_size=v, numerics="fast"))
    assert answer.step_s == pytest.approx(min(map(step_s, all_counts(v, number))), rel=1e-12)
    assert all(sum(worker.passes) == worker.virtual_nodes for worker in answer.prediction.workers)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(problems(kinds=4, devices=8, virtual_nodes=40))
def test_a_recommendation_is_never_slower_than_its_rivals(
    problem: tuple[Profile, tuple[DeviceGroup, ...], Plan],
) -> None:
    profile, groups, plan = problem
    try:
        found = recommend(profile, groups, global_batch_size=plan.global_batch_size)
    except PlanError:
        return
    assert found.gain is None or found.gain >= 1.0
    if found.runner_up is not None:
        assert found.runner_up.answer.step_s >= found.answer.step_s
    for idle in found.idle:
        assert idle.reason


def two_kinds(fast_s: float, slow_s: float) -> Profile:
    return Profile(
        model_name="m",
        devices=tuple(
            make_device(kind, points=(PassPoint(batch_size=SIZE, seconds=seconds),))
            for kind, seconds in (("fast", fast_s), ("slow", slow_s))
        ),
    )


def test_dealing_by_speed_and_rounding_loses_to_the_solver() -> None:
    # Negative control, the tempting rule: speeds 22 : 10 give 1.375 and 0.625 of 2 virtual nodes, rounded 1 and 1.
    groups = (DeviceGroup(kind="fast", count=1), DeviceGroup(kind="slow", count=1))
    profile, plan = two_kinds(1.0, 2.2), Plan(virtual_nodes=2, global_batch_size=8)
    tempting = predict_step(profile, groups, plan, proportional_mapping(2, (22, 10)))
    assert (tempting.step_s, solve(profile, groups, plan).step_s) == (2.2, 2.0)


def test_equal_times_go_to_aligned_blocks_then_to_fewer_workers_then_to_devices_listed_first() -> None:
    groups = (DeviceGroup(kind="fast", count=2), DeviceGroup(kind="slow", count=2))
    same = two_kinds(1.0, 1.0)
    # 2/2/1/1 takes no longer, and keeps one device more busy.
    answer = solve(same, groups, Plan(virtual_nodes=6, global_batch_size=24))
    assert (str(answer.mapping), answer.prediction.contributions) == ("0-1/2-3/4-5/none", 1)
    # 12 in 4 x 3: no block of 3 is aligned, and none can have fewer.
    answer = solve(same, groups, Plan(virtual_nodes=12, global_batch_size=48))
    assert sorted(len(ids) for ids in answer.mapping.held) == [3, 3, 3, 3]
    assert answer.prediction.contributions == 2
    # 7 over 2 of a kind: the uneven tail 4-6 is one contribution.
    answer = solve(same, groups[:1], Plan(virtual_nodes=7, global_batch_size=28))
    assert (str(answer.mapping), answer.prediction.contributions) == ("0-3/4-6", 1)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=5).filter(any))
@settings(deadline=None, derandomize=True)
def test_an_aligned_mapping_has_the_fewest_contributions_that_its_counts_allow(counts: list[int]) -> None:
    virtual_nodes = sum(counts)
    mapping = aligned_mapping(virtual_nodes, counts)
    tree = order_by_tree(mapping)
    most = max(len(contributions_of(tree, set(ids))) for ids in mapping.held)
    assert [len(ids) for ids in mapping.held] == counts
    profile = Profile(
        model_name="m",
        gradient_bytes=1,
        devices=(
            make_device("k", points=(PassPoint(batch_size=1, seconds=1e-9),), exchange_bytes_per_s=1.0),
        ),
    )
    devices = [profile.devices[0]] * len(counts)
    best = cost_of_counts(profile, devices, tuple(counts))
    if sum(1 for count in counts if count) > 1:
        workers = sum(1 for count in counts if count)
        assert round(best * workers / (workers - 1)) == most + 1
    assert sorted(
        itertools.chain(*(leaves_of(t) for ids in mapping.held for t in contributions_of(tree, set(ids))))
    ) == list(range(virtual_nodes))
