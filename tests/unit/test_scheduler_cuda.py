"""CUDA devices in live clusters, on machines without any: what is asked for, who gets which, what is refused."""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from holdtrue.cluster import parse_cluster
from holdtrue.errors import UsageError
from holdtrue.launch import DEVICE_MEMORY_VARIABLE, LEASES_VARIABLE
from holdtrue.launch._part_memory import PartMemory, find_part_memory
from holdtrue.run._environment import name_device
from holdtrue.run._part import limit_memory
from holdtrue.scheduler import EngineChoice, JobRequest, _open_engine, check_devices
from holdtrue.scheduler._engine_choice import Lent, describe_lent
from holdtrue.scheduler._hosts import HostOrder
from holdtrue.scheduler._launchers import LauncherEngine
from holdtrue.scheduler._open_engine import open_engine
from holdtrue.scheduler._records import JobRecord, Place
from holdtrue.scheduler._scheduler import Scheduler
from holdtrue.scheduler._staffing import own_environment
from holdtrue.scheduler._store import Store
from holdtrue.scheduler.on_ray import RayChoice, _actor
from holdtrue.scheduler.on_ray._actor import HostActor
from holdtrue.scheduler.on_ray._agent import Agent, demand_of

RAY = EngineChoice(name="ray", ray=RayChoice(address="127.0.0.1:6379"))


def record(percent: int = 100, **environment: str) -> JobRecord:
    request = JobRequest(
        name="a", script="/t.py", folder="/", percent=percent, max_devices=1, environment=environment
    )
    return JobRecord(number=1, request=request, submitted_s=0.0, attempt=1)


def test_devices_of_one_kind_that_are_there_are_taken() -> None:
    check_devices("cuda:2", "", 8, None, cuda=2)
    check_devices("cuda:64", "", 8, RAY, cuda=0)  # asked of Ray, later
    with pytest.raises(UsageError, match="this machine shows 1 CUDA device"):
        check_devices("cuda:2", "", 8, EngineChoice(), cuda=1)
    with pytest.raises(UsageError, match="devices of one kind"):
        check_devices("cuda:1,cpu:1", "", 8, None, cuda=1)


def test_workers_of_the_embedded_engine_lease_the_devices_of_the_cluster(tmp_path: Path) -> None:
    lent = describe_lent(
        parse_cluster("cuda:2"), EngineChoice(), memory_bytes=1 << 30, visible=("4", "5", "6")
    )
    assert lent == Lent(kind="cuda", memory_bytes=0, names=("4", "5"))
    order = LauncherEngine(Place(folder=tmp_path), lent=lent)._order(record(percent=50), 1, slot=3)
    words = order["command"]
    assert words[words.index("--device") + 1] == "cuda"
    assert json.loads(order["environment"][LEASES_VARIABLE]) == {
        "folder": str(tmp_path / "leases"),
        "names": ["4", "5"],
        "slot": 3,
    }
    assert order["environment"]["HOLDTRUE_DEVICE_PERCENT"] == "50"
    assert DEVICE_MEMORY_VARIABLE not in order["environment"], (
        "memory of the GPU is bounded by its own process"
    )
    plain = LauncherEngine(Place(folder=tmp_path), lent=Lent())._order(record(), 1, slot=-1)
    assert LEASES_VARIABLE not in plain["environment"]
    assert plain["command"][plain["command"].index("--device") + 1] == "cpu"


def test_a_job_does_not_inherit_the_part_and_the_leases_of_who_started_the_scheduler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOLDTRUE_DEVICE_PERCENT", DEVICE_MEMORY_VARIABLE, LEASES_VARIABLE):
        monkeypatch.setenv(name, "7")
    order = LauncherEngine(Place(folder=tmp_path), lent=Lent())._order(record(), 1, slot=-1)
    assert not {"HOLDTRUE_DEVICE_PERCENT", DEVICE_MEMORY_VARIABLE, LEASES_VARIABLE} & set(
        order["environment"]
    )


