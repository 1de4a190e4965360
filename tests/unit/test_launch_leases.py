"""Devices that a cluster's jobs lease, and the memory of parts of devices."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdtrue.errors import UsageError
from holdtrue.launch import JobSpec, Leases
from holdtrue.launch._leases import LEASES_VARIABLE, Lease, find_leases, visible_devices
from holdtrue.launch._part_memory import (
    DEVICE_MEMORY_VARIABLE,
    PartMemory,
    find_part_memory,
    held_bytes,
    machine_memory,
)
from holdtrue.launch._worker import worker_variables
from holdtrue.wire import WorkerEnvironment


def devices(folder: Path, *, slot: int = -1, names: tuple[str, ...] = ("0", "1")) -> Leases:
    return Leases(folder=folder, names=names, slot=slot)


def give_back(lease: Lease) -> None:
    os.close(lease.fd)


def test_a_whole_device_is_leased_to_one_worker_until_its_last_process_is_gone(tmp_path: Path) -> None:
    first, second = devices(tmp_path).take(), devices(tmp_path).take()
    assert {first.name, second.name} == {"0", "1"}
    assert first.variables == {"CUDA_VISIBLE_DEVICES": first.name}
    with pytest.raises(UsageError, match="no device of 0, 1 is free after 0 s"):
        devices(tmp_path).take(wait_s=0)
    command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=(first.fd,)) as worker:
        give_back(first)  # as the host does once the worker has it
        with pytest.raises(UsageError, match="is free"):
            devices(tmp_path).take(wait_s=0)
        worker.kill()
    again = devices(tmp_path).take(wait_s=0)
    assert again.name == first.name, "a killed worker's device is free"
    give_back(again)
    give_back(second)


def test_parts_of_one_shared_device_are_on_the_same_device_and_nobody_else_is(tmp_path: Path) -> None:
    left, right = devices(tmp_path, slot=0).take(), devices(tmp_path, slot=0).take()
    assert left.name == right.name
    other = devices(tmp_path, slot=1).take()
    assert other.name != left.name
    with pytest.raises(UsageError, match="is free"):
        devices(tmp_path).take(wait_s=0)
    give_back(left)
    with pytest.raises(UsageError, match="is free"):
        devices(tmp_path).take(wait_s=0)
    give_back(right)
    whole = devices(tmp_path).take(wait_s=0)
    assert whole.name == left.name
    with pytest.raises(UsageError, match="is free"):
        devices(tmp_path, slot=0).take(wait_s=0)  # what its file once said does not count
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
        try:
            held.append((slot, devices(folder, slot=slot, names=("a", "b", "c")).take(wait_s=0)))
        except UsageError:
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


def test_a_machines_memory_is_no_more_than_its_containers(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:       2048 kB\nMemFree: 1 kB\n")
    assert machine_memory(tmp_path, tmp_path) == 2048 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    assert machine_memory(tmp_path, tmp_path) == 2048 * 1024
    (tmp_path / "memory.max").write_text("1000\n")
    assert machine_memory(tmp_path, tmp_path) == 1000
