"""`holdtrue verify` and `compare` on scripts that write their records without an engine."""

import hashlib
from pathlib import Path

import pytest

from holdtrue.cli import main

pytestmark = pytest.mark.process
HERE = Path(__file__).parent

# A run whose state after a step is a text. Each mode of sys.argv[1] breaks one thing.
SCRIPT = f"""
import sys; sys.path.append({str(HERE)!r})
import hashlib, os
from fake_worker import *
from holdtrue.plan import Plan
from holdtrue.record import DigestRecord, RunDirectory
from holdtrue.wire import decode_cli_settings

mode = sys.argv[1]
settings = decode_cli_settings(os.environ)
assert (settings["digest_every"], settings["trace"], settings["checkpoint_every"]) == (1, True, 0)
join()
if mode == "crash" and worker.world_size > 1:
    raise ValueError("boom")
if mode == "wrong":
    sender.send(wire.FailedReport(rank=0, kind="PlanError", sentence="it is wrong; the rule. The way out."))
    sys.exit(2)
steps = {{"nothing": 0, "few": 3}}.get(mode, settings["max_steps"])
if mode == "short" and worker.world_size > 1:
    steps -= 1
unlike = {{"mapping": worker.world_size, "order": worker.mapping, "repeat": os.getpid()}}.get(mode, 0)

def text(step):
    if mode == "frozen":
        return "always the same"
    return f"{{step}} {{unlike if step >= 2 else 0}}"

if worker.rank == 0:
    plan = Plan(virtual_nodes=7, global_batch_size=14)
    with RunDirectory.create(
        settings["run_dir"], plan=plan, environment={{}}, generation=0, resume=False
    ) as directory:
        for step in range(-1, steps):
            sha = hashlib.sha256(text(step).encode()).hexdigest()
            if step >= 0:
                directory.append_step(step=step, epoch=0, loss=1.0 / (step + 1), seconds=0.0, digest=sha)
                sender.send(wire.StepReport(step=step, epoch=0, loss=1.0, total_steps=steps))
            if mode != "undigested" or step != 1:
                entries = {{"weights/a": sha[:16], "position/step": f"{{step:016x}}"}}
                digests = DigestRecord(
                    step=step, digest=sha, entries=entries, losses=(1.0,) * 7, inputs=("0" * 16,) * 7
                )
                directory.append_digests(digests)
print("the script's own output", worker.rank)
"""


def run(capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit_:
        main(words)
    out, err = capfd.readouterr()
    assert isinstance(exit_.value.code, int)
    return exit_.value.code, out, err


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "temporary").mkdir()
    Path("train.py").write_text(SCRIPT)
    return "train.py"


def verify(capfd: pytest.CaptureFixture[str], script: str, mode: str, *options: str) -> tuple[int, str, str]:
    return run(capfd, "verify", "--device", "cpu", "--steps", "4", "--no-changes", *options, script, mode)


def test_a_script_that_holds_true_passes_with_a_row_for_each_run(capfd, script, tmp_path) -> None:
    status, out, _ = verify(capfd, script, "good")
    assert status == 0
    digest = hashlib.sha256(b"3 0").hexdigest()[:12]
    rows = [line for line in out.splitlines() if digest in line]
    assert [row.split("  ")[0] for row in rows] == ["1", "1, again", "2", "3, uneven", "3, interleaved"]
    assert [row.split()[-1] for row in rows] == ["reference", "equal", "equal", "equal", "equal"]
    assert "0,3,6/1,4/2,5" in out
    assert "PASS  5 runs of 4 steps on 7 virtual nodes: the same bits after every step." in out
    assert "the script's own output" not in out
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_script_with_fewer_steps_passes_and_says_so(capfd, script) -> None:
    status, out, _ = verify(capfd, script, "few")
    assert status == 0
    assert "runs of 3 steps" in out
    assert "4 were asked for" in out


def test_a_difference_between_mappings_is_found_at_its_step_and_tensor(capfd, script) -> None:
    status, out, _ = verify(capfd, script, "mapping")
    assert status == 1
    assert "FAIL  2 workers gave other bits than 1 worker, which repeats itself." in out
    assert "The training state after step 2 is the first that differs." in out
    assert "weights/a" in out
    assert "look at the backward pass" in out


def test_a_difference_on_the_interleaved_mapping_alone_would_be_found(capfd, script) -> None:
    """Negative control of the table: the script's state names its mapping, so every row must differ."""
    status, out, _ = verify(capfd, script, "order")
    assert status == 1
    assert out.count("different") == 3


def test_a_script_that_does_not_repeat_itself_is_told_apart_from_its_mappings(capfd, script) -> None:
    status, out, _ = verify(capfd, script, "repeat")
    assert status == 1
    assert "FAIL  The same mapping run twice gave different bits" in out


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("nothing", "No step ran"),
        ("frozen", "those before the first: nothing was trained"),
        ("short", "It took 3 steps and the reference 4 steps"),
        ("undigested", "1 step of the run have no digest, step 1 first"),
    ],
)
def test_what_proves_nothing_fails(capfd, script, mode: str, words: str) -> None:
    status, out, _ = verify(capfd, script, mode)
    assert status == 1
    assert "FAIL" in out
    assert words in out


def test_a_run_that_fails_fails_the_proof_and_shows_its_error(capfd, script) -> None:
    status, out, _ = verify(capfd, script, "crash")
    assert status == 1
    assert "FAIL  the run on 2 workers failed" in out
    assert "ValueError: boom" in out


def test_wrong_use_in_the_script_is_exit_status_2(capfd, script) -> None:
    status, out, _ = verify(capfd, script, "wrong")
    assert status == 2
    assert "it is wrong; the rule. The way out." in out


def test_runs_are_kept_where_they_are_wanted_and_compare_reads_them(capfd, script, tmp_path) -> None:
    status, _, _ = verify(capfd, script, "mapping", "--keep", "kept")
    assert status == 1
    status, out, _ = run(capfd, "compare", "kept/workers-1", "kept/workers-1-again")
    assert status == 0
    assert "EQUAL" in out
    status, out, _ = run(capfd, "compare", "kept/workers-1", "kept/workers-2")
    assert status == 1
    assert "DIFFERENT" in out
    assert "after step 2" in out
    status, _, err = verify(capfd, script, "good", "--keep", "kept")
    assert status == 2
    assert "--keep kept exists and is not empty" in err


def test_the_runs_of_a_failed_proof_are_kept_and_named(capfd, script, tmp_path) -> None:
    _, out, _ = verify(capfd, script, "mapping")
    (kept,) = (tmp_path / "temporary").iterdir()
    assert f"holdtrue compare {kept}/workers-1 {kept}/workers-2" in out
    assert (kept / "workers-1" / "logs" / "worker-0.log").read_text() == "the script's own output 0\n"