def test_the_shared_device_of_an_attempt_is_read_from_its_order(tmp_path: Path) -> None:
    place, job = Place(folder=tmp_path), record(percent=50)
    engine = LauncherEngine(place, lent=Lent())
    assert engine.slot(job) is None, "it was not begun"
    place.attempt(job).mkdir(parents=True)
    (place.attempt(job) / "order.json").write_text(json.dumps(engine._order(job, 1, slot=3)))
    assert engine.slot(job) == 3
    (place.attempt(job) / "order.json").write_text("{}")
    assert engine.slot(job) is None, "an older version wrote it"


def test_a_part_without_room_for_torch_is_refused(tmp_path: Path) -> None:
    engine = LauncherEngine(Place(folder=tmp_path), lent=Lent(memory_bytes=1 << 30))
    engine.check(record(percent=50).request)
    engine.check(record().request)
    with pytest.raises(UsageError, match=r"percent = 49, which is 501.8 MiB of memory here"):
        engine.check(record(percent=49).request)
    LauncherEngine(Place(folder=tmp_path), lent=Lent()).check(record(percent=1).request)


def test_a_restarted_cluster_keeps_its_devices_whatever_its_shell_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "cluster.sqlite")
    seen: list[tuple[str, ...]] = []

    def lent_with(text: str | None, shown: str) -> None:
        names = shown.split(",") if shown else []
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
        monkeypatch.setattr(_open_engine, "cuda_here", lambda env: len(names))
        engine, _ = open_engine(Place(folder=tmp_path), store, parse_cluster(text) if text else None, None)
        assert isinstance(engine, LauncherEngine)
        seen.append(engine._lent.names)

    lent_with("cuda:2", "4,5")
    Scheduler(store, LauncherEngine(Place(folder=tmp_path)), parse_cluster("cuda:2"), None)
    lent_with(None, "6,5,4")
    lent_with("cuda:2", "6,5,4")
    assert seen == [("4", "5"), ("4", "5"), ("6", "5")]
    for shown in ("", "6"):
        with pytest.raises(
            UsageError, match=r"the cluster has cuda:2, and this shell shows [01] CUDA device"
        ):
            lent_with(None, shown)
    with pytest.raises(UsageError, match=r"--memory is 4096 bytes, and the cluster has CUDA devices"):
        open_engine(Place(folder=tmp_path), store, parse_cluster("cuda:2"), None, 4096)


def test_a_job_cannot_name_itself_a_larger_part() -> None:
    lent = Lent(memory_bytes=1000)
    found = own_environment(
        record(percent=30, HOLDTRUE_DEVICE_PERCENT="100", HOLDTRUE_DEVICE_MEMORY="9"), lent
    )
    assert (found["HOLDTRUE_DEVICE_PERCENT"], found[DEVICE_MEMORY_VARIABLE]) == ("30", "1000")
    said = {"HOLDTRUE_DEVICE_MEMORY": "9", "HOLDTRUE_DEVICE_LEASES": "{}", "MINE": "1"}
    found = own_environment(record(percent=30, **said), Lent())
    assert found == {"HOLDTRUE_DEVICE_PERCENT": "30", "MINE": "1"}, "with Ray each host finds its memory"
    assert own_environment(record(**said, HOLDTRUE_DEVICE_PERCENT="1"), lent) == {"MINE": "1"}


