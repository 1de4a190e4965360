"""Devices that a cluster's jobs lease, and the memory of parts of devices."""

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdtrue.errors import UsageError
from holdtrue.launch import JobSpec, Leases, _host
from holdtrue.launch._host import Host
from holdtrue.launch._leases import LEASE_WAIT_S, LEASES_VARIABLE, Lease, find_leases, visible_devices
from holdtrue.launch._part_memory import (
    DEVICE_MEMORY_VARIABLE,
    PartMemory,
    find_part_memory,
    held_bytes,
    machine_memory,
)
from holdtrue.launch._worker import worker_variables
from holdtrue.wire import Finish, Kill, Start, WorkerEnvironment


def devices(folder: Path, *, slot: int = -1, names: tuple[str, ...] = ("0", "1")) -> Leases:
    return Leases(folder=folder, names=names, slot=slot)


def taken(leases: Leases) -> Lease:
    lease = leases.take()
    assert lease is not None
    return lease


def give_back(lease: Lease) -> None:
    os.close(lease.fd)


def test_a_whole_device_is_leased_to_one_worker_until_its_last_process_is_gone(tmp_path: Path) -> None:
    first, second = taken(devices(tmp_path)), taken(devices(tmp_path))
    assert {first.name, second.name} == {"0", "1"}
    assert first.variables == {"CUDA_VISIBLE_DEVICES": first.name}
    assert devices(tmp_path).take() is None
    command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=(first.fd,)) as worker:
        give_back(first)  # as the host does once the worker has it
        assert devices(tmp_path).take() is None
        worker.kill()
    again = taken(devices(tmp_path))
    assert again.name == first.name, "a killed worker's device is free"
    give_back(again)
    give_back(second)


def test_parts_of_one_shared_device_are_on_the_same_device_and_nobody_else_is(tmp_path: Path) -> None:
    left, right = taken(devices(tmp_path, slot=0)), taken(devices(tmp_path, slot=0))
    assert left.name == right.name
    other = taken(devices(tmp_path, slot=1))
    assert other.name != left.name
    assert devices(tmp_path).take() is None
    give_back(left)
    assert devices(tmp_path).take() is None
    give_back(right)
    whole = taken(devices(tmp_path))
    assert whole.name == left.name
    assert devices(tmp_path, slot=0).take() is None  # what its file once said does not count
    give_back(whole)
    give_back(other)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(-1, 2), st.booleans()), max_size=12))
def test_random_leases_never_mix_owners(
    tmp_path_factory: pytest.TempPathFactory, asked: list[tuple[int, bool]]
) -> None:
    folder = tmp_path_factory.mktemp("leases")
    held: list[tuple[int, Lease]] = []
    for slot, gives_back in asked:
        if gives_back and held:
            give_back(held.pop(0)[1])
        lease = devices(folder, slot=slot, names=("a", "b", "c")).take()
        if lease is not None:
            held.append((slot, lease))
        else:
            assert len({lease.name for _, lease in held}) == 3, "one is free, and was not given"
        for name in {lease.name for _, lease in held}:
            owners = [owner for owner, lease in held if lease.name == name]
            assert owners == [-1] or (len(set(owners)) == 1 and owners[0] >= 0)
    for _, lease in held:
        give_back(lease)


def test_what_is_no_lease_is_refused() -> None:
    for text in ("{", "[]", '{"folder": "x"}'):
        with pytest.raises(UsageError, match=f"{LEASES_VARIABLE} is"):
            find_leases({LEASES_VARIABLE: text})
    assert visible_devices({"CUDA_VISIBLE_DEVICES": " 2 , 5"}, 1) == ("2",)


def test_a_script_does_not_hear_of_its_hosts_leases_and_sees_its_device_alone() -> None:
    spec = JobSpec(script="t.py", run_dir=Path("r"))
    environment = WorkerEnvironment(worker=0, rank=0, world_size=1, store_host="127.0.0.1", store_port=1)
    base = {LEASES_VARIABLE: "x", DEVICE_MEMORY_VARIABLE: "1", "HOLDTRUE_DEVICE_PERCENT": "50"}
    found = worker_variables(spec, environment, base)
    assert not {LEASES_VARIABLE, DEVICE_MEMORY_VARIABLE} & set(found)
    assert found["HOLDTRUE_DEVICE_PERCENT"] == "50", "it rests, and bounds its memory on a GPU"


