"""The run directory: what is written is read back, whatever happened in between."""

import json
import math
import os
import resource
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from holdtrue.errors import PlanError, UsageError
from holdtrue.plan import Plan
from holdtrue.record import Conflict, DigestRecord, RunDirectory, read_run

PLAN = Plan(virtual_nodes=4, global_batch_size=8, buffers=(("running_*", "mean"),))
ENVIRONMENT = {"torch": {"version": "2.13.0", "threads": 1}, "device": "cpu"}


def open_run(path: Path, *, resume: bool = False, plan: Plan = PLAN, **environment: str) -> RunDirectory:
    return RunDirectory.create(
        path,
        plan=plan,
        environment=ENVIRONMENT | environment,
        generation=3,
        resume=resume,
        now=lambda: 1000.5,
    )


def write_steps(directory: RunDirectory, *losses: float | None, start: int = 0) -> None:
    for step, loss in enumerate(losses, start=start):
        directory.append_step(step=step, epoch=0, loss=loss, seconds=0.25)


def test_what_a_run_writes_is_read_back(tmp_path: Path) -> None:
    digests = DigestRecord(
        step=-1, digest="ab" * 32, entries={"weights/a": "01" * 8}, losses=(0.1, None), inputs=(None, "x")
    )
    with open_run(tmp_path / "new" / "run") as directory:
        directory.append_step(step=0, epoch=2, loss=0.1 + 0.2, seconds=0.5, digest="cd" * 32)
        directory.append_digests(digests)
        directory.append_event("checkpoint", step=0, reason="It was due.", details={"path": "p"})
        directory.append_metrics(step=0, values={"accuracy": 0.75, "worst": math.inf})
    run = read_run(tmp_path / "new" / "run")
    assert (run.plan, run.environment) == (PLAN, ENVIRONMENT)
    step = run.steps[0]
    assert (step.epoch, step.loss, step.seconds, step.generation) == (2, 0.1 + 0.2, 0.5, 3)
    assert step.digest == "cd" * 32
    assert run.digests == {-1: digests}
    assert [event.kind for event in run.events] == ["started", "checkpoint"]
    assert run.events[1].reason == "It was due."
    assert run.events[1].details == {"path": "p"}
    assert (run.events[1].time_s, run.events[1].generation) == (1000.5, 3)
    assert run.metrics[0].values == {"accuracy": 0.75, "worst": "inf"}
    assert not run.conflicts


