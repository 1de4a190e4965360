"""What a host keeps of workers that have ended: nothing, however many there were."""

import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from holdtrue import wire
from holdtrue.launch import JobSpec, Stream, _leftovers
from holdtrue.launch._at import AtPage
from holdtrue.launch._crew import Crew
from holdtrue.launch._watchman import Guard
from holdtrue.launch._worker import start_worker
from holdtrue.wire import WorkerEnvironment

pytestmark = pytest.mark.process
WAIT_S = 20.0


class Quiet:
    """Keeps the output of the main worker."""

    def __init__(self) -> None:
        self.output = b""

    def show_report(self, worker: int, report: wire.Report) -> None: ...
    def show_note(self, text: str) -> None: ...
    def show_group(self, workers: int, generation: int) -> None: ...
    def tick(self, now_s: float) -> None: ...
    def show_output(self, stream: Stream, data: bytes) -> None:
        self.output += data


class Home:
    """A crew with a guard, and what a test asks of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.observer = Quiet()
        self.crew = Crew(self.observer, lambda worker, end: self.on_end())
        self.guard = Guard(wait_s=1.0)
        self.read, self.write = os.pipe()

    def on_end(self) -> None:
        """Called when a worker's end is seen, before anything is done about it."""

    def start(self, number: int) -> None:
        script = str(self.folder / "train.py")
        environment = WorkerEnvironment(
            worker=number,
            rank=number,
            world_size=number + 1,
            store_host="127.0.0.1",
            store_port=1,
            life_fd=self.read,
            job="crew",
            device="cpu",
        )
        worker = start_worker(
            JobSpec(script=script, run_dir=self.folder, workers=1, device="cpu"),
            environment,
            log=self.folder / f"worker-{number}.log",
            base_env=os.environ | {"PYTHONNOUSERSITE": "1"},
            guard=self.guard,
            at=AtPage(),
        )
        self.crew.add(worker)

    def turn_until(self, is_so: Callable[[], bool], what: str) -> None:
        until_s = time.monotonic() + WAIT_S
        while not is_so():
            assert time.monotonic() < until_s, f"{what} did not come in {WAIT_S} s"
            self.crew.turn(0.05)

    def run(self, numbers: range) -> None:
        """Start these workers, and wait until nothing is kept of them."""
        for number in numbers:
            self.start(number)
        self.turn_until(lambda: all(self.crew.workers[n].is_reaped for n in numbers), "the end of all")

    def kept(self) -> tuple[int, int, int]:
        """Descriptors of this process, its zombies, descriptors of the guard."""
        guard = self.guard._process.pid
        zombies = [p for p in psutil.Process().children() if p.status() == psutil.STATUS_ZOMBIE]
        return len(os.listdir("/proc/self/fd")), len(zombies), len(os.listdir(f"/proc/{guard}/fd"))

    def close(self) -> None:
        self.crew.close()
        self.guard.close()
        os.close(self.read)
        os.close(self.write)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path)
    yield home
    home.close()


def test_a_host_keeps_nothing_of_the_workers_that_have_ended(home: Home) -> None:
    (home.folder / "train.py").write_text("print('last words')")
    home.run(range(3))
    kept = home.kept()
    home.run(range(3, 30))
    # The guard hears of an end a moment later: after three it may still have more than after all.
    home.turn_until(
        lambda: all(now <= then for now, then in zip(home.kept(), kept, strict=True)),
        f"{kept} descriptors and zombies (there are {home.kept()})",
    )
    assert len(home.crew.ends) == 30
    assert home.observer.output == b"last words\n"
    assert (home.folder / "worker-29.log").read_text() == "last words\n"


SPAWN = """
import subprocess, sys
child = subprocess.Popen(["sleep", "1000"], start_new_session={escapes})
open("child", "w").write(str(child.pid))
"""


@pytest.mark.parametrize("escapes", [False, True])
def test_what_an_ended_worker_started_is_killed_and_holds_nothing_up(
    home: Home, escapes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child has the worker's output pipes; one that left the session lives on, and its pipes are closed all the same."""
    monkeypatch.setattr(_leftovers, "LEFTOVER_WAIT_S", 0.1)
    monkeypatch.setattr(_leftovers, "OUTPUT_WAIT_S", 0.1)
    monkeypatch.chdir(home.folder)
    (home.folder / "train.py").write_text(SPAWN.format(escapes=escapes))
    children: list[int] = []
    monkeypatch.setattr(
        home, "on_end", lambda: children.append(os.pidfd_open(int((home.folder / "child").read_text())))
    )
    before = home.kept()[0]
    home.run(range(1))
    (child,) = children
    try:
        assert home.kept()[0] == before + len(children)
        has_ended = bool(select.select([child], [], [], 0.0 if escapes else WAIT_S)[0])
        assert has_ended != escapes
    finally:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(child, signal.SIGKILL)
        os.close(child)


def start_two(home: Home, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Start the main worker of a script and another one, which waits for `let_the_other_end`."""
    monkeypatch.chdir(home.folder)
    monkeypatch.setattr(home, "on_end", lambda: home.crew.hand_over())
    os.mkfifo("go")
    (home.folder / "train.py").write_text(script)
    home.start(0)
    home.start(1)


def let_the_other_end(home: Home) -> None:
    """Let the other worker go on, and wait for its end."""
    go = os.open("go", os.O_RDWR)  # blocks nobody, and what is written waits for its reader
    os.write(go, b"!")
    home.turn_until(lambda: home.crew.workers[1].is_reaped, "the end of the other")
    os.close(go)


LATE = f"""
import sys; sys.path.append({str(Path(__file__).parent)!r})
from fake_worker import *
sender.send(wire.JoinedReport(rank=worker.worker, pid=os.getpid()))
if worker.worker:
    os.read(os.open("go", os.O_RDONLY), 1)
sender.send(wire.FinishedReport(rank=worker.worker, digest="ab" * 32, steps=1))
print("accuracy 0.9", flush=True)
"""


def test_a_worker_that_ends_after_the_main_one_prints_nothing_again(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_two(home, monkeypatch, LATE)
    home.turn_until(lambda: home.crew.workers[0].is_reaped, "the end of the main worker")
    let_the_other_end(home)
    assert home.observer.output == b"accuracy 0.9\n"


LAST_WORDS = f"""
import sys; sys.path.append({str(Path(__file__).parent)!r})
from fake_worker import *
if worker.worker:
    os.read(os.open("go", os.O_RDONLY), 1)
else:
    print("last words", flush=True)
"""


def test_what_the_main_worker_printed_last_is_shown_though_its_end_is_heard_of_first(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_two(home, monkeypatch, LAST_WORDS)
    main = home.crew.workers[0]
    os.waitid(os.P_PID, main.process.pid, os.WEXITED | os.WNOWAIT)
    home.crew._see_end(main, home.crew._pidfds[0])  # as where the selector names it before the pipe
    assert home.observer.output == b"last words\n"
    assert home.crew._main == 1
    let_the_other_end(home)
