"""Devices that somebody else lends: how many hosts, what they leave behind, and what a user may name."""

import importlib.util
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdtrue.errors import UsageError
from holdtrue.launch import JobEntry, _registry, jobs_folder
from holdtrue.launch._registry import Registration
from holdtrue.scheduler import EngineChoice, JobRequest, _open_engine, _staffing, check_devices, choose_engine
from holdtrue.scheduler._engine_choice import Lent, engine_from_text
from holdtrue.scheduler._evidence import STOPPED, judge_attempt, judge_end
from holdtrue.scheduler._hosts import HostEnd, HostEngine, HostLook, HostOrder, plan_hosts
from holdtrue.scheduler._launchers import LauncherEngine
from holdtrue.scheduler._open_engine import open_engine
from holdtrue.scheduler._records import JobRecord, Place
from holdtrue.scheduler._staffing import Staffing, read_left
from holdtrue.scheduler._store import Store
from holdtrue.scheduler.on_ray import RayChoice, _head, open_ray
from holdtrue.scheduler.on_ray._choice import RayCluster
from holdtrue.scheduler.on_ray._ray_hosts import RayHosts

NAMES = [f"1-1-{i}" for i in range(6)]
subsets = st.sets(st.sampled_from(NAMES))


class FakeHosts(HostEngine):
    """Shows what a test says."""

    def __init__(self) -> None:
        self.seen = HostLook()
        self.stopped: list[tuple[str, bool]] = []
        self.forgotten: list[str] = []
        self.started: list[HostOrder] = []

    def devices(self) -> Mapping[str, int]:
        return {"cpu": 2}

    def start(self, order: HostOrder) -> None:
        self.started.append(order)

    def stop(self, name: str, *, at_once: bool) -> None:
        self.stopped.append((name, at_once))

    def look(self) -> HostLook:
        return self.seen

    def forget(self, name: str) -> None:
        self.forgotten.append(name)

    def close(self, *, ends_all: bool) -> None:
        """There is nothing to let go of."""


@given(wanted=st.integers(0, 6), hosts=subsets, waiting=subsets, busy=subsets, leaving=subsets)
def test_hosts_follow_the_target_and_one_that_runs_a_worker_is_never_sent_away(
    wanted: int, hosts: set[str], waiting: set[str], busy: set[str], leaving: set[str]
) -> None:
    waiting, busy, leaving = waiting & hosts, busy & hosts - waiting, leaving & hosts
    plan = plan_hosts(wanted, hosts, waiting=waiting, busy=busy, leaving=leaving)
    sent = {*plan.leave, *plan.end}
    assert not sent & (busy | leaving)
    assert sent <= hosts
    left = len(hosts - leaving - sent) + plan.more
    assert left == max(wanted, len(busy - leaving))
    again = plan_hosts(wanted, hosts, waiting=waiting, busy=busy, leaving=leaving | sent)
    assert (again.leave, again.end) == ((), ()), "what was asked for is not asked for again"


@pytest.mark.parametrize(
    ("exit_code", "loss", "state", "is_crash"),
    [
        (STOPPED, "machine", "waiting", False),
        (1, "machine", "waiting", False),
        (None, "machine", "waiting", False),
        (STOPPED, "host", "failed", True),
        (STOPPED, "", "cancelled", False),
        (0, "machine", "finished", False),
        (2, "machine", "failed", True),
    ],
)
def test_a_lost_machine_is_nobodys_fault_and_a_lost_host_is_a_crash(
    exit_code: int | None, loss: str, state: str, is_crash: bool
) -> None:
    verdict = judge_end(exit_code, purpose="", crashes=0, retries=0, loss=loss)  # type: ignore[arg-type]
    assert (verdict.state, verdict.is_crash) == (state, is_crash)
    cancelled = judge_end(exit_code, purpose="cancel", crashes=0, retries=0, loss=loss)  # type: ignore[arg-type]
    assert cancelled.state == ("finished" if exit_code == 0 else "cancelled")


def attempt(tmp_path: Path, **files: str) -> tuple[Place, JobRecord, FakeHosts, LauncherEngine]:
    """An attempt whose launcher has left these files, and is gone."""
    (tmp_path / "train.py").touch()
    request = JobRequest(name="j", script=str(tmp_path / "train.py"), folder=str(tmp_path))
    record = JobRecord(number=1, request=request, state="running", attempt=1, submitted_s=0.0)
    place, hosts = Place(folder=tmp_path / "cluster"), FakeHosts()
    place.attempt(record).mkdir(parents=True)
    for name, text in files.items():
        (place.attempt(record) / name).write_text(text)
    return place, record, hosts, LauncherEngine(place, hosts)


