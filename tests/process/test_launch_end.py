"""How a job ends from outside: Ctrl-C once and twice, SIGTERM, the launcher's own death."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.process
HERE = Path(__file__).parent
PREAMBLE = f"import sys; sys.path.append({str(HERE)!r})\nimport os, signal\nfrom fake_worker import *\n"
READY = 'expect_sigterm()\njoin()\nsay(f"ready {worker.worker} {os.getpid()}")\n'
POLITE = READY + "wait_politely()"
DEAF = READY + "wait_deafly()"
BOUND_S = 30
ORPHAN_WAIT_S = 1.0
"""What the guard waits in these tests, after the launcher's death."""


class Job:
    """A `holdtrue run` of two workers in a process of its own."""

    def __init__(self, folder: Path, body: str) -> None:
        (folder / "train.py").write_text(PREAMBLE + textwrap.dedent(body))
        command = (
            "import sys; from holdtrue.cli import main; from holdtrue.launch import JobSpec; "
            f"JobSpec.__init__.__kwdefaults__['orphan_wait_s'] = {ORPHAN_WAIT_S}; main(sys.argv[1:])"
        )
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                command,
                "run",
                "--workers",
                "2",
                "--device",
                "cpu",
                "train.py",
                "--lr",
                "0.1",
            ],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.workers: list[psutil.Process] = []
        self.read: list[str] = []

    def wait_for(self, word: str, *, times: int = 1) -> list[str]:
        """Read stderr until `word` was on so many lines; those lines."""
        assert self.process.stderr is not None
        found: list[str] = []
        while len(found) < times:
            line = self.process.stderr.readline()
            assert line, f"ended before {word!r}: {self.read}"
            self.read.append(line)
            if word in line:
                found.append(line)
        return found

    def wait_until_ready(self) -> None:
        """Until both workers joined."""
        self.workers = [psutil.Process(int(line.split()[-1])) for line in self.wait_for("ready", times=2)]

    def end(self) -> tuple[int, str]:
        """Exit status and the rest of stderr, once it has ended."""
        _, rest = self.process.communicate(timeout=BOUND_S)
        return self.process.returncode, "".join(self.read) + rest

    def living(self) -> list[psutil.Process]:
        """Workers that still run after a bounded wait; an orphan that nobody reaps is dead too."""
        _, left = psutil.wait_procs(self.workers, timeout=0)
        for worker in left:
            fd = _pidfd(worker.pid)
            if fd is not None:
                _wait_readable(fd)
        return [worker for worker in left if worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE]


def _pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def _wait_readable(fd: int) -> None:
    import select

    select.select([fd], [], [], BOUND_S)
    os.close(fd)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[object]:
    jobs: list[Job] = []

    def start_job(body: str) -> Job:
        jobs.append(Job(tmp_path, body))
        jobs[-1].wait_until_ready()
        return jobs[-1]

    yield start_job
    for job in jobs:
        job.process.kill()
        job.process.communicate(timeout=BOUND_S)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_interrupt_stops_the_workers_politely_and_says_how_to_go_on(start, number) -> None:
    job = start(POLITE)
    job.process.send_signal(number)
    status, text = job.end()
    assert status == 130
    assert "the last checkpoint is step 41" in text
    assert "holdtrue run --resume --run-dir runs/train-" in text
    assert "--workers 2 --device cpu train.py --lr 0.1" in text
    assert "error" not in text
    assert job.living() == []


def test_all_that_listens_is_on_loopback(start) -> None:
    """Of the launcher, its controller and its guard, and each worker, whose store's socket it inherited."""
    job = start(POLITE)
    launcher = psutil.Process(job.process.pid)
    processes = [launcher, *launcher.children(recursive=True)]
    listening = {
        process.pid: {c.laddr.ip for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN}
        for process in processes
    }
    assert len(processes) == 5
    assert set().union(*listening.values()) == {"127.0.0.1"}
    assert all(listening[worker.pid] for worker in job.workers)


def test_a_second_interrupt_kills_workers_that_do_not_listen(start) -> None:
    job = start(DEAF)
    job.process.send_signal(signal.SIGINT)
    job.wait_for("heard and ignored")
    assert job.process.poll() is None
    job.process.send_signal(signal.SIGINT)
    status, text = job.end()
    assert status == 130
    assert "killed: interrupted twice" in text
    assert job.living() == []


@pytest.mark.parametrize("body", [POLITE, DEAF], ids=["polite", "deaf"])
def test_no_worker_survives_the_launchers_kill_9(start, body) -> None:
    job = start(body)
    assert len(job.workers) == 2
    job.process.kill()
    job.process.wait(BOUND_S)
    assert job.living() == []


def test_a_worker_that_listens_to_nothing_does_not_survive_either(start) -> None:
    """It closed the life pipe and blocks every signal: what is left is the guard."""
    job = start(
        """
        join(); say(f"ready {worker.worker} {os.getpid()}")
        os.close(life_fd)
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while True: signal.sigwait([signal.SIGUSR1])
        """
    )
    killed_s = time.monotonic()
    job.process.kill()
    job.process.wait(BOUND_S)
    assert job.living() == []
    assert time.monotonic() - killed_s > ORPHAN_WAIT_S, "the guard must leave time for a checkpoint"


def test_what_a_worker_started_does_not_survive_either(start) -> None:
    job = start(
        """
        import subprocess
        subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
        expect_sigterm(); join(); say(f"ready {worker.worker} {os.getpid()}")
        wait_for_the_launcher_to_go()
        """
    )
    children = [child for worker in job.workers for child in worker.children()]
    assert len(children) == 2
    job.process.kill()
    job.process.wait(BOUND_S)
    assert job.living() == []
    psutil.wait_procs(children, timeout=BOUND_S)
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)


def test_the_launchers_kill_9_ends_its_controller_and_guard(start) -> None:
    job = start(POLITE)
    others = [
        p for p in psutil.Process(job.process.pid).children() if p.pid not in {w.pid for w in job.workers}
    ]
    assert len(others) == 2
    job.process.kill()
    job.process.wait(BOUND_S)
    psutil.wait_procs(others, timeout=BOUND_S)
    assert not any(other.is_running() and other.status() != psutil.STATUS_ZOMBIE for other in others)


def test_no_print_of_a_worker_meets_a_broken_pipe_when_the_launcher_dies(start, tmp_path) -> None:
    """It prints all the time; after the launcher's death its words go on in its log."""
    job = start(
        """
        join(); say(f"ready {worker.worker} {os.getpid()}")
        threading.Thread(target=watch_launcher, daemon=True).start()
        for i in range(10**9):
            print(f"{i} {'x' * 2000}")
        """
    )
    job.process.kill()
    job.process.wait(BOUND_S)
    assert job.living() == []
    (folder,) = (tmp_path / "runs").iterdir()
    for number in (0, 1):
        text = (folder / "logs" / f"worker-{number}.log").read_text()
        assert "BrokenPipeError" not in text
        assert "the launcher is gone" in text
