"""What the solver leaves out, refuses and says."""

import pytest

from holdtrue.errors import MappingError, PlanError, UsageError
from holdtrue.mapping import even_mapping
from holdtrue.plan import Plan
from holdtrue.profile import DeviceProfile, PassPoint, Profile
from holdtrue.solve import (
    aligned_mapping,
    candidate_virtual_nodes,
    parse_devices,
    parse_memory,
    parse_size,
    predict_step,
    recommend,
    solve,
)

GIB = 1024**3


def make_profile(*devices: DeviceProfile, gradient_bytes: int = 0) -> Profile:
    return Profile(model_name="net", devices=devices, gradient_bytes=gradient_bytes)


def make_device(
    kind: str, points: dict[int, float], peaks: dict[int, int] | None = None, **fields: float
) -> DeviceProfile:
    return DeviceProfile(
        kind=kind,
        torch_version="2.13.0",
        date="2026-11-23",
        points=tuple(
            PassPoint(batch_size=b, seconds=s, peak_bytes=(peaks or {}).get(b)) for b, s in points.items()
        ),
        **fields,  # type: ignore[arg-type]
    )


def test_devices_behind_a_slow_link_are_left_out_and_the_reason_names_the_exchange() -> None:
    # 400 MB over 0.1 GB/s takes 4 s between two; the near ones need 4.04 s for everything.
    near = make_device("near", {8: 0.5}, exchange_bytes_per_s=10e9)
    far = make_device("far", {8: 0.5}, exchange_bytes_per_s=0.1e9)
    profile = make_profile(near, far, gradient_bytes=400_000_000)
    found = recommend(profile, parse_devices("near:2,far:1"), global_batch_size=128)
    assert [len(ids) for ids in found.answer.mapping.held] == [8, 8, 0]
    assert found.gain == 1.0
    (idle,) = found.idle
    assert (idle.kind, idle.count, idle.standby) == ("far", 1, False)
    assert (
        "with 8 virtual nodes there a step takes 8 s instead of 4.04 s: the exchange 4 s instead of 0.04 s"
        in idle.reason
    )
    without_exchange = make_profile(near, far)
    assert not recommend(without_exchange, parse_devices("near:2,far:1"), global_batch_size=128).idle


def test_a_third_device_is_left_out_where_its_part_in_the_exchange_costs_more_than_it_saves() -> None:
    # Alone 9; two 5 + 7/2; three 4 + 7 * 2/3 = 8.67.
    quick = make_device("quick", {1: 1.0}, exchange_bytes_per_s=2.0)
    slow = make_device("slow", {1: 1.0}, exchange_bytes_per_s=2.0, fixed_s=3.0)
    answer = solve(
        make_profile(quick, slow, gradient_bytes=7),
        parse_devices("quick:2,slow:1"),
        Plan(virtual_nodes=9, global_batch_size=9, numerics="fast"),
    )
    assert answer.step_s == 8.5
    assert [len(ids) for ids in answer.mapping.held] == [5, 4, 0]


def test_a_device_that_cannot_hold_one_pass_is_a_standby() -> None:
    big = make_device("big", {8: 1.0}, {8: 3 * GIB}, memory_bytes=4 * GIB)
    small = make_device("small", {8: 0.1}, {8: 3 * GIB}, memory_bytes=2 * GIB)
    found = recommend(make_profile(big, small), parse_devices("big:1,small:2"), global_batch_size=32)
    assert [len(ids) for ids in found.answer.mapping.held] == [4, 0, 0]
    assert found.answer.largest_pass == 8
    (idle,) = found.idle
    assert (idle.kind, idle.count, idle.standby) == ("small", 2, True)
    assert "a pass of 8 with its exchange needs 3.0 GiB, and it has 2.0 GiB" in idle.reason


def test_what_the_slowest_worker_does_after_all_others_it_does_with_the_host_to_itself() -> None:
    device = make_device("cpu", {8: 1.0}, fixed_s=0.5, lone_factor=0.8)
    profile, plan = make_profile(device), Plan(virtual_nodes=8, global_batch_size=64)
    two = parse_devices("cpu:2")
    # Both at work until the worker of 2 is done at 2.5, then 4 passes at 0.8.
    uneven = predict_step(profile, two, plan, aligned_mapping(8, (6, 2)))
    assert uneven.step_s == pytest.approx(2.5 + 4 * 0.8)
    assert predict_step(profile, two, plan, even_mapping(8, 2)).step_s == 4.5
    alone = solve(profile, parse_devices("cpu:1"), plan)
    assert alone.step_s == pytest.approx(0.5 + 8 * 0.8)
    # Two are chosen only where they beat one that has the host to itself.
    slow_link = make_device("cpu", {8: 1.0}, lone_factor=0.4, exchange_latency_s=0.1)
    assert len(solve(make_profile(slow_link), two, plan).prediction.busy) == 1


def test_waiting_gradients_bound_the_virtual_nodes_of_a_device() -> None:
    # A pass and an exchange leave room for one more set of gradients: at most 3 virtual nodes (binary 11).
    tight = make_device("tight", {8: 0.1}, {8: 1000}, memory_bytes=1200)
    roomy = make_device("roomy", {8: 1.0}, {8: 1000})
    profile = make_profile(tight, roomy, gradient_bytes=100)
    answer = solve(profile, parse_devices("tight:1,roomy:1"), Plan(virtual_nodes=8, global_batch_size=64))
    assert [len(ids) for ids in answer.mapping.held] == [3, 5]
    assert answer.prediction.workers[0].memory_bytes == 1200