def test_the_exit_status_of_a_script_is_read_from_the_host_that_ran_it(tmp_path: Path) -> None:
    _, record, hosts, engine = attempt(tmp_path, started="{}", exit="1")
    hosts.seen = HostLook(living=frozenset({"1-1-b"}), ended={"1-1-a": HostEnd(status=5, sentence="boom")})
    look = engine.look(record)
    assert look.evidence.is_locked, "a host of it lives: its device is not free"
    assert hosts.stopped == [], "it ended in order, and hosts end by themselves"
    hosts.seen = HostLook(ended={"1-1-b": HostEnd(status=1)})
    evidence = engine.look(record).evidence
    assert (evidence.is_locked, evidence.exit_code, evidence.loss) == (False, 5, "")
    assert hosts.forgotten == ["1-1-a", "1-1-b"]
    assert evidence.how_lost == "boom"


def test_a_job_of_a_machine_that_was_replaced_is_ended_in_the_book_and_its_name_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    place, record, _, _ = attempt(tmp_path, started="{}", **{"order.json": "{}"})
    engine = LauncherEngine(place)
    gone = Registration(jobs_folder(os.environ), "j")
    values: dict[str, Any] = {
        "url": "http://127.0.0.1:1",
        "token_file": "",
        "join_file": "",
        "script": "train.py",
    }
    run_dir = str(place.run_dir(record))
    gone.publish(JobEntry(name="j", pid=1, run_dir=run_dir, started_s=time.time(), **values))
    os.close(gone._lock)
    monkeypatch.setattr(_registry, "_boot", lambda: "another kernel")
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(nodename="another"))
    assert engine.name_is_taken("j")
    assert judge_attempt(engine.evidence(record)) == "killed"
    engine.note_killed(record)
    assert not engine.name_is_taken("j")
    assert judge_attempt(engine.evidence(record)) == "killed", "a scheduler that dies now judges it again"
    Registration(jobs_folder(os.environ), "j").close()  # as the next attempt does


def test_the_wrong_use_of_a_host_that_ran_no_worker_is_not_its_jobs_status_while_another_lives(
    tmp_path: Path,
) -> None:
    _, record, hosts, engine = attempt(tmp_path, started="{}", exit=str(STOPPED))
    no_folder = HostEnd(status=2, sentence="the folder cannot be entered", has_run=False)
    hosts.seen = HostLook(living=frozenset({"1-1-b"}), ended={"1-1-a": no_folder})
    engine.look(record)
    hosts.seen = HostLook(ended={"1-1-b": HostEnd(status=STOPPED)})
    evidence = engine.look(record).evidence
    verdict = judge_end(evidence.exit_code, purpose="preempt", crashes=0, retries=0, loss=evidence.loss)
    assert (verdict.state, verdict.is_crash) == ("waiting", False)


def test_the_wrong_use_of_the_only_host_is_its_jobs_status(tmp_path: Path) -> None:
    _, record, hosts, engine = attempt(tmp_path, started="{}", exit="1")
    hosts.seen = HostLook(ended={"1-1-a": HostEnd(status=2, sentence="no folder", has_run=False)})
    evidence = engine.look(record).evidence
    assert (evidence.exit_code, evidence.how_lost) == (2, "no folder")


def test_hosts_of_a_killed_launcher_are_ended_at_once(tmp_path: Path) -> None:
    _, record, hosts, engine = attempt(tmp_path, started="{}")
    hosts.seen = HostLook(living=frozenset({"1-1-a", "2-1-a"}))
    assert engine.look(record).evidence.is_locked
    assert hosts.stopped == [("1-1-a", True)]