def test_losses_that_are_not_finite_are_valid_json_and_come_back(tmp_path: Path) -> None:
    with open_run(tmp_path) as directory:
        write_steps(directory, math.nan, -math.inf, None)
        directory.append_digests(DigestRecord(step=0, digest="d", entries={}, losses=(math.nan, 1.0)))

    def refuse(text: str) -> float:
        raise AssertionError(f"{text} is not JSON")

    for line in (tmp_path / "steps.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=refuse)
    run = read_run(tmp_path)
    assert [repr(run.steps[i].loss) for i in range(3)] == ["nan", "-inf", "None"]
    assert repr(run.digests[0].losses) == "(nan, 1.0)"


def test_a_folder_that_holds_a_run_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    with open_run(tmp_path) as directory:
        write_steps(directory, 0.5)
    before = (tmp_path / "steps.jsonl").read_bytes()
    with pytest.raises(UsageError, match=r"already holds a run.*another --run-dir, or --resume"):
        open_run(tmp_path)
    assert (tmp_path / "steps.jsonl").read_bytes() == before
    open_run(tmp_path, resume=True).close()  # the refusal gave the lock back


@pytest.mark.parametrize("name", ["steps.jsonl", "events.jsonl", "checkpoints"])
def test_a_damaged_run_without_plan_is_not_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir() if name == "checkpoints" else (tmp_path / name).write_text("{}\n")
    with pytest.raises(UsageError, match="already holds a run"):
        open_run(tmp_path)
    with pytest.raises(UsageError, match=r"plan\.json is missing"):
        open_run(tmp_path, resume=True)


def test_logs_of_the_launcher_do_not_make_a_folder_a_run(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "environment.json").write_text("{")  # a run that died before its plan was written
    open_run(tmp_path).close()
    assert read_run(tmp_path).environment == ENVIRONMENT


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        open_run(tmp_path / "file")


def test_resuming_where_there_is_no_run_starts_afresh_and_says_so(tmp_path: Path) -> None:
    with open_run(tmp_path / "x", resume=True) as directory:
        assert not directory.resumed
        assert "holds no run to resume; the run starts afresh" in directory.notes[0]
    assert read_run(tmp_path / "x").events[0].reason == directory.notes[0]


def test_resuming_with_another_plan_names_each_field_with_both_values(tmp_path: Path) -> None:
    open_run(tmp_path).close()
    other = Plan(virtual_nodes=2, global_batch_size=8, seed=7, buffers=PLAN.buffers)
    with pytest.raises(PlanError, match=r"virtual_nodes is 2 here and 4 there; seed is 7 here and 0 there\."):
        open_run(tmp_path, resume=True, plan=other)


def test_resuming_in_another_environment_is_noted_with_the_differences(tmp_path: Path) -> None:
    open_run(tmp_path).close()
    with open_run(tmp_path, resume=True, device="cuda:0") as directory:
        assert directory.resumed
        assert directory.notes == (
            "The environment is not that of the run's start: device: cpu against cuda:0.",
        )
    run = read_run(tmp_path)
    assert run.environment == ENVIRONMENT
    assert run.events[-1].kind == "resumed"
    assert run.events[-1].details["environment"] == {"device": ["cpu", "cuda:0"]}


def test_a_torn_last_line_is_skipped_by_readers_and_cut_off_at_every_length_on_resume(tmp_path: Path) -> None:
    with open_run(tmp_path) as directory:
        write_steps(directory, 0.5, 0.25)
    path = tmp_path / "steps.jsonl"
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for length in range(first, len(whole)):
        path.write_bytes(whole[:length])
        assert list(read_run(tmp_path).steps) == [0]
        with open_run(tmp_path, resume=True) as directory:
            assert len(directory.notes) == (length > first)
            assert path.read_bytes() == whole[:first]
            write_steps(directory, 0.25, start=1)
        assert [read_run(tmp_path).steps[i].loss for i in (0, 1)] == [0.5, 0.25]


def test_a_torn_first_line_longer_than_a_block_is_cut_off_whole(tmp_path: Path) -> None:
    open_run(tmp_path).close()
    (tmp_path / "digests.jsonl").write_bytes(b"x" * 200_000)
    with open_run(tmp_path, resume=True) as directory:
        assert directory.notes == ("An unfinished last line of 200000 bytes was cut off digests.jsonl.",)
    assert (tmp_path / "digests.jsonl").read_bytes() == b""


def test_a_damaged_line_is_refused_with_file_and_number(tmp_path: Path) -> None:
    with open_run(tmp_path) as directory:
        write_steps(directory, 0.5, 0.25, 0.125)
    path = tmp_path / "steps.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    for bad, what in (
        (b'{"step":1,\n', "is not a JSON object"),
        (b"[1]\n", "is not a JSON object"),
        (b'{"step":1}\n', "has no 'loss'"),
        (lines[1].replace(b"0.25,", b'"much",', 1), "has a value of the wrong kind"),
    ):
        path.write_bytes(lines[0] + bad + lines[2])
        with pytest.raises(UsageError, match=rf"steps\.jsonl line 2 {what}"):
            read_run(tmp_path)


