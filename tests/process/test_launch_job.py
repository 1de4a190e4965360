"""The launcher with scripts that need no engine: output, exit codes, deaths, logs."""

import json
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from holdtrue import wire
from holdtrue.errors import HoldtrueError, UsageError
from holdtrue.launch import JobResult, JobSpec, Stream, _crew, _stopping, launch, launch_job

pytestmark = pytest.mark.process
HERE = Path(__file__).parent
PREAMBLE = f"import sys; sys.path.append({str(HERE)!r})\nimport os, signal\nfrom fake_worker import *\n"


class Listener:
    """Keeps all that it is told."""

    def __init__(self) -> None:
        self.reports: list[tuple[int, wire.Report]] = []
        self.output: dict[str, bytes] = {"stdout": b"", "stderr": b""}
        self.notes: list[str] = []
        self.ticks = 0
        self.groups: list[tuple[int, int]] = []

    def show_report(self, worker: int, report: wire.Report) -> None:
        self.reports.append((worker, report))

    def show_output(self, stream: Stream, data: bytes) -> None:
        self.output[stream] += data

    def show_note(self, text: str) -> None:
        self.notes.append(text)

    def show_group(self, workers: int, generation: int) -> None:
        self.groups.append((workers, generation))

    def tick(self, now_s: float) -> None:
        self.ticks += 1


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
def run(tmp_path: Path, listener: Listener):  # type: ignore[no-untyped-def]
    def run_script(body: str, *, workers: int = 1, **changes: object) -> JobResult:
        script = tmp_path / "train.py"
        script.write_text(PREAMBLE + textwrap.dedent(body))
        spec = JobSpec(script=str(script), run_dir=tmp_path / "run", workers=workers, device="cpu", **changes)
        before = set(psutil.Process().children(recursive=True))
        result = launch_job(spec, listener)
        assert set(psutil.Process().children(recursive=True)) <= before
        return result

    return run_script


def test_a_job_ends_well_with_what_the_main_worker_told(run, listener, tmp_path) -> None:
    result = run(
        """
        join()
        for i in range(3 if worker.rank == 0 else 0):
            sender.send(wire.StepReport(step=i, epoch=0, loss=0.5, total_steps=3))
        sender.send(wire.FinishedReport(rank=worker.rank, digest=str(worker.rank) * 64, steps=3))
        """,
        workers=3,
    )
    assert (result.exit_code, result.failures, result.steps) == (0, (), 3)
    assert result.digest == "0" * 64
    assert result.loss == 0.5
    assert [end.worker for end in result.ends] == [0, 1, 2]
    joined = {rank: report for rank, report in listener.reports if isinstance(report, wire.JoinedReport)}
    assert sorted(joined) == [0, 1, 2]


def test_arguments_working_folder_and_environment_reach_the_script(run, listener) -> None:
    run(
        """
        import json
        join()
        names = ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUBLAS_WORKSPACE_CONFIG", "PYTHONHASHSEED",
                 "GLOO_SOCKET_IFNAME", "HOLDTRUE_CLI", "HOLDTRUE_SEED"]
        print(json.dumps([sys.argv[1:], os.getcwd(), [os.environ.get(name) for name in names]]))
        """,
        arguments=("--lr", "0.1", "--workers", "7"),
        threads=2,
        settings={"seed": 3},
    )
    arguments, folder, variables = json.loads(listener.output["stdout"])
    assert arguments == ["--lr", "0.1", "--workers", "7"]
    assert folder == os.getcwd()
    assert variables == ["2", "2", ":4096:8", "0", "lo", '{"seed": 3}', "3"]


def test_each_worker_has_a_log_and_the_main_ones_output_passes_through(run, listener, tmp_path) -> None:
    run(
        """
        join()
        print("out", worker.rank)
        print("err", worker.rank, file=sys.stderr)
        """,
        workers=2,
    )
    assert listener.output == {"stdout": b"out 0\n", "stderr": b"err 0\n"}
    for rank in (0, 1):
        lines = (tmp_path / "run" / "logs" / f"worker-{rank}.log").read_text().splitlines()
        assert sorted(lines) == [f"err {rank}", f"out {rank}"]


