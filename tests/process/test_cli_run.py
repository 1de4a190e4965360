"""`holdtrue run` from its command line to its last line."""

import textwrap
from pathlib import Path

import pytest

from holdtrue.cli import main

pytestmark = pytest.mark.process
HERE = Path(__file__).parent
PREAMBLE = f"import sys; sys.path.append({str(HERE)!r})\nimport os, signal\nfrom fake_worker import *\n"


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)

    def run_script(body: str, *options: str, arguments: tuple[str, ...] = ()) -> tuple[int, str, str]:
        Path("train.py").write_text(PREAMBLE + textwrap.dedent(body))
        with pytest.raises(SystemExit) as exit_:
            main(["run", "--device", "cpu", *options, "train.py", *arguments])
        out, err = capfd.readouterr()
        assert isinstance(exit_.value.code, int)
        return exit_.value.code, out, err

    return run_script


TRAINED = """
join()
if worker.worker == 0:
    sender.send(wire.StartedReport(line="global batch 8 = 4 virtual nodes x 2", total_steps=2))
for text in ("once", "once"):
    say(text)
for i in range(2):
    if worker.worker == 0:
        sender.send(wire.StepReport(step=i, epoch=0, loss=0.25, total_steps=2))
sender.send(wire.FinishedReport(rank=worker.worker, digest="ab" * 32, steps=2))
print("accuracy 0.9")
"""


def test_stdout_is_the_scripts_alone_and_each_note_is_said_once(run) -> None:
    status, out, err = run(TRAINED, "--workers", "2", "--name", "mine")
    assert status == 0
    assert out == "accuracy 0.9\n"
    assert err.count("global batch 8 = 4 virtual nodes x 2") == 1
    assert err.count("once") == 1
    (folder,) = Path("runs").iterdir()
    assert folder.name.startswith("mine-20")
    assert err.splitlines()[-1] == f"done: 2 steps · digest {'ab' * 8} · {folder}"
    assert sorted(log.name for log in (folder / "logs").iterdir()) == [
        "controller.log",
        "worker-0.log",
        "worker-1.log",
    ]


def test_all_that_follows_the_script_is_the_scripts(run) -> None:
    status, out, _ = run(
        "join(); print(sys.argv[1:]); sender.send(wire.FinishedReport(rank=0, digest='ab' * 32, steps=0))",
        arguments=("--workers", "9", "--", "-h", "--version"),
    )
    assert status == 0
    assert out == "['--workers', '9', '--', '-h', '--version']\n"


def test_options_reach_the_worker_as_settings_of_the_command_line(run) -> None:
    _, out, _ = run(
        "join(); import json; print(json.dumps(wire.decode_cli_settings(os.environ), sort_keys=True))",
        *(
            "--virtual-nodes",
            "4",
            "--seed",
            "7",
            "--timeout",
            "2.5",
            "--run-dir",
            "here",
            "--digest-every",
            "5",
        ),
    )
    assert out == (
        '{"device": "cpu", "digest_every": 5, "resume": false, "run_dir": "here", "seed": 7, "timeout_s": 2.5, '
        '"virtual_nodes": 4}\n'
    )


def test_the_mapping_gives_the_number_of_workers(run) -> None:
    body = """
    view = join().view(1)
    sender.send(wire.FinishedReport(rank=worker.worker, digest="ab" * 32, steps=1))
    print(len(view.members), view.mapping)
    """
    status, out, err = run(
        body, "--mapping", "0-1/2/3"
    )  # who ends without a word has died, and may take the others along
    assert (status, out) == (0, "3 0-1/2/3\n"), err


def test_a_failure_is_a_sentence_a_log_and_the_scripts_own_status(run) -> None:
    status, _, err = run(
        "join(); sys.exit(5) if worker.worker else wait_for_the_launcher_to_go()", "--workers", "2"
    )
    assert status == 5
    assert "error: worker 1 ended with exit status 5; the log is runs/train-" in err


def test_a_status_that_scripts_choose_after_their_training_is_that_of_the_command(run) -> None:
    body = TRAINED.replace("join()", "agent = join()", 1) + 'agent.say_end(how="finished")\nsys.exit(17)\n'
    status, out, err = run(body, "--workers", "2")
    assert (status, out) == (17, "accuracy 0.9\n")
    assert "ended with exit status 17; the log is" in err
    assert "failed before it entered" not in err
    assert err.splitlines()[-1].startswith(f"done: 2 steps · digest {'ab' * 8} · runs/train-"), (
        "nothing is left to go on with"
    )


def test_a_failure_after_a_checkpoint_says_how_to_go_on(run) -> None:
    status, _, err = run(
        """
        join()
        sender.send(wire.StepReport(step=49, epoch=0, loss=None, total_steps=None))
        sender.send(wire.CheckpointReport(step=40, path="x"))
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    assert status == 1
    assert "error: worker 0 was killed by SIGKILL (an out-of-memory killer does that too)" in err
    assert "failed after 50 steps; the last checkpoint is step 40. Go on with:" in err
    assert "holdtrue run --resume --run-dir runs/train-" in err


def test_a_script_that_never_calls_init_is_wrong_use(run) -> None:
    status, _, err = run("pass")
    assert status == 2
    assert "\nerror: train.py never called holdtrue.init" in err


@pytest.mark.parametrize("folder", ["train.py", "train.py/here", "/proc/here"])
def test_a_run_directory_that_cannot_be_made_is_refused_before_the_start(run, folder: str) -> None:
    status, out, err = run("print('started')", "--run-dir", folder)
    assert (status, out) == (2, "")
    assert f"the run directory {folder} cannot be made (" in err
    assert "Give another --run-dir." in err
    assert "Traceback" not in err