@pytest.mark.parametrize(("with_machine", "loss"), [(True, "machine"), (False, "host")])
def test_the_loss_of_the_last_host_is_written_down_and_that_of_another_is_not(
    with_machine: bool, loss: str, tmp_path: Path
) -> None:
    _, record, hosts, engine = attempt(tmp_path, started="{}", exit=str(STOPPED))
    end = HostEnd(status=None, sentence="It is gone.", with_machine=with_machine)
    hosts.seen = HostLook(living=frozenset({"1-1-b"}), ended={"1-1-a": end})
    engine.look(record)
    hosts.seen = HostLook()
    assert engine.look(record).evidence.loss == ""
    hosts.seen = HostLook(ended={"1-1-b": end})
    engine.look(record)
    found = LauncherEngine(Place(folder=tmp_path / "cluster"), FakeHosts()).evidence(record)
    assert (found.loss, found.how_lost) == (loss, "It is gone."), "the next scheduler reads it too"


def test_a_host_that_ended_while_no_scheduler_lived_is_missed(tmp_path: Path) -> None:
    _, record, hosts, engine = attempt(
        tmp_path, started="{}", exit=str(STOPPED), staffed='["1-1-a", "1-1-b"]'
    )
    hosts.seen = HostLook(living=frozenset({"1-1-b"}))
    assert engine.look(record).evidence.loss == "", "another one lives"
    hosts.seen = HostLook(trouble="nobody can say")
    assert engine.look(record).evidence.loss == ""
    hosts.seen = HostLook()
    evidence = engine.look(record).evidence
    assert (evidence.loss, evidence.how_lost) == ("host", "Its worker was lost while no scheduler looked.")


def test_hosts_are_asked_for_once_and_after_a_failure_not_before_a_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 1000.0
    monkeypatch.setattr(_staffing, "time", SimpleNamespace(monotonic=lambda: now_s))
    place, record, hosts, _ = attempt(tmp_path)
    (tmp_path / "join").write_text("secret")
    entry = JobEntry(
        name="j",
        url="http://127.0.0.1:1",
        pid=1,
        run_dir=str(place.run_dir(record)),
        token_file="",
        join_file=str(tmp_path / "join"),
        script="train.py",
        started_s=0.0,
    )
    staffing, folder = Staffing(place, hosts, Lent()), place.attempt(record)

    def tend() -> list[str]:
        """Names that are asked for at one more look."""
        before = len(hosts.started)
        facts = {"phase": "running", "target": 2, "workers": [{"is_connected": True}], "hosts": []}
        staffing.tend(record, entry, facts, is_locked=True, is_in_order=False)
        return [order.name for order in hosts.started[before:]]

    first, second = tend()
    assert {order.token for order in hosts.started} == {"secret"}
    hosts.seen = HostLook(living=frozenset({first, second}))
    assert tend() == [], "both were asked for"
    no_folder = HostEnd(status=2, sentence="no folder", has_run=False)
    hosts.seen = HostLook(ended={first: no_folder, second: no_folder})
    assert tend() == [], "a host that failed is not asked for again at once"
    assert read_left(folder).status == 2
    hosts.seen = HostLook()
    now_s += 0.9
    assert tend() == [], "two failed one after the other: 1 s"
    now_s += 0.2
    assert len(tend()) == 2
    assert read_left(folder).status is None, "the job goes on: what ended before has not ended it"


def test_another_ray_cluster_at_the_same_address_has_none_of_the_old_ones_hosts_and_that_is_no_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seen(*living: str, nodes: tuple[str, ...]) -> dict[str, Any]:
        lists: dict[str, Any] = {"living": list(living), "waiting": [], "addresses": [], "nodes": list(nodes)}
        return lists | {"ended": {}, "devices": {"cpu": 2}}

    looks = [seen("1-1-a", "1-1-b", nodes=("n1", "n2")), seen("1-1-a", nodes=("n2",)), seen(nodes=("n3",))]
    monkeypatch.setattr(RayHosts, "_connect", lambda self: None)
    monkeypatch.setattr(RayHosts, "_exchange", lambda self, what: looks.pop(0) if looks[1:] else looks[0])
    hosts = RayHosts(
        lambda: RayCluster(address="h:1"),
        address="h:1",
        namespace="n",
        log=tmp_path / "log",
        way_out="",
    )
    until_s = time.monotonic() + 10.0
    while len(hosts.look().ended) < 2:
        assert time.monotonic() < until_s, "the ends of two hosts did not come in 10 s"
        time.sleep(0.01)
    hosts.close(ends_all=False)
    ended = hosts.look().ended
    assert not ended["1-1-b"].with_machine, "the cluster is the same: an actor of it is gone"
    assert ended["1-1-a"].with_machine, "none of its nodes is left"
    assert ended["1-1-a"].sentence == "The Ray cluster at h:1 was lost."
    assert hosts.look().living == frozenset()