def test_output_of_any_size_and_kind_passes_unchanged(run, listener) -> None:
    run("join(); sys.stdout.buffer.write(bytes(range(256)) * 4096)")
    assert listener.output["stdout"] == bytes(range(256)) * 4096


def test_the_stores_socket_is_bound_to_loopback_and_held_by_rank_0_alone(run, listener) -> None:
    run(
        """
        import socket
        join()
        if worker.rank == 0:
            with socket.socket(fileno=worker.store_fd) as store:
                print(store.getsockname() == (worker.store_host, worker.store_port), store.getsockname()[0])
                print(store.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
        else:
            assert worker.store_fd is None
            with socket.create_connection((worker.store_host, worker.store_port), timeout=10): pass
        """,
        workers=1,
    )
    assert listener.output["stdout"] == b"True 127.0.0.1\n1\n"


def test_the_launcher_keeps_no_socket_open(run, listener) -> None:
    before = {fd.name for fd in Path("/proc/self/fd").iterdir()}
    run("join()", workers=2)
    assert {fd.name for fd in Path("/proc/self/fd").iterdir()} == before


@pytest.mark.parametrize("status", [1, 2, 3, 77])
def test_the_scripts_exit_status_passes_through(run, status: int) -> None:
    result = run(f"join(); sys.exit({status})", workers=2)
    assert result.exit_code == status


def test_a_worker_that_dies_stops_the_job_and_is_named_with_its_signal_and_log(run) -> None:
    result = run(
        """
        expect_sigterm()
        join()
        if worker.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        wait_politely()
        """,
        workers=3,
    )
    assert result.exit_code == 1
    (failure,) = result.failures
    assert (failure.workers, failure.how) == ((1,), "was killed by SIGKILL")
    assert failure.log.name == "worker-1.log"
    assert [end.was_stopped for end in result.ends] == [True, False, True]


def test_a_worker_that_ignores_sigterm_is_killed(run, listener, monkeypatch) -> None:
    monkeypatch.setattr(_stopping, "STOP_WAIT_S", 0.2)
    result = run(
        """
        expect_sigterm()
        join()
        if worker.rank == 1:
            sys.exit(3)
        wait_deafly()
        """,
        workers=2,
    )
    assert result.exit_code == 3
    assert [end.status for end in result.ends] == [-9, 3]
    assert any("worker 0 killed" in note for note in listener.notes)


def test_a_traceback_of_the_main_worker_is_shown_once_at_the_end(run, listener, tmp_path) -> None:
    result = run('join(); print("before", file=sys.stderr); raise ValueError("boom")')
    assert listener.output["stderr"] == b"before\n"
    (failure,) = result.failures
    assert failure.sentence is not None
    assert failure.sentence.startswith("Traceback (most recent call last):\n")
    assert failure.sentence.endswith("ValueError: boom")
    assert "ValueError: boom" in (tmp_path / "run" / "logs" / "worker-0.log").read_text()


def test_a_traceback_that_the_script_survives_is_shown(run, listener) -> None:
    result = run(
        """
        import traceback
        join()
        try:
            raise KeyError("survived")
        except KeyError:
            traceback.print_exc()
        """
    )
    assert result.exit_code == 0
    assert b"KeyError: 'survived'" in listener.output["stderr"]


def test_a_reported_failure_is_the_sentence_and_its_words_on_stderr_are_not_repeated(
    run, listener, monkeypatch
) -> None:
    monkeypatch.setattr(_stopping, "FAILURE_GRACE_S", 60.0)
    result = run(
        """
        join()
        sentence = "seed is -1; it must be 0 or more. Pass such a number."
        sender.send(wire.FailedReport(rank=worker.rank, kind="PlanError", sentence=sentence))
        print(sentence, file=sys.stderr)
        sys.exit(2)
        """,
        workers=2,
    )
    assert result.exit_code == 2
    (failure,) = result.failures
    assert failure.workers == (0, 1)
    assert failure.sentence == "seed is -1; it must be 0 or more. Pass such a number."
    assert listener.output["stderr"] == b""


def test_the_same_traceback_on_every_worker_is_shown_once(run, monkeypatch) -> None:
    monkeypatch.setattr(_stopping, "FAILURE_GRACE_S", 60.0)
    result = run("join(); 1 / 0", workers=3)
    assert [failure.workers for failure in result.failures] == [(0, 1, 2)]
    assert result.failures[0].log.name == "worker-0.log"


