"""kill -9 of everything, Ctrl-C, damage: a resumed run has the bits of an undisturbed one."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from commands import HOLDTRUE, LIMIT_S, Ended, begin, call, finish, holdtrue, write_script

import resumable
from holdtrue.record import RunRecord, read_run
from holdtrue.testing import run_in_process

pytestmark = pytest.mark.process
SCRIPT = str(Path(resumable.__file__))
EVERY_STEP = {"HOLDTRUE_DIGEST_EVERY": "1", "HOLDTRUE_CHECKPOINT_EVERY": "3"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[RunRecord, str]]:
    """Record and final digest of each script, undisturbed on one worker."""
    found = {}
    for name in ("everything", "streaming"):
        folder = tmp_path_factory.mktemp("whole") / name
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HOLDTRUE_DIGEST_EVERY", "1")
            (result,) = run_in_process(lambda name=name, folder=folder: resumable.SCRIPTS[name](str(folder)))
        result["run"].close()
        found[name] = read_run(folder), result["digest"]
    return found


def start(folder: Path, name: str, workers: str | None, env: dict[str, str]) -> Ended:
    """The script alone for None, else under `holdtrue run` with this mapping."""
    own = EVERY_STEP | {"HOLDTRUE_RUN_DIR": str(folder / "r")} | env
    if workers is None:
        return call([sys.executable, SCRIPT, name], cwd=folder, env=own)
    return holdtrue("run", "--device", "cpu", "--mapping", workers, SCRIPT, name, cwd=folder, env=own)


def check_same(folder: Path, whole: tuple[RunRecord, str], ended: Ended) -> None:
    record, digest = whole
    found = read_run(folder / "r")
    assert ended.status == 0, ended.text
    assert found.conflicts == ()
    assert list(found.steps) == list(record.steps)
    assert [s.loss for s in found.steps.values()] == [s.loss for s in record.steps.values()]
    for step, digests in record.digests.items():
        assert found.digests[step].entries == digests.entries, f"after step {step}"
    assert ended.out == f"digest {digest}\n"


@pytest.mark.parametrize(
    ("name", "at", "before", "after"),
    [
        ("everything", "pass:7", None, "0-1/2-4"),
        pytest.param("everything", "updated:10", "4,0/1,3,2", None, marks=pytest.mark.slow),
        pytest.param("everything", "between:1", "0-1/2-4", "0/1-2/3-4", marks=pytest.mark.slow),
        ("streaming", "updated:7", "0/1-2", "2/0,1"),
    ],
)
def test_a_run_that_was_killed_with_everything_goes_on_elsewhere(
    tmp_path, whole, name, at, before, after
) -> None:
    fired = tmp_path / "killed"
    start(tmp_path, name, before, {"KILL_AT": at, "KILLED": str(fired)})
    assert fired.read_text() == at
    deadline_s = time.monotonic() + LIMIT_S
    while _is_held(tmp_path / "r") and time.monotonic() < deadline_s:
        time.sleep(0.05)  # the kernel ends the workers of a killed launcher
    cut = read_run(tmp_path / "r")
    assert 0 < len(cut.steps) < len(whole[name][0].steps)
    check_same(tmp_path, whole[name], start(tmp_path, name, after, {"HOLDTRUE_RESUME": "1"}))


def _is_held(folder: Path) -> bool:
    import fcntl

    with (folder / "lock").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_it_is_used(tmp_path, whole) -> None:
    fired = tmp_path / "killed"
    start(tmp_path, "everything", None, {"KILL_AT": "pass:7", "KILLED": str(fired)})
    assert fired.exists()
    newest = sorted((tmp_path / "r" / "checkpoints").iterdir())[-1]
    assert newest.name == "step-00000006"
    weights = newest / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    ended = start(tmp_path, "everything", "0-1/2-4", {"HOLDTRUE_RESUME": "1"})
    said = " ".join(ended.err.split())
    assert "checkpoint step-00000006 is damaged: model.safetensors" in said
    assert "using step-00000004" in said, said
    check_same(tmp_path, whole["everything"], ended)


WAIT_FOR_SIGNAL = """
import os, signal
signalled, wakeup = os.pipe()
os.set_blocking(wakeup, False)
signal.set_wakeup_fd(wakeup)
def interruptible():
    os.read(signalled, 1)
"""

SLOW = """
run, model = start(run_dir="r")
for step in run.steps(torch.utils.data.DataLoader(examples(), num_workers=LOADERS), epochs=4, shuffle=False):
    take_step(step, model)
    if step.index == 3:
        print("here", flush=True)
        if "HOLDTRUE_RESUME" not in os.environ or os.environ["HOLDTRUE_RESUME"] == "0":
            time.sleep(60)  # the signal ends it
run.print("digest", run.digest())
"""


@pytest.mark.parametrize(
    ("command", "loaders"),
    [
        pytest.param([sys.executable, "train.py"], 2, marks=pytest.mark.slow),
        ([HOLDTRUE, "run", "--device", "cpu", "--workers", "2", "--run-dir", "r", "train.py"], 0),
    ],
    ids=["alone", "two workers"],
)
def test_ctrl_c_ends_at_the_boundary_with_130_and_a_checkpoint_to_go_on_from(
    tmp_path, command, loaders
) -> None:
    write_script(tmp_path, SLOW.replace("LOADERS", str(loaders)).replace("time.sleep(60)", "interruptible()"))
    script = tmp_path / "train.py"
    # A byte for each signal, also for one that comes before the wait begins.
    script.write_text(WAIT_FOR_SIGNAL + script.read_text())
    env = {"HOLDTRUE_DIGEST_EVERY": "1", "HOLDTRUE_CHECKPOINT_EVERY": "100"}
    started_s = time.monotonic()
    process = begin(command, cwd=tmp_path, env=env)
    guard = threading.Timer(LIMIT_S, lambda: os.killpg(process.pid, signal.SIGKILL))
    guard.start()
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of the foreground
    ended = finish(process, started_s)
    guard.cancel()
    assert ended.status == 130, ended.text
    assert "Traceback" not in ended.text
    said = " ".join(ended.err.split())
    assert "--resume" in said
    cut = read_run(tmp_path / "r")
    assert list(cut.steps) == list(
        range(5)
    )  # the signal came in step 3; the workers agree in the reduce of step 4
    assert [p.name for p in (tmp_path / "r" / "checkpoints").iterdir()] == ["step-00000005"]
    assert [e.kind for e in cut.events][-1] == "interrupted"
    resumed = call(command, cwd=tmp_path, env=env | {"HOLDTRUE_RESUME": "1"})
    assert resumed.status == 0, resumed.text
    whole = call(
        [sys.executable, "train.py"],
        cwd=tmp_path,
        env=env | {"HOLDTRUE_RUN_DIR": "w", "HOLDTRUE_RESUME": "1"},
    )
    assert whole.status == 0, whole.text
    assert whole.out.splitlines()[-1] == resumed.out.splitlines()[-1]
    assert {s: d.digest for s, d in read_run(tmp_path / "r").digests.items()} == {
        s: d.digest for s, d in read_run(tmp_path / "w").digests.items()
    }