def test_a_part_of_a_device_has_its_part_of_the_memory() -> None:
    assert find_part_memory({"HOLDTRUE_DEVICE_PERCENT": "50"}) is None
    assert find_part_memory({DEVICE_MEMORY_VARIABLE: "100"}) is None
    with pytest.raises(UsageError, match="they are a whole number of bytes"):
        find_part_memory({DEVICE_MEMORY_VARIABLE: "many", "HOLDTRUE_DEVICE_PERCENT": "50"})
    half = PartMemory(percent=50, most_bytes=512 << 20)
    assert half.judge(3, 512 << 20) == ""
    said = half.judge(3, 700 << 20)
    assert "worker 3 held 700.0 MiB of memory, and its part of the device (50 %) has 512.0 MiB" in said
    assert said.endswith("data smaller.")
    assert machine_memory() > 64 << 20
    assert not half.ends_at_once(768 << 20), "a peak that the next look does not find again"
    assert half.ends_at_once((768 << 20) + 1)


@pytest.mark.parametrize("memory", ["0", "1"])
def test_memory_that_nobody_knows_is_no_bound(memory: str) -> None:
    assert find_part_memory({DEVICE_MEMORY_VARIABLE: memory, "HOLDTRUE_DEVICE_PERCENT": "50"}) is None


def test_who_looks_for_a_device_does_not_wait_for_another_who_looks(tmp_path: Path) -> None:
    with (tmp_path / "look").open("w") as look:
        fcntl.flock(look, fcntl.LOCK_EX)  # one that was stopped in the middle
        assert devices(tmp_path).take() is None
    give_back(taken(devices(tmp_path)))


class Link:
    """What a host tells its controller."""

    def __init__(self) -> None:
        self.ended: list[tuple[int, int]] = []
        self.not_started: list[int] = []
        self.reasons: list[str] = []
        self.running: list[int] = []
        self.orders: list[Start | Kill | Finish] = []
        self.ends, self._told = os.pipe()

    def fileno(self) -> int:
        return self.ends

    def take_orders(self) -> list[Start | Kill | Finish]:
        orders, self.orders = self.orders, []
        return orders

    def say_ended(self, number: int, *, status: int) -> None:
        self.ended.append((number, status))

    def say_not_started(self, number: int, why: str) -> None:
        self.not_started.append(number)
        self.reasons.append(why)

    def add_running(self, number: int) -> None:
        self.running.append(number)


class Crew:
    """Workers of a host, without processes."""

    def __init__(self) -> None:
        self.workers: dict[int, Any] = {}
        self.alive: list[Any] = []

    def add(self, worker: Any) -> None:
        self.workers[worker.number] = worker
        self.alive.append(worker)

    def turn(self, wait_s: float) -> None:
        """Nothing happens."""

    def kill_all(self, reason: str) -> None:
        """There is nobody to kill."""


def started(host: Host) -> list[int]:
    return list(host.crew.workers)


class Waiting:
    """A starter whose devices are taken for so many tries."""

    def __init__(self, tries: int, memory: PartMemory | None = None) -> None:
        self.left, self.memory = tries, memory
        self.leases = Leases(folder=Path("/c"), names=("4", "5"))

    def start(self, number: int, device: str) -> Any:
        self.left -= 1
        process = SimpleNamespace(pid=number)
        return None if self.left >= 0 else SimpleNamespace(number=number, process=process, condemned="")


def host_of(starter: Waiting, link: Link) -> tuple[Host, list[str]]:
    notes: list[str] = []
    observer: Any = SimpleNamespace(show_note=notes.append, tick=lambda now_s: None)
    spec = JobSpec(script="t.py", run_dir=Path("r"))
    parts: Any = starter, link
    host = Host(spec, observer, starter=parts[0], link=parts[1], devices=("cuda",))
    host.crew.close()
    host.crew = cast(Any, Crew())
    return host, notes


def test_a_worker_that_finds_no_device_free_is_tried_again_while_the_host_does_its_other_work() -> None:
    link = Link()
    host, notes = host_of(Waiting(2), link)
    host.start(3)
    assert link.running == [3], "its number is not given again while it waits"
    host.turn()
    assert not started(host)
    host.turn()
    assert (started(host), link.running, link.ended, notes) == ([3], [3], [], [])


