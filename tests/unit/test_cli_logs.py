"""`holdtrue logs` and `holdtrue events`: whole lines, in order, while they are written and after."""

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdtrue.cli import main
from holdtrue.cli._tail import Tail, follow
from holdtrue.launch import JobEntry
from holdtrue.launch._registry import Registration, jobs_folder


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registration]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    job = Registration(jobs_folder({"XDG_RUNTIME_DIR": str(tmp_path)}), "digits")
    (tmp_path / "run" / "logs").mkdir(parents=True)
    job.publish(
        JobEntry(
            name="digits",
            url="http://127.0.0.1:1",
            pid=1,
            run_dir=str(tmp_path / "run"),
            token_file=str(job.token_file),
            join_file=str(job.join_file),
            script="train.py",
            started_s=1.0,
        )
    )
    yield job
    job.close()


def show(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit_:
        main(words)
    out, err = capsys.readouterr()
    assert isinstance(exit_.value.code, int)
    return exit_.value.code, out, err


def test_a_line_is_read_once_and_only_when_it_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "a"
    tail = Tail(file)
    assert tail.take() == []
    with file.open("a") as out:
        for text, lines in (("one\ntw", ["one"]), ("o\n", ["two"]), ("", []), ("three", [])):
            out.write(text)
            out.flush()
            assert tail.take() == lines
    assert tail.take_rest() == ["three"]
    assert tail.take_rest() == []


def test_following_ends_with_the_job_and_misses_nothing_that_was_written_before(tmp_path: Path) -> None:
    goes_on = threading.Event()
    (tmp_path / "a").write_text("1\n")

    def last_words() -> bool:
        if not goes_on.is_set():
            goes_on.set()
            return True
        (tmp_path / "b").write_text("2\nunfinished")
        return False

    found = [
        (path.name, line) for path, line in follow(lambda: sorted(tmp_path.iterdir()), goes_on=last_words)
    ]
    assert found == [("a", "1"), ("b", "2"), ("b", "unfinished")]


def test_logs_of_all_workers_or_of_one(job, tmp_path, capsys) -> None:
    for number in (0, 2, 10):
        (tmp_path / "run" / "logs" / f"worker-{number}.log").write_text(f"hello {number}\nred\x1b[31m\n")
    status, out, _ = show(capsys, "logs", "digits")
    assert status == 0
    assert out.splitlines()[:3] == ["0 | hello 0", "0 | red\\x1b[31m", "2 | hello 2"]
    assert show(capsys, "logs", "digits", "--worker", "10")[1] == "hello 10\nred\\x1b[31m\n"
    status, _, err = show(capsys, "logs", "digits", "--worker", "1")
    assert status == 2
    assert "worker 1 of 'digits' has no log" in err
    assert "are 0, 2, 10" in err


def test_events_are_lines_for_people_and_following_ends_when_the_job_does(job, tmp_path, capsys) -> None:
    event = {
        "kind": "resize",
        "step": 7,
        "reason": "A user asked.",
        "details": {},
        "time_s": 0,
        "generation": 2,
    }
    (tmp_path / "run" / "events.jsonl").write_text(json.dumps(event) + "\n" + "{torn")
    job.end(exit_code=0, ending="It finished.", ended_s=2.0)
    for words in (("events", "digits"), ("events", "digits", "--follow")):
        status, out, _ = show(capsys, *words)
        assert status == 0
        (line,) = out.splitlines()
        assert line.split(maxsplit=1)[1] == "step 7      generation 2   resize      A user asked."


def test_a_job_that_is_not_there_is_wrong_use(job, capsys) -> None:
    for command in ("logs", "events"):
        status, _, err = show(capsys, command, "nobody")
        assert status == 2
        assert "there is no job 'nobody'; running jobs of yours are digits" in err


@pytest.mark.usefixtures("job")
@pytest.mark.parametrize("command", ["logs", "events"])
def test_a_run_directory_that_is_gone_is_a_sentence(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It showed nothing, with exit status 0."""
    shutil.rmtree(tmp_path / "run")
    code, out, err = show(capsys, command, "digits")
    assert (code, out) == (2, "")
    assert f"the run directory of 'digits', {tmp_path / 'run'}, is not there any more" in err
