"""Finding jobs by name: who lives, who ended, who was killed, and who may read the tokens."""

import errno
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from holdtrue.cli._status_view import describe_entry, describe_jobs
from holdtrue.errors import UsageError
from holdtrue.launch import JobSpec, SilentObserver, _registry, launch_elastic_job
from holdtrue.launch._registry import (
    JobEntry,
    Registration,
    check_run_dir,
    end_lost,
    find_job,
    jobs_folder,
    list_jobs,
    register,
)


def entry(name: str, folder: Path, **changes: object) -> JobEntry:
    values: dict[str, object] = {
        "name": name,
        "url": "http://127.0.0.1:1",
        "pid": os.getpid(),
        "run_dir": str(folder / "runs" / name),
        "token_file": str(folder / f"{name}.tokens"),
        "join_file": str(folder / f"{name}.join"),
        "script": "train.py",
        "started_s": 5.0,
    }
    return JobEntry(**(values | changes))  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return jobs_folder({"XDG_RUNTIME_DIR": str(tmp_path)})


def test_the_folder_and_the_tokens_are_the_users_alone(tmp_path: Path) -> None:
    for env in (
        {"XDG_RUNTIME_DIR": str(tmp_path / "a")},
        {"XDG_STATE_HOME": str(tmp_path / "b")},
        {"HOME": str(tmp_path)},
    ):
        folder = jobs_folder(env)
        assert str(folder).startswith(str(tmp_path))
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        job = Registration(folder, "mine")
        job.publish(entry("mine", folder))
        files = sorted(path.name for path in folder.iterdir())
        assert files == ["mine.join", "mine.json", "mine.lock", "mine.tokens"]
        assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
        assert (folder / "mine.join").read_text() == json.loads((folder / "mine.tokens").read_text())["join"]
        assert not any(token in (folder / "mine.json").read_text() for token in job.tokens.values())
        assert len(set(job.tokens.values())) == 3
        job.close()


def test_two_living_jobs_of_one_name_are_refused_with_a_sentence(folder: Path) -> None:
    job = Registration(folder, "twin")
    job.publish(entry("twin", folder))
    with pytest.raises(UsageError, match=rf"'twin' is running \(process {os.getpid()}, .*holdtrue stop twin"):
        Registration(folder, "twin")
    assert find_job(folder, "twin")[1] == "running"
    job.close()
    Registration(folder, "twin").close()


def test_a_job_that_ended_says_how_and_its_tokens_are_gone(folder: Path) -> None:
    job = Registration(folder, "short")
    job.publish(entry("short", folder))
    job.end(exit_code=0, ending="It finished.", ended_s=9.0)
    job.close()
    found, state = find_job(folder, "short")
    assert (found.exit_code, found.ending, state) == (0, "It finished.", "ended")
    assert sorted(path.name for path in folder.iterdir()) == ["short.json", "short.lock"]


def test_a_job_whose_launcher_was_killed_is_recognised_and_cleaned(folder: Path) -> None:
    program = (
        "import sys, time, signal; from pathlib import Path; from holdtrue.launch._registry import *; "
        "f = Path(sys.argv[1]); job = Registration(f, 'gone'); "
        "job.publish(JobEntry(name='gone', url='u', pid=1, run_dir='r', token_file='t', join_file='j', "
        "script='s', started_s=1.0)); "
        "print('up', flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        assert find_job(folder, "gone")[1] == "running"
        process.send_signal(signal.SIGKILL)
    assert find_job(folder, "gone")[1] == "lost"
    assert sorted(path.name for path in folder.iterdir()) == ["gone.json", "gone.lock"]
    Registration(folder, "gone").close()


def test_a_job_on_another_machine_that_shares_the_folder_is_left_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Registration(folder, "far")
    job.publish(entry("far", folder))
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    # The same files as another machine sees them, whose locks are its own.
    monkeypatch.setattr(_registry, "_boot", lambda: "another kernel")
    monkeypatch.setattr(_registry, "_try_lock", lambda path, kind: os.open(os.devnull, os.O_RDWR))
    here = os.uname().nodename
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(nodename="another"))
    assert find_job(folder, "far")[1] == "elsewhere"
    assert [state for _, state in list_jobs(folder)] == ["elsewhere"]
    with pytest.raises(UsageError, match=rf"'far' runs on {here}, with which this machine shares"):
        Registration(folder, "far")
    name, other = register(folder, "far", is_given=False)
    assert name == "far-2", "one whose name was not given takes another"
    other.close()
    assert {name: (folder / name).read_bytes() for name in files} == files, "its tokens are as they were"
    found = find_job(folder, "far")
    said = "\n".join(describe_entry(*found))
    assert f"far runs on {here}" in said
    assert "no more" not in said
    assert "Go on with" not in said
    with pytest.raises(UsageError, match=rf"'far' writes into .*, on {here}, and has not ended"):
        check_run_dir(folder, found[0].run_dir)
    check_run_dir(folder, "/another")
    monkeypatch.undo()
    assert find_job(folder, "far")[1] == "running"
    job.close()