class Rayed:
    """What an agent asks of Ray, and two nodes."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}
        self.end = self.place = self

    def options(self, **asked: Any) -> "Rayed":
        self.asked = asked
        return self

    def remote(self, *_: object) -> "Rayed":
        return self

    def nodes(self) -> list[dict[str, Any]]:
        node = {"Alive": True, "NodeID": "n", "NodeManagerAddress": "127.0.0.1"}
        return [node | {"Resources": {"CPU": 4.0, "GPU": 2.0}}, node | {"Resources": {"CPU": 1.0}}]

    def wait(self, *_: object, **__: object) -> tuple[list[object], list[object]]:
        return [], []


@pytest.mark.parametrize(
    ("kind", "percent", "demand"),
    [("cpu", 50, {"num_cpus": 0.5}), ("cuda", 100, {"num_cpus": 0.0, "num_gpus": 1.0}), ("cuda", 30, None)],
)
def test_a_host_asks_ray_for_its_part_of_a_device(
    kind: str, percent: int, demand: dict[str, float] | None
) -> None:
    ray = Rayed()
    agent = object.__new__(Agent)
    agent._ray = agent._kind = ray
    agent._namespace, agent._actors, agent._ends, agent._places, agent._node_of = "n", {}, {}, {}, {}
    agent.answer({"ask": "start", "order": {"name": "1-1-a", "kind": kind, "percent": percent}})
    wanted = demand if demand is not None else demand_of(kind, percent)
    assert {key: value for key, value in ray.asked.items() if key.startswith("num_")} == wanted
    assert agent.answer({"ask": "look"})["devices"] == {"cpu": 5, "cuda": 2}


@pytest.mark.parametrize(
    ("kind", "percent", "told", "cpus", "most"),
    [
        ("cpu", 50, None, 4.0, 1 << 30),
        ("cpu", 25, str(4 << 30), 4.0, 1 << 30),
        ("cpu", 50, None, 0.0, None),
        ("cpu", 100, None, 4.0, None),
        ("cuda", 50, None, 4.0, None),
    ],
    ids=["a CPU's share of the machine", "as --memory says", "no CPU", "a whole CPU", "a GPU"],
)
def test_a_host_under_ray_finds_what_its_part_of_a_cpu_may_hold(
    kind: str, percent: int, told: str | None, cpus: float, most: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [
        {"NodeID": "other", "Resources": {"CPU": 64.0}},
        {"NodeID": "here", "Resources": {"CPU": cpus} if cpus else {}},
    ]
    context = SimpleNamespace(get_node_id=lambda: "here")
    fake = SimpleNamespace(get_runtime_context=lambda: context, nodes=lambda: nodes)
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.setattr(_actor, "machine_memory", lambda: 8 << 30)
    monkeypatch.setattr(os, "environ", {"PATH": "/bin"})
    found: list[PartMemory | None] = []

    def join(*_: object, **__: object) -> SimpleNamespace:
        found.append(find_part_memory(os.environ))
        return SimpleNamespace(exit_code=0, ends=(), failures=(), reason=None)

    monkeypatch.setattr(_actor, "join_job", join)
    lent = Lent(memory_bytes=int(told)) if told else Lent()
    order = HostOrder(
        name="1-1-a",
        job="a",
        kind=kind,
        percent=percent,
        url="http://127.0.0.1:1",
        token="t",
        folder=".",
        environment=own_environment(record(percent=percent), lent),
    )
    host = object.__new__(HostActor)  # without the thread that joins a job and then ends its process
    host._order, host._interrupts = asdict(order), -1
    assert host._join() == {"status": 0, "sentence": "", "has_run": False}
    assert found == [None if most is None else PartMemory(percent=percent, most_bytes=most)]


def test_workers_that_each_see_one_gpu_are_told_apart() -> None:
    gpu = torch.device("cuda:0")
    names = {name_device(gpu, {"CUDA_VISIBLE_DEVICES": entry}) for entry in ("0", "1", "GPU-8f")}
    assert len(names) == 3
    assert all("cuda" in name for name in names)
    assert name_device(torch.device("cuda:1"), {}).endswith("/cuda:1")
    assert name_device(torch.device("cpu"), {"CUDA_VISIBLE_DEVICES": "0"}).endswith("/cpu")


def test_a_part_of_a_gpu_bounds_its_process_to_that_part_of_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[float, torch.device]] = []
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda part, device: seen.append((part, device))
    )
    limit_memory(torch.device("cuda:0"), 25)
    limit_memory(torch.device("cuda:0"), 100)
    limit_memory(torch.device("cpu"), 25)
    assert seen == [(0.25, torch.device("cuda:0"))]
