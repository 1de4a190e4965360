"""Joining a job that is named, that is not there yet, or whose token was made beforehand; and which device is taken."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdtrue.cli._join import check_wait
from holdtrue.cli._options import ONE_WORKER, read_token_file
from holdtrue.cli._run import RunRequest, resume_command
from holdtrue.errors import GroupError, UsageError
from holdtrue.launch import JobSpec, _reach, _remote
from holdtrue.launch._devices import local_task
from holdtrue.launch._reach import reach
from holdtrue.launch._registry import Registration, jobs_folder
from holdtrue.launch._remote import _devices_of
from holdtrue.service import listen, url_of

TOKEN = "0123456789abcdef"


@pytest.fixture
def interrupts() -> Iterator[tuple[int, int]]:
    """A pipe: what is written into its second end interrupts."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_a_name_becomes_the_address_that_answers(interrupts: tuple[int, int]) -> None:
    with listen("127.0.0.1") as listener:
        named = url_of(listener).replace("127.0.0.1", "localhost")
        assert reach(named, wait_s=0, interrupt_fd=interrupts[0]) == url_of(listener)


def test_a_job_that_is_not_there_yet_is_waited_for(
    interrupts: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[object] = []
    connect = socket.create_connection

    with listen("127.0.0.1") as listener:

        def connect_late(*where: object, **options: object) -> socket.socket:
            if len(refused) < 2:
                refused.append(where)
                raise ConnectionRefusedError(111, "Connection refused")
            return connect(*where, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(_reach, "_AGAIN_S", 0.001)
        monkeypatch.setattr(socket, "create_connection", connect_late)
        assert reach(url_of(listener), wait_s=60, interrupt_fd=interrupts[0]) == url_of(listener)
    assert len(refused) == 2


def test_nobody_there_is_told_with_the_wait_and_the_way_out(interrupts: tuple[int, int]) -> None:
    with listen("127.0.0.1") as listener:
        gone = url_of(listener)
    with pytest.raises(
        GroupError, match=rf"nobody listens at {gone}, nor in 0\.01 s .*refused.*--wait SECONDS"
    ):
        reach(gone, wait_s=0.01, interrupt_fd=interrupts[0])
    with pytest.raises(GroupError, match=r"nobody listens at http://no-such-host\.invalid:1 "):
        reach("http://no-such-host.invalid:1", wait_s=0, interrupt_fd=interrupts[0])


def test_a_signal_ends_the_wait_at_once(interrupts: tuple[int, int]) -> None:
    with listen("127.0.0.1") as listener:
        gone = url_of(listener)
    os.write(interrupts[1], b"!")
    assert reach(gone, wait_s=3600, interrupt_fd=interrupts[0]) is None


@pytest.mark.parametrize("wait_s", [-1.0, float("nan"), float("inf"), 1e6])
def test_a_wait_that_is_none_is_refused(wait_s: float) -> None:
    with pytest.raises(UsageError, match=r"--wait is .* from 0 to 86400"):
        check_wait(wait_s)


def test_tasks_of_one_machine_take_different_gpus_where_each_sees_them_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = JobSpec(script="train.py", run_dir=Path("run"), device="auto")
    monkeypatch.setattr(_remote, "cuda_devices_of", lambda spec: 2)
    taken = []
    for task in ("0", "1", "2"):
        monkeypatch.setenv("SLURM_LOCALID", task)
        taken.append(_devices_of(spec, None))
    assert taken == [("cuda:0",), ("cuda:1",), ("cuda:0",)]
    assert _devices_of(spec, "cuda:1") == ("cuda:1",), "what the user names is stronger"
    monkeypatch.setattr(_remote, "cuda_devices_of", lambda spec: 0)
    assert _devices_of(spec, None) == ("cpu",)
    assert local_task({"SLURM_LOCALID": "two"}) == 0


def test_a_job_has_the_token_that_it_is_given_and_shows_it_nowhere(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    token = read_token_file(file, way_out="Make one.")
    job = Registration(jobs_folder({"XDG_RUNTIME_DIR": str(tmp_path)}), "given", join_token=token)
    assert job.join_file.read_text() == job.tokens["join"] == TOKEN
    assert len(set(job.tokens.values())) == 3
    job.close()
    spec = JobSpec(script="train.py", run_dir=tmp_path, join_token=token)
    assert TOKEN not in repr(spec)
    request = RunRequest(
        script="train.py", arguments=(), workers=ONE_WORKER, mapping=None, settings={}, name=None, run_dir=None,
        resume=False, token_file=file,
    )  # fmt: skip
    again = resume_command(request, tmp_path)
    assert f"--token-file {file}" in again
    assert TOKEN not in again


@pytest.mark.parametrize(
    ("text", "rule"),
    [(b"", "one word"), (b"two words of text", "one word"), (b"short", "16 or more"), (b"\xff" * 20, "no text"),
     ("\u00e9".encode() * 20, "one word")],
)  # fmt: skip
def test_a_file_without_a_token_is_refused_and_not_shown(tmp_path: Path, text: bytes, rule: str) -> None:
    file = tmp_path / "token"
    file.write_bytes(text)
    with pytest.raises(UsageError, match=rule) as refused:
        read_token_file(file, way_out="Make one.")
    assert "words of" not in str(refused.value)
    with pytest.raises(UsageError, match="No such file"):
        read_token_file(tmp_path / "none", way_out="Make one.")