def test_folders_and_files_that_are_no_run_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere holds no run"):
        read_run(tmp_path / "nowhere")
    open_run(tmp_path).close()
    for name, content, what in (
        ("environment.json", "[]", "environment.json holds a JSON list"),
        ("environment.json", "{", "environment.json cannot be read"),
        (
            "plan.json",
            '{"virtual_nodes": 0, "global_batch_size": 1}',
            "plan.json is not a plan: virtual_nodes is 0",
        ),
    ):
        whole = (tmp_path / name).read_text()
        (tmp_path / name).write_text(content)
        with pytest.raises(UsageError, match=what):
            read_run(tmp_path)
        (tmp_path / name).write_text(whole)


def test_a_step_written_twice_counts_once_and_unlike_results_are_conflicts(tmp_path: Path) -> None:
    with open_run(tmp_path) as directory:
        write_steps(directory, 0.5, 0.25, math.nan)
        directory.append_step(step=3, epoch=0, loss=0.5, seconds=1.0, digest="aa")
        directory.append_digests(DigestRecord(step=3, digest="aa", entries={}))
    with open_run(tmp_path, resume=True) as directory:
        write_steps(directory, 0.25, math.nan, start=1)
        directory.append_step(step=3, epoch=0, loss=0.125, seconds=1.0, digest="bb")
        directory.append_digests(DigestRecord(step=3, digest="bb", entries={}))
    run = read_run(tmp_path)
    assert list(run.steps) == [0, 1, 2, 3]
    assert (run.steps[3].loss, run.digests[3].digest) == (0.125, "bb")
    assert run.conflicts == (
        Conflict(step=3, what="loss", first="0.5", last="0.125"),
        Conflict(step=3, what="digest", first="aa", last="bb"),
    )


HOLDER = """
    import os, sys, time
    from holdtrue.plan import Plan
    from holdtrue.record import RunDirectory
    directory = RunDirectory.create(
        sys.argv[1], plan=Plan(virtual_nodes=4, global_batch_size=8, buffers=(("running_*", "mean"),)),
        environment={}, generation=0, resume=False)
    if os.fork() == 0:  # like a data loader's worker, it outlives the run
        print(os.getpid(), flush=True)
    else:
        sys.stdin.read()
    sys.stdin.read()
"""


def test_a_living_run_is_refused_with_its_pid_and_a_killed_one_is_not_though_its_child_lives(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-c", textwrap.dedent(HOLDER), str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        for resume in (False, True):
            with pytest.raises(UsageError, match=f"process id {holder.pid} is alive in"):
                open_run(tmp_path, resume=resume)
        holder.kill()
        holder.wait()
        os.kill(child, 0)  # alive
        open_run(tmp_path, resume=True).close()
        holder.stdin.close()


@contextmanager
def file_size_limit(size_bytes: int) -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_line_that_the_disk_takes_in_part_leaves_the_file_valid_and_later_lines_go_on(
    tmp_path: Path,
) -> None:
    with open_run(tmp_path) as directory:
        write_steps(directory, 0.5)
        size = (tmp_path / "steps.jsonl").stat().st_size
        with file_size_limit(size + 10), pytest.raises(OSError, match="10 of"):
            write_steps(directory, 0.25, start=1)
        assert (tmp_path / "steps.jsonl").stat().st_size == size
        with file_size_limit(size), pytest.raises(OSError, match="large"):
            write_steps(directory, 0.25, start=1)
        write_steps(directory, 0.25, start=1)
    assert list(read_run(tmp_path).steps) == [0, 1]


def test_a_full_disk_is_an_oserror_of_each_append(tmp_path: Path) -> None:
    with open_run(tmp_path) as directory:
        for name in ("steps", "digests", "metrics"):
            (tmp_path / f"{name}.jsonl").symlink_to("/dev/full")
        appends = (
            lambda: directory.append_step(step=0, epoch=0, loss=1.0, seconds=1.0),
            lambda: directory.append_digests(DigestRecord(step=0, digest="", entries={})),
            lambda: directory.append_metrics(step=0, values={}),
        )
        for append in appends:
            with pytest.raises(OSError, match="No space left"):
                append()


def test_record_needs_no_torch() -> None:
    code = "import sys, holdtrue.record; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