@pytest.mark.parametrize("address", ["0.0.0.0", "127.0.0.1:4100"])
def test_an_address_on_which_no_job_could_listen_is_refused_at_the_start(
    address: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="--listen is"):
        open_ray(tmp_path, RayChoice(address="127.0.0.1:9", listen=address), 1)


def test_the_files_of_a_killed_keepers_cluster_are_removed_and_no_others(tmp_path: Path) -> None:
    for name in ("ht-ray-1", "mine"):
        (tmp_path / name).mkdir()
        (tmp_path / "ray.json").write_text(json.dumps({"folder": str(tmp_path / name)}))
        _head._remove_what_a_killed_keeper_left(tmp_path)
        assert not (tmp_path / "ray.json").exists()
    assert not (tmp_path / "ht-ray-1").exists()
    assert (tmp_path / "mine").exists()


def test_hosts_that_no_running_attempt_knows_are_ended(tmp_path: Path) -> None:
    _, record, hosts, engine = attempt(tmp_path)
    hosts.seen = HostLook(living=frozenset({"1-1-a", "1-0-a", "7-1-a"}), ended={"7-2-a": HostEnd(status=0)})
    engine.reap([record])
    assert sorted(hosts.stopped) == [("1-0-a", True), ("7-1-a", True)]
    assert hosts.forgotten == ["7-2-a"]


def test_no_job_is_begun_while_no_device_can_be_had(tmp_path: Path) -> None:
    _, record, hosts, engine = attempt(tmp_path)
    hosts.seen = HostLook(trouble="the Ray cluster cannot be reached")
    with pytest.raises(UsageError, match="cannot be reached"):
        engine.begin(record, 1)
    assert not engine.evidence(record).is_started


def test_engines_and_their_options_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_engine("", address="", listen="") is None
    assert choose_engine("embedded", address="", listen="") == EngineChoice()
    with pytest.raises(UsageError, match="--engine is 'slurm'; the engines are embedded and ray"):
        choose_engine("slurm", address="", listen="")
    with pytest.raises(UsageError, match="--address is given, and --engine ray is not"):
        choose_engine("", address="h:1", listen="")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'holdtrue\[ray\]'"):
        choose_engine("ray", address="", listen="")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    choice = choose_engine("ray", address="10.0.0.1:6379", listen="10.0.0.2")
    assert choice is not None
    assert engine_from_text(choice.to_text()) == choice
    for address in ("ray://10.0.0.1:10001", "10.0.0.1", "10.0.0.1:x", ":6379"):
        with pytest.raises(UsageError, match="is HOST:PORT of a Ray cluster"):
            choose_engine("ray", address=address, listen="")
    with pytest.raises(UsageError, match="--listen is given and --address is not"):
        choose_engine("ray", address="", listen="10.0.0.1")
    there = EngineChoice(name="ray", ray=RayChoice(address="h:1"))
    check_devices("cpu:99", "", 2, there)
    with pytest.raises(UsageError, match="the ray engine runs jobs on CPU slots of a Ray cluster"):
        check_devices("tpu:1", "", 2, there)
    with pytest.raises(UsageError, match="this machine has 2 cores"):
        check_devices("cpu:99", "", 2, EngineChoice(name="ray", ray=RayChoice()))


def test_another_engine_is_refused_under_jobs_that_run_and_kept_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, record, _, _ = attempt(tmp_path)
    store = Store(place.database)
    there = EngineChoice(name="ray", ray=RayChoice(address="h:1"))
    store.set_fact("engine", there.to_text())
    store.write(new=[record])
    with pytest.raises(UsageError, match=r"jobs run on the engine ray at h:1 \(j\)"):
        open_engine(place, store, None, EngineChoice())
    opened: list[RayChoice] = []

    def open_fake(folder: Path, choice: RayChoice, cpus: int, gpus: int) -> FakeHosts:
        opened.append(choice)
        return FakeHosts()

    monkeypatch.setattr(_open_engine, "open_ray", open_fake)
    monkeypatch.setattr(_open_engine, "check_ray", lambda: None)
    _, cluster = open_engine(place, store, None, None)
    assert opened == [there.ray]
    assert cluster is not None
    assert cluster.total == 2, "what the hosts' engine has"
    assert store.fact("engine") == there.to_text()
    store.close()
