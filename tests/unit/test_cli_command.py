"""The command line: help, refusals, and what it makes of its words. Nothing is started here."""

import subprocess
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from holdtrue.cli import main
from holdtrue.cli._commands import COMMANDS, load_command
from holdtrue.cli._options import ONE_WORKER, choose_workers, read_worker_range, settings_in_force
from holdtrue.cli._progress import Progress, describe_progress
from holdtrue.cli._run import (
    RunRequest,
    rebalance_by_default,
    resume_command,
    spec_of,
    start_words,
)
from holdtrue.cli._say import describe_failure
from holdtrue.cli._screen import _Lines
from holdtrue.cli._status_view import describe_entry
from holdtrue.cli._trials import trials_of
from holdtrue.errors import MappingError, UsageError
from holdtrue.launch import Failure, JobEntry, check_name, name_of_script, new_run_dir, newest_run_dir
from holdtrue.mapping import parse_mapping
from holdtrue.wire import CONFIG_KEYS, StepReport

OPTIONS_OF_RUN = [
    *("workers", "device", "threads", "mapping", "virtual-nodes", "global-batch-size", "seed", "numerics"),
    *("name", "run-dir", "resume", "checkpoint-every", "keep-checkpoints", "digest-every", "timeout"),
    *("non-finite", "config"),
]
NOW = datetime(2026, 11, 23, 18, 5, 9)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit_:
        main(words)
    out, err = capsys.readouterr()
    assert isinstance(exit_.value.code, int)
    return exit_.value.code, out, err