def test_a_worker_that_finds_no_device_for_long_is_not_started_and_no_death(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    link = Link()
    host, notes = host_of(Waiting(99), link)
    host.start(3)
    host.turn()
    assert not link.not_started
    late_s = time.monotonic() + LEASE_WAIT_S
    monkeypatch.setattr(time, "monotonic", lambda: late_s)
    host.turn()
    assert (link.not_started, link.ended) == ([3], [])
    assert link.reasons[0].startswith("no device of 4, 5 was free for 15 s; each is driven by one worker.")
    assert notes == [f"worker 3 is not started here: {link.reasons[0]}"]


def test_a_worker_that_waits_for_a_device_is_not_started_once_its_controller_has_it_killed() -> None:
    link = Link()
    host, notes = host_of(Waiting(2), link)
    link.orders = [Start(worker=3, device=None), Start(worker=4, device=None)]
    host._obey()
    link.orders = [Kill(worker=3, reason="the job needs fewer workers now")]
    host._obey()
    assert (link.not_started, link.ended) == ([3], [])
    assert notes == ["worker 3 is not started here: the job needs fewer workers now"]
    host.turn()
    assert started(host) == [4], "the other one still waits, and finds its device"
    link.orders = [Kill(worker=3, reason="again")]
    host._obey()
    assert link.not_started == [3], "it is told once"


def test_a_worker_that_the_machine_cannot_start_counts_as_dead() -> None:
    """Not as one that was not started: another one would be tried at once, for ever."""
    link, starter = Link(), Waiting(0)
    host, notes = host_of(starter, link)

    def fail(number: int, device: str) -> Any:
        raise OSError(11, "no room for a process")

    starter.start = fail  # type: ignore[method-assign]
    host.start(3)
    assert (link.not_started, link.ended) == ([], [(3, 1)])
    assert "no room for a process" in notes[0]


def test_a_worker_that_waits_for_a_device_is_not_started_for_a_job_that_ends() -> None:
    link = Link()
    host, _ = host_of(Waiting(1), link)
    host.start(3)
    host.interrupt(2)
    assert not host.is_over, "its end was not told"
    host.turn()
    assert (started(host), link.not_started, host.is_over) == ([], [3], True)


def test_a_short_peak_of_memory_does_not_end_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    host, _ = host_of(Waiting(0, PartMemory(percent=50, most_bytes=100)), Link())
    host.start(3)
    ends: list[str] = []
    cast(Any, host.crew).alive[0].condemn = ends.append
    seen: list[tuple[int, int]] = [(120, 0), (90, 0), (120, 0), (120, 1), (151, 2)]
    for i, (held, expected) in enumerate(seen):
        monkeypatch.setattr(_host, "held_bytes", lambda pid, held=held: held)
        host._weigh(1000.0 * (i + 1) + time.monotonic())
        assert len(ends) == expected


def test_the_memory_of_a_worker_is_that_of_all_its_processes_and_shared_memory_counts_once() -> None:
    script = """
import os, sys
kept = bytearray(os.urandom(1)) * (64 << 20)
child = os.fork()
if not child:
    own = bytearray(os.urandom(1)) * (32 << 20)
    print("ready", flush=True)
    sys.stdin.read()
    os._exit(0)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        held_mib = held_bytes(process.pid) / (1 << 20)
        assert 96 <= held_mib < 128, "64 that both see, 32 of the child's own, and the interpreters"
        process.kill()
    assert held_bytes(process.pid) == 0, "it has ended"


def test_memory_in_swap_is_held_too(tmp_path: Path) -> None:
    for name, more in (("7", "VmSwap:\t   30 kB\n"), ("8", "")):
        (tmp_path / name / "task").mkdir(parents=True)
        (tmp_path / name / "status").write_text(
            f"RssAnon:\t   10 kB\nRssFile:\t 5 kB\nRssShmem:\t 2 kB\n{more}"
        )
    assert held_bytes(7, tmp_path) == 42 * 1024
    assert held_bytes(8, tmp_path) == 12 * 1024, "a kernel without swap"


def test_a_machines_memory_is_no_more_than_its_containers(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:       2048 kB\nMemFree: 1 kB\n")
    assert machine_memory(tmp_path, tmp_path) == 2048 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    assert machine_memory(tmp_path, tmp_path) == 2048 * 1024
    (tmp_path / "memory.max").write_text("1000\n")
    assert machine_memory(tmp_path, tmp_path) == 1000