def test_the_error_for_a_pass_that_fits_nowhere_gives_the_largest_that_does_and_its_virtual_nodes() -> None:
    device = make_device(
        "gpu", {8: 0.1, 16: 0.2, 64: 0.7}, {8: GIB, 16: 2 * GIB, 64: 7 * GIB}, memory_bytes=4 * GIB
    )
    with pytest.raises(
        PlanError, match=r"largest pass that would fit is 16: use 16 virtual nodes or more\.$"
    ):
        solve(make_profile(device), parse_devices("gpu:2"), Plan(virtual_nodes=4, global_batch_size=256))
    assert (
        recommend(make_profile(device), parse_devices("gpu:2"), global_batch_size=256).answer.largest_pass
        == 16
    )
    with pytest.raises(PlanError, match=r"No measured pass would fit \(the least, of 8, needs 1\.0 GiB\)"):
        recommend(
            make_profile(device),
            parse_devices("gpu:2"),
            global_batch_size=256,
            memory_bytes={"gpu": GIB // 2},
        )


def test_the_error_for_virtual_nodes_that_no_mapping_can_hold_says_how_many_each_device_holds() -> None:
    tight = make_device("tight", {8: 0.1}, {8: 1000}, memory_bytes=1100)
    with pytest.raises(
        PlanError, match=r"tight: holds at most 1 virtual node\b.*use fewer virtual nodes, or more devices"
    ):
        solve(
            make_profile(tight, gradient_bytes=100),
            parse_devices("tight:3"),
            Plan(virtual_nodes=4, global_batch_size=32),
        )


def test_a_batch_smaller_than_its_virtual_nodes_and_an_empty_one_are_refused() -> None:
    profile = make_profile(make_device("gpu", {8: 0.1}))
    with pytest.raises(PlanError, match="global_batch_size is 4 and virtual_nodes is 8"):
        recommend(profile, parse_devices("gpu:1"), global_batch_size=4, virtual_nodes=8)
    with pytest.raises(PlanError, match="global_batch_size is 0"):
        recommend(profile, parse_devices("gpu:1"), global_batch_size=0)
    with pytest.raises(PlanError, match="a pass of 4 was not measured"):
        recommend(profile, parse_devices("gpu:1"), global_batch_size=4)


@pytest.mark.parametrize(
    "text", ["", "v100", "v100:", "v100:0", "v100:-1", ":2", "v100:2,", "v100:2;p100:8", "v100:2.5"]
)
def test_a_malformed_device_list_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(UsageError, match=r"KIND:COUNT|at least 1 device"):
        parse_devices(text)


def test_a_kind_that_stands_twice_in_the_list_is_refused() -> None:
    with pytest.raises(UsageError, match="names v100 more than once"):
        parse_devices("v100:2,p100:1,v100:1")


@pytest.mark.parametrize(
    "entries", [["v100"], ["=2GiB"], ["v100=1GiB", "v100=2GiB"], ["v100=lots"], ["v100=-1"]]
)
def test_a_malformed_memory_limit_is_refused(entries: list[str]) -> None:
    with pytest.raises(UsageError, match=r"KIND=SIZE|cannot be read"):
        parse_memory(entries)


def test_sizes_count_by_1024() -> None:
    assert [parse_size(text) for text in ("1", "2k", "1MiB", "0.5 GB", "1T")] == [
        1,
        2048,
        1024**2,
        GIB // 2,
        1024**4,
    ]


@pytest.mark.parametrize("text", ["9" * 400, "9" * 400 + "T", "8388608T"])
def test_a_size_that_no_machine_has_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is more than any machine has") as raised:
        parse_size(text)
    assert len(str(raised.value)) < 200
    assert parse_size("8388607T") == 8388607 << 40


def test_a_prediction_refuses_a_mapping_that_does_not_fit_the_devices() -> None:
    profile = make_profile(make_device("gpu", {8: 0.1}, {8: 2000}, memory_bytes=1000))
    plan = Plan(virtual_nodes=4, global_batch_size=32)
    with pytest.raises(MappingError, match="on 3 workers, and there are 4 on 2 devices"):
        predict_step(profile, parse_devices("gpu:2"), plan, even_mapping(4, 3))
    with pytest.raises(PlanError, match="gpu is to run 2 virtual nodes"):
        predict_step(profile, parse_devices("gpu:2"), plan, even_mapping(4, 2))


def test_equal_rivals_and_worse_ones_are_told_apart() -> None:
    profile = make_profile(make_device("gpu", {8: 1.0, 16: 2.0}))
    found = recommend(profile, parse_devices("gpu:2"), global_batch_size=32)
    assert found.answer.plan.virtual_nodes == 2
    assert found.runner_up is not None
    assert (found.runner_up.name, found.runner_up.reason) == (
        "4 virtual nodes x 8",
        "as fast, with 4 virtual nodes; ties go to fewer",
    )


def test_thousands_of_virtual_nodes_are_considered_only_where_fewer_are_not_measured() -> None:
    groups = parse_devices("gpu:1")
    both = make_profile(make_device("gpu", {1: 0.1, 64: 1.0}))
    assert candidate_virtual_nodes(both, groups, 1_000_000) == (15_625,)
    assert candidate_virtual_nodes(both, groups, 64) == (1, 64)
    assert candidate_virtual_nodes(make_profile(make_device("gpu", {1: 0.1})), groups, 20_000) == (20_000,)
