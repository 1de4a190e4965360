"""Which entry of the profile each worker of a running job stands on."""

import pytest

from holdtrue.mapping import parse_mapping
from holdtrue.plan import Plan
from holdtrue.profile import DeviceProfile, PassPoint, Profile
from holdtrue.solve import JobCosts, Place, Standing, can_hold, format_job_costs, has_room, parse_job_costs

PLAN = Plan(virtual_nodes=4, global_batch_size=32)


def device(kind: str, *, memory: int | None = None, seconds: float = 0.1, **fields: str) -> DeviceProfile:
    points = (PassPoint(batch_size=8, seconds=seconds, peak_bytes=1000),)
    return DeviceProfile(
        kind=kind,
        torch_version="2.13.0",
        date="2026-11-28",
        points=points,
        memory_bytes=memory,
        **fields,  # type: ignore[arg-type]
    )


def job(*devices: DeviceProfile, places: str, memory: dict[str, int] | None = None) -> JobCosts:
    """A job on `KIND=DEVICE ...`."""
    pairs = [word.split("=") for word in places.split()]
    return JobCosts(
        profile=Profile(model_name="net", devices=devices, gradient_bytes=100),
        memory_bytes=memory or {},
        places=tuple(Place(kind=kind, device=name) for kind, name in pairs),
    )


def cpu(*numbers: int) -> list[Standing]:
    return [Standing(number=number, device="cpu") for number in numbers]


LIMITED = job(
    device("cpu"), device("cpu.0"), device("cpu.1"), device("cpu.2"),
    places="cpu.0=cpu cpu.1=cpu cpu.2=cpu", memory={"cpu": 9000, "cpu.0": 2000, "cpu.1": 500},
)  # fmt: skip


def test_founders_keep_their_places_whatever_their_rank() -> None:
    assert LIMITED.kinds_of(cpu(2, 0)) == ("cpu.2", "cpu.0")


def test_a_later_worker_takes_a_free_place_the_least_limit_first() -> None:
    assert LIMITED.kinds_of(cpu(1, 2, 3)) == ("cpu.1", "cpu.2", "cpu.0")
    assert LIMITED.kinds_of(cpu(4, 0, 3)) == ("cpu.2", "cpu.0", "cpu.1")


def test_one_that_finds_no_free_place_has_the_limit_of_its_kind() -> None:
    assert LIMITED.kinds_of(cpu(0, 1, 2, 10_003)) == ("cpu.0", "cpu.1", "cpu.2", "cpu")


def test_a_device_of_another_model_takes_nobodys_place() -> None:
    found = job(
        device("h100", name="H100", type="cuda"), device("a100", name="A100", type="cuda"),
        places="h100=cuda:0 a100=cuda:1 h100=cuda:2",
    )  # fmt: skip
    new = Standing(number=3, device="cuda:1", model="A100", place="far/cuda:1")
    assert found.kinds_of([new]) == ("a100",)
    named = Standing(number=4, device="cuda:2", model="H100")
    assert found.kinds_of([named, new]) == ("h100", "a100")
    assert found.kinds_of([Standing(number=5, device="cuda:0", model="B200")]) == ("unknown",)


def test_a_device_without_a_profile_has_no_limit_and_leaves_the_others_theirs() -> None:
    costs = LIMITED.costs_of([*cpu(0, 1), Standing(number=9, device="cuda:0")], PLAN)
    assert [kind.kind for kind in costs.kinds] == ["cpu.0", "cpu.1", "unknown"]
    assert can_hold(costs, parse_mapping("0/none/1-3", 4))
    assert not can_hold(costs, parse_mapping("0/1/2-3", 4))


def test_workers_of_one_kind_are_one_kind_wherever_they_stand() -> None:
    found = job(device("cpu"), device("x", type="cuda"), places="cpu=cpu x=cuda:0 cpu=cpu")
    costs = found.costs_of(
        [Standing(number=n, device=d) for n, d in ((0, "cpu"), (1, "cuda:0"), (2, "cpu"))], PLAN
    )
    assert [(kind.kind, tuple(kind.ranks)) for kind in costs.kinds] == [("cpu", (0, 2)), ("x", (1,))]
    assert costs.world_size == 3


def test_workers_that_share_a_gpu_of_one_host_have_a_part_of_its_time_and_memory() -> None:
    found = job(device("x", memory=4400, type="cuda"), places="x=cuda:0 x=cuda:0")
    workers = [
        Standing(number=0, device="cuda:0", place="a/cuda:0"),
        Standing(number=1, device="cuda:0", place="a/cuda:0"),
        Standing(number=2, device="cuda:0", place="b/cuda:0"),
    ]
    costs = found.costs_of(workers, PLAN)
    shared, whole = costs.kinds
    assert (shared.kind, tuple(shared.ranks), whole.kind, tuple(whole.ranks)) == (
        "x.shared-2",
        (0, 1),
        "x",
        (2,),
    )
    assert shared.seconds[1] == pytest.approx(2 * whole.seconds[1])
    tight = job(device("x", memory=2100, type="cuda"), places="x=cuda:0 x=cuda:0").costs_of(workers, PLAN)
    assert tight.kinds[0].cap == 0, "half of 2100 bytes is less than a pass of 1000 and its exchange"
    assert has_room(tight, tight.kinds[1], (0,))
    given = job(device("x", type="cuda"), places="x=cuda:0 x=cuda:0", memory={"x": 1500}).costs_of(
        workers, PLAN
    )
    assert given.kinds[0].cap == given.kinds[1].cap > 0, "a limit that somebody names is a worker's own"


def test_what_is_written_is_read() -> None:
    assert parse_job_costs(format_job_costs(LIMITED)) == LIMITED