def test_an_error_of_the_users_own_code_is_shown_with_its_traceback(run) -> None:
    result = run(
        """
        join()
        sender.send(wire.FailedReport(rank=worker.rank, kind="ValueError", sentence="boom"))
        raise ValueError("boom")
        """
    )
    assert result.failures[0].sentence is not None
    assert "Traceback" in result.failures[0].sentence


def test_a_script_that_never_calls_init_is_wrong_use_and_stops_all(run) -> None:
    result = run("wait_for_the_launcher_to_go() if worker.rank else None", workers=2)
    assert result.exit_code == 2
    assert "never called holdtrue.init" in str(result.failures[0].sentence)


def test_processes_that_a_worker_leaves_behind_are_ended(run, listener, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(_crew, "LEFTOVER_WAIT_S", 0.2)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    fd = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    child = (
        f"import signal; pipe = open({str(pipe)!r}, 'w'); "
        "print('alive', file=pipe, flush=True); print('up', flush=True); signal.pause()"
    )
    run(
        f"""
        import subprocess
        join()
        left = subprocess.Popen([sys.executable, "-c", {child!r}], stdout=subprocess.PIPE)
        print(left.stdout.readline())
        """
    )
    assert os.read(fd, 64) == b"alive\n"
    os.set_blocking(fd, True)
    assert os.read(fd, 64) == b""  # blocks until the last process that holds the pipe is dead
    os.close(fd)


def test_a_line_that_is_no_report_is_told_and_ends_nothing(run, listener) -> None:
    result = run(r'os.write(worker.report_fd, b"garbage\x1b\n"); join()')
    assert result.exit_code == 0
    assert any("worker 0: a worker sent the report 'garbage\\\\x1b'" in note for note in listener.notes)


def test_a_script_that_is_missing_or_a_folder_is_refused_before_anything_starts(tmp_path, listener) -> None:
    for script, words in ((tmp_path / "no.py", "does not exist"), (tmp_path, "is a folder")):
        with pytest.raises(UsageError, match=words):
            launch_job(JobSpec(script=str(script), run_dir=tmp_path / "run"), listener)
    assert not (tmp_path / "run").exists()


def test_no_process_survives_an_observer_that_fails(tmp_path) -> None:
    class Broken(Listener):
        def show_report(self, worker: int, report: wire.Report) -> None:
            raise BrokenPipeError

    script = tmp_path / "train.py"
    script.write_text(PREAMBLE + "join(); wait_for_the_launcher_to_go()")
    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(BrokenPipeError):
        launch_job(JobSpec(script=str(script), run_dir=tmp_path / "run", workers=2), Broken())
    assert set(psutil.Process().children(recursive=True)) <= before


def test_launch_returns_the_main_workers_value_and_keeps_its_closure(tmp_path, capfd) -> None:
    factor, folder = 3, str(HERE)

    def main() -> dict[str, int]:
        import sys

        sys.path.append(folder)
        from fake_worker import join, worker

        join()
        print("hello")
        return {"rank": worker.rank, "world_size": worker.world_size, "factor": factor}

    value = launch(main, workers=2, run_dir=tmp_path / "run")
    assert value == {"rank": 0, "world_size": 2, "factor": 3}
    assert capfd.readouterr().out == "hello\n"


def test_launch_raises_the_workers_error(tmp_path) -> None:
    def fails() -> None:
        raise ValueError("boom")

    def never_joins() -> None:
        pass

    with pytest.raises(HoldtrueError, match="ValueError: boom"):
        launch(fails, run_dir=tmp_path / "a")
    with pytest.raises(UsageError, match="never called"):
        launch(never_joins, run_dir=tmp_path / "b")
    with pytest.raises(UsageError, match="cannot be sent to the workers"):
        launch(lambda: socket.socketpair() and lock, run_dir=tmp_path / "c")


lock = sys.stdout


def test_the_function_can_be_called_by_the_packages_name() -> None:
    program = "import holdtrue.launch as package, holdtrue; assert callable(package); assert callable(holdtrue.launch)"
    subprocess.run([sys.executable, "-c", program], check=True)