def request(**changes: object) -> RunRequest:
    values = {
        "script": "train.py",
        "arguments": (),
        "workers": ONE_WORKER,
        "mapping": None,
        "settings": {},
        "name": None,
        "run_dir": None,
        "resume": False,
    }
    return RunRequest(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("model", ["nothere.py:Net", "nothere.pt2", "nothere"])
def test_a_model_that_is_not_there_is_refused_before_anything_is_started(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    pytest.importorskip("prometheus_client")
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, "serve", model, "--device", "cpu")
    assert (code, out, len(err.splitlines())) == (2, "", 1), out + err
    assert err.startswith("error: nothere")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("command", [[], ["run"], ["verify"], ["compare"]])
def test_every_command_explains_itself(capsys, command: list[str], flag: str) -> None:
    status, out, _ = run(capsys, *command, flag)
    assert status == 0
    assert "Usage: holdtrue" in out


def test_help_of_run_names_every_option(capsys) -> None:
    _, out, _ = run(capsys, "run", "--help")
    for option in OPTIONS_OF_RUN:
        assert f"--{option}" in out


def test_the_version_is_told(capsys) -> None:
    status, out, _ = run(capsys, "--version")
    assert status == 0
    assert out.startswith("holdtrue 0.")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["run", "--colour", "red", "t.py"], "No such option: --colour"),
        (["run"], "Missing argument"),
        (["go"], "No such command 'go'"),
        (["run", "--workers", "4:2", "t.py"], "'4:2' is not MIN:MAX"),
        (["run", "--workers", "1:2:3", "t.py"], "'1:2:3' is not MIN:MAX, with 1 or more"),
        (["run", "--workers", "1:", "t.py"], "'1:' is not MIN:MAX"),
        (["run", "--timeout", "soon", "t.py"], "'soon' is not a number"),
        (["run", "--device-list", "cpu:2", "t.py"], "No such option: --device-list"),
        (["run", "--device", "tpu", "t.py"], "--device is 'tpu'; the choices are cpu, cuda, auto."),
        (
            ["run", "--numerics", "exakt", "t.py"],
            "--numerics is 'exakt'; the choices are exact, portable, fast.",
        ),
        (["run", "--non-finite", "cry", "t.py"], "the choices are stop, skip, allow."),
        (["run", "--workers", "0", "t.py"], "workers is 0"),
        (["run", "--virtual-nodes", "0", "t.py"], "--virtual-nodes is 0; it must be above 0."),
        (["run", "--checkpoint-every", "-1", "t.py"], "--checkpoint-every is -1; it must be 0 or more."),
        (["run", "--keep-checkpoints", "0", "t.py"], "--keep-checkpoints is 0; it must be 1 or more."),
        (["run", "--name", "A_b", "t.py"], "the name 'A_b' is not a job's name"),
        (["run", "--mapping", "0-3/x", "t.py"], "the mapping '0-3/x' cannot be read"),
        (["run", "--mapping", "0/2", "t.py"], "virtual nodes 1 have no worker"),
        (
            ["run", "--workers", "3", "--mapping", "0/1", "t.py"],
            "--workers is 3 and --mapping '0/1' is for 2",
        ),
        (["run", "--mapping", "0/1", "--virtual-nodes", "3", "t.py"], "virtual nodes 2 have no worker"),
        (["run", "--config", "no.toml", "t.py"], "the config file no.toml cannot be read"),
        (["run", "--resume", "t.py"], "there is no run of 't' in runs/ to resume"),
        (["run", "t.py"], "the script t.py does not exist"),
        (["verify", "--steps", "0", "t.py"], "--steps is 0"),
        (["verify", "t.py"], "the script t.py does not exist"),
        (["compare", "no-run", "no-run"], "no-run"),
    ],
)
def test_wrong_use_is_one_sentence_and_exit_status_2(
    capsys, tmp_path, monkeypatch, words: list[str], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = run(capsys, *words)
    assert status == 2
    assert sentence in err
    assert err.startswith("error: ")
    assert "Traceback" not in err
    assert out == ""
    assert list(tmp_path.iterdir()) == []


def test_help_is_quick_since_it_loads_no_torch_and_no_launcher() -> None:
    program = (
        "import sys\nfrom holdtrue.cli import main\ntry: main(['--help'])\nexcept SystemExit as end: assert end.code == 0\n"
        "slow = ('torch', 'numpy', 'scipy', 'holdtrue.launch', 'holdtrue.elastic', 'holdtrue.record')\n"
        "print([name for name in slow if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_is_where_the_table_says(name: str) -> None:
    command = load_command(name)
    assert command.name == name
    assert command.help.startswith(COMMANDS[name].summary)


def test_a_variable_that_is_none_of_ours_is_a_warning_once_and_no_error(
    capsys, monkeypatch, tmp_path
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("HOLDTRUE_SEDE", "1")
    status, _, err = run(capsys, "status")
    assert (status, err.count("HOLDTRUE_SEDE"), err.count("did you mean HOLDTRUE_SEED?")) == (0, 1, 1)
    assert err.startswith("warning: ")


def test_no_option_shows_its_default_twice() -> None:
    twice = []
    for name in COMMANDS:
        command = load_command(name)
        for each in [command, *getattr(command, "commands", {}).values()]:
            twice += [
                (each.name, option.name)
                for option in each.params
                if "default:" in (option.help or "") and option.show_default and option.default is not None
            ]
    assert twice == []


@pytest.mark.parametrize("command", ["compare", "digest"])
def test_the_help_says_that_what_is_not_shown_to_be_equal_ends_with_1_too(capsys, command: str) -> None:
    _, out, _ = run(capsys, command, "--help")
    assert "1 if they differ or too little is recorded to show that they are equal" in " ".join(out.split())


def test_a_command_that_is_nearly_right_is_suggested(capsys) -> None:
    status, _, err = run(capsys, "stat")
    assert (status, err) == (
        2,
        "error: No such command 'stat'. Did you mean 'status'? See `holdtrue --help`.\n",
    )


def test_workers_come_from_the_mapping_unless_named() -> None:
    assert choose_workers(None, "0-7/8-11/12-15", None).start == 3
    assert choose_workers(read_worker_range("2"), "0-1,3/2", 4).start == 2
    assert choose_workers(read_worker_range("4"), None, None).start == 4
    assert choose_workers(read_worker_range("2:4"), None, None).choose_start(3) == 3
    with pytest.raises(MappingError):
        choose_workers(None, "0/0", None)


def test_the_command_line_is_stronger_than_the_environment_and_that_than_the_file(tmp_path) -> None:
    config = tmp_path / "run.toml"
    config.write_text('device = "cuda"\nthreads = 4\nseed = 9\n')
    force = settings_in_force(
        {"config": str(config), "seed": 1}, {"HOLDTRUE_THREADS": "2", "HOLDTRUE_SEED": "5"}
    )
    assert (force["device"], force["threads"], force["seed"]) == ("cuda", 2, 1)


def test_a_config_file_that_is_no_toml_is_refused(tmp_path) -> None:
    config = tmp_path / "run.toml"
    config.write_text("seed: 1")
    with pytest.raises(UsageError, match="is not TOML"):
        settings_in_force({"config": str(config)}, {})


def test_a_time_out_that_is_not_above_0_is_refused_before_anything_is_started(tmp_path) -> None:
    config = tmp_path / "run.toml"
    config.write_text("timeout = 0")
    for cli, env in (({"config": str(config)}, {}), ({}, {"HOLDTRUE_TIMEOUT_S": "nan"})):
        with pytest.raises(UsageError, match=r"timeout_s is (0|nan); .* above 0"):
            settings_in_force(cli, env)


@pytest.mark.parametrize("command", ["run", "verify"])
def test_the_help_of_config_names_its_keys(capsys, command: str) -> None:
    _, out, _ = run(capsys, command, "--help")
    text = " ".join(word for word in out.split() if word != "│")
    assert f"one `key = value` a line: {', '.join(CONFIG_KEYS)}." in text


def test_a_run_without_a_folder_gets_one_by_name_and_time(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert spec_of(request(), env={}, now=NOW).run_dir == Path("runs/train-20261123-180509")
    Path("runs/train-20261123-180509").mkdir(parents=True)
    assert spec_of(request(), env={}, now=NOW).run_dir == Path("runs/train-20261123-180509-2")


def test_resume_takes_the_newest_run_of_that_name(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (
        "train-20261123-180509",
        "train-20261123-180509-2",
        "train-20251231-235959",
        "train-2-20270101-000000",
    ):
        (Path("runs") / name).mkdir(parents=True)
        (Path("runs") / name / "plan.json").write_text("{}")
    (Path("runs") / "train-20261124-000000" / "logs").mkdir(parents=True)  # its start was refused
    assert spec_of(request(resume=True), env={}, now=NOW).run_dir.name == "train-20261123-180509-2"
    assert newest_run_dir(Path("runs"), "train-2").name == "train-2-20270101-000000"


def test_a_folder_that_holds_a_run_is_refused_without_resume(tmp_path) -> None:
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(UsageError, match="already holds a run"):
        spec_of(request(run_dir=tmp_path), env={}, now=NOW)
    assert spec_of(request(run_dir=tmp_path, resume=True), env={}, now=NOW).settings["resume"] is True


def test_more_workers_than_a_job_has_are_refused_before_one_is_started(tmp_path) -> None:
    most = request(run_dir=tmp_path, workers=read_worker_range("4096"))
    assert spec_of(most, env={}, now=NOW).workers == 4096
    for text in ("4097", "1:4097"):
        more = request(run_dir=tmp_path, workers=read_worker_range(text))
        with pytest.raises(UsageError, match=r"4097 workers; it has at most 4096\. Ask for fewer"):
            spec_of(more, env={}, now=NOW)


def test_a_folder_in_the_environment_counts_as_named(tmp_path) -> None:
    spec = spec_of(request(), env={"HOLDTRUE_RUN_DIR": str(tmp_path / "here")}, now=NOW)
    assert spec.run_dir == tmp_path / "here"
    assert spec.settings["run_dir"] == str(tmp_path / "here")


def test_the_way_to_go_on_repeats_what_was_given() -> None:
    asked = request(
        workers=read_worker_range("2"),
        settings={"seed": 3, "timeout_s": 5.0},
        arguments=("--out", "a b"),
        name="mine",
    )
    assert resume_command(asked, Path("runs/mine-1")) == (
        "holdtrue run --resume --run-dir runs/mine-1 --name mine --workers 2 --seed 3 --timeout 5.0 "
        "train.py --out 'a b'"
    )


def test_a_job_that_ended_early_is_gone_on_with_by_the_words_it_was_started_with(tmp_path) -> None:
    asked = request(run_dir=tmp_path / "r", arguments=("--epochs", "500"))
    spec = spec_of(asked, env={}, now=NOW)
    assert spec.resume_command == f"holdtrue run --resume --run-dir {tmp_path / 'r'} train.py --epochs 500"
    entry = JobEntry(
        name="digits", url="u", pid=1, run_dir="r", token_file="t", join_file="j", script="train.py",
        started_s=1.0, exit_code=130, ending="It was stopped.", resume_command=spec.resume_command,
    )  # fmt: skip
    assert describe_entry(entry, "ended")[1] == f"Go on with:\n    {spec.resume_command}"
    done = replace(entry, exit_code=0, ending="It finished after 4 steps.")
    assert describe_entry(done, "ended") == ["digits runs no more. It finished after 4 steps."]


def test_a_job_that_was_planned_from_a_profile_is_planned_again_when_it_goes_on() -> None:
    words = start_words("cpu:2", [Path("net.json")], ["cpu:1=1GiB"])
    asked = request(
        workers=read_worker_range("2"),
        mapping="0-7/none",
        devices=("cpu", "cpu"),
        start_words=words,
        arguments=("--out", "a b"),
        settings={"rebalance": True, "virtual_nodes": 8},
    )
    assert resume_command(asked, Path("r")) == (
        "holdtrue run --resume --run-dir r --devices cpu:2 --profile net.json --memory cpu:1=1GiB --rebalance "
        "--virtual-nodes 8 train.py --out 'a b'"
    )


def test_virtual_nodes_move_where_devices_are_named_unless_something_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("HOLDTRUE_REBALANCE", raising=False)
    assert rebalance_by_default({}, has_mapping=False) == {"rebalance": True}
    assert rebalance_by_default({}, has_mapping=True) == {"rebalance": False}
    assert rebalance_by_default({"rebalance": True}, has_mapping=True) == {}
    monkeypatch.setenv("HOLDTRUE_REBALANCE", "0")
    assert rebalance_by_default({}, has_mapping=False) == {}


def test_names_of_jobs() -> None:
    assert name_of_script("./My Script_2.py") == "my-script-2"
    assert name_of_script("___.py") == "job"
    assert check_name("a-1") == "a-1"
    for name in ("", "A", "a_b", "a" * 64, "a/b"):
        with pytest.raises(UsageError):
            check_name(name)
    assert new_run_dir(Path("nowhere"), "a", NOW) == Path("nowhere/a-20261123-180509")


@pytest.mark.parametrize("virtual_nodes", [1, 2, 3, 4, 5, 7, 8, 12, 64])
def test_trials_are_distinct_whole_mappings_and_one_is_interleaved(virtual_nodes: int) -> None:
    trials = trials_of(virtual_nodes)
    texts = [trial.mapping for trial in trials]
    assert texts[0] is None
    assert len(set(texts)) == len(texts)
    assert len({trial.folder for trial in trials}) == len(trials)
    for trial in trials[1:]:
        assert trial.mapping is not None
        assert parse_mapping(trial.mapping, virtual_nodes).world_size == trial.workers
    if virtual_nodes > 2:
        held = parse_mapping(str(texts[-1]), virtual_nodes).held[0]
        assert held[1] - held[0] > 1


def test_the_rate_is_of_late_and_absent_at_first() -> None:
    progress = Progress(workers=1, started_s=0.0)
    for second in range(30):
        report = StepReport(step=second * 2, epoch=0, loss=None, total_steps=None)
        progress = progress.after(report, float(second))
        assert (progress.steps_per_s is None) == (second == 0)
    assert progress.steps_per_s == 2.0
    assert describe_progress(progress, 29.0) == ("step 59", "epoch 0", "2 steps/s", "1 worker", "0:29")


def test_lines_are_whole_and_a_carriage_return_overwrites() -> None:
    lines = _Lines()
    assert lines.take(b"a\nb") == "a\n"
    assert lines.partial == "b"
    assert lines.take("é".encode()[:1]) == ""
    assert lines.take("é".encode()[1:] + b"\r\n") == "bé\r\n"
    for i in range(3):
        assert lines.take(b"at %d\r" % i) == ""
        assert lines.partial == f"at {i}"
    assert lines.take(b"end") == ""
    assert lines.partial == "end"


def test_a_failure_names_worker_end_and_log() -> None:
    log = Path("runs/a/logs/worker-1.log")
    killed = Failure(workers=(1,), how="was killed by SIGKILL", kind=None, sentence=None, log=log)
    assert describe_failure(killed, workers=2) == (
        "worker 1 was killed by SIGKILL (an out-of-memory killer does that too); the log is runs/a/logs/worker-1.log"
    )
    wrong = Failure(
        workers=(0, 1), how="ended with exit status 2", kind="PlanError", sentence="It is so.", log=log
    )
    assert describe_failure(wrong, workers=2) == "It is so."
    assert (
        describe_failure(wrong, workers=3) == "workers 0-1: It is so. (the log is runs/a/logs/worker-1.log)"
    )
    at = Failure(workers=(0,), how="", kind="PlanError", sentence="It is so.", where="t.py:3: f()", log=log)
    assert describe_failure(at, workers=1) == "It is so.\n    at t.py:3: f()"
