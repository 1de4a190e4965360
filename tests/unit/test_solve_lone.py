"""The solver where a device is faster while the others rest, as cores of one processor are."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdtrue.plan import Plan
from holdtrue.profile import DeviceProfile, PassPoint, Profile
from holdtrue.solve import DeviceGroup, aligned_mapping, predict_step, recommend, solve

SIZE = 4


def profile_of(*devices: tuple[float, float]) -> Profile:
    """Devices k0, k1, ... by seconds of a pass and lone factor."""
    return Profile(
        model_name="m",
        gradient_bytes=0,
        devices=tuple(
            DeviceProfile(
                kind=f"k{index}",
                torch_version="2.13.0",
                date="2026-11-28",
                lone_factor=lone,
                points=(PassPoint(batch_size=SIZE, seconds=seconds, peak_bytes=None),),
            )
            for index, (seconds, lone) in enumerate(devices)
        ),
    )


def groups_of(*counts: int) -> tuple[DeviceGroup, ...]:
    return tuple(DeviceGroup(kind=f"k{index}", count=count) for index, count in enumerate(counts))


def plan_of(virtual_nodes: int) -> Plan:
    return Plan(virtual_nodes=virtual_nodes, global_batch_size=SIZE * virtual_nodes)


@pytest.mark.parametrize(
    ("devices", "counts", "virtual_nodes", "step_s"),
    [
        (((1.0, 0.9),), (3,), 4, 1.9),  # 1, 2, 1: the second pass of one has the processor to itself
        (((1.0, 0.9), (2.95, 1.0)), (2, 1), 5, 2.9),  # 3, 2 and nothing for the slow one
    ],
)
def test_what_is_faster_alone_is_counted(
    devices: tuple[tuple[float, float], ...], counts: tuple[int, ...], virtual_nodes: int, step_s: float
) -> None:
    answer = solve(profile_of(*devices), groups_of(*counts), plan_of(virtual_nodes))
    assert answer.step_s == pytest.approx(step_s)


@given(
    devices=st.lists(
        st.tuples(st.floats(0.5, 3.0), st.sampled_from([0.8, 0.9, 0.95, 1.0])), min_size=1, max_size=3
    ),
    counts=st.lists(st.integers(1, 3), min_size=3, max_size=3),
    virtual_nodes=st.integers(1, 12),
)
@settings(deadline=None, max_examples=60, derandomize=True)
def test_no_kind_alone_is_better_nor_is_any_move_between_two_devices(
    devices: list[tuple[float, float]], counts: list[int], virtual_nodes: int
) -> None:
    profile, groups, plan = profile_of(*devices), groups_of(*counts[: len(devices)]), plan_of(virtual_nodes)
    answer = solve(profile, groups, plan)
    least_s = answer.step_s * (1 - 1e-6)
    for group in groups:
        assert solve(profile, (group,), plan).step_s >= least_s
    held = [len(ids) for ids in answer.mapping.held]
    for gives, has in enumerate(held):
        for gets in set(range(len(held))) - {gives}:
            for amount in (1 << bit for bit in range(has.bit_length())):
                moved = list(held)
                moved[gives] -= amount
                moved[gets] += amount
                option = aligned_mapping(virtual_nodes, moved)
                assert predict_step(profile, groups, plan, option).step_s >= least_s
    found = recommend(profile, groups, global_batch_size=plan.global_batch_size)
    assert found.gain is None or found.gain >= 1 - 1e-6