def test_a_job_of_before_a_restart_of_the_machine_is_lost(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Registration(folder, "old")
    job.publish(entry("old", folder))
    os.close(job._lock)  # as the machine's end does
    monkeypatch.setattr(_registry, "_boot", lambda: "another boot")
    assert find_job(folder, "old")[1] == "lost", "the name of the machine is this one's"


def test_an_unknown_job_is_a_sentence_that_names_those_that_run(folder: Path) -> None:
    with pytest.raises(UsageError, match="no job of yours is running"):
        find_job(folder, "nobody")
    job = Registration(folder, "somebody")
    job.publish(entry("somebody", folder, started_s=time.time()))
    (folder / "broken.json").write_text("{")
    with pytest.raises(UsageError, match="running jobs of yours are somebody, on this machine"):
        find_job(folder, "nobody")
    assert [(found.name, state) for found, state in list_jobs(folder)] == [("somebody", "running")]
    job.close()


def test_a_folder_that_cannot_be_made_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"cannot be made \(Not a directory\).*unset it"):
        jobs_folder({"XDG_RUNTIME_DIR": str(tmp_path / "file")})


def test_who_knows_that_a_job_elsewhere_is_gone_ends_its_entry(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Registration(folder, "far")
    job.publish(entry("far", folder))
    run_dir = find_job(folder, "far")[0].run_dir
    assert not end_lost(folder, "far", run_dir=run_dir, ending="It is gone."), "it lives here"
    os.close(job._lock)  # with its machine, whose name and kernel another one has
    monkeypatch.setattr(_registry, "_boot", lambda: "another kernel")
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(nodename="another"))
    assert not end_lost(folder, "far", run_dir="/another", ending="It is gone.")
    assert find_job(folder, "far")[1] == "elsewhere"
    assert end_lost(folder, "far", run_dir=run_dir, ending="It is gone.")
    found, state = find_job(folder, "far")
    assert (state, found.ending, found.exit_code) == ("ended", "It is gone.", None)
    check_run_dir(folder, run_dir)
    Registration(folder, "far").close()


def test_a_start_that_is_refused_for_its_name_leaves_no_run_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty one would be the newest of that name for `--resume`."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    script, run_dir = tmp_path / "train.py", tmp_path / "runs" / "again"
    script.touch()
    living = Registration(jobs_folder(os.environ), "taken")
    spec = JobSpec(script=str(script), run_dir=run_dir, name="taken", is_name_given=True)
    with pytest.raises(UsageError, match="called 'taken'"):
        launch_elastic_job(spec, SimpleNamespace())  # type: ignore[arg-type]
    assert not run_dir.exists()
    living.close()


@pytest.fixture
def quiet_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JobSpec:
    """A job whose worker ends at once, without torch."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    script = tmp_path / "train.py"
    script.write_text("raise SystemExit(3)\n")
    return JobSpec(
        script=str(script), run_dir=tmp_path / "run", device="cpu", name="full", is_name_given=True
    )


class Notes(SilentObserver):  # type: ignore[misc]  # final for users; a test may listen
    """What the launcher had to say."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def show_note(self, text: str) -> None:
        self.notes.append(text)


def refuse(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_start_without_room_for_its_files_is_a_sentence_and_gives_the_name_back(
    quiet_job: JobSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as full:
        full.setattr(_registry, "write_private", refuse)
        with pytest.raises(UsageError, match=r"cannot be started \(No space left on device\); it needs room"):
            launch_elastic_job(quiet_job, Notes())
    Registration(jobs_folder(os.environ), "full").close()


def test_a_job_whose_ending_cannot_be_written_has_its_result(
    quiet_job: JobSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Registration, "end", refuse)
    notes = Notes()
    assert launch_elastic_job(quiet_job, notes).exit_code == 3
    assert any("how the job ended could not be written (No space left" in note for note in notes.notes)


def test_nothing_is_said_of_how_long_a_job_ran_whose_launcher_was_killed(folder: Path) -> None:
    """It would grow for ever."""
    lost, alive = entry("lost", folder), entry("alive", folder)
    shown = describe_jobs([(lost, "lost"), (alive, "running")], now_s=65.0)
    assert [line.split() for line in shown] == [
        ["lost", "its", "launcher", "was", "killed"],
        ["alive", "1:00", "running"],
    ]
