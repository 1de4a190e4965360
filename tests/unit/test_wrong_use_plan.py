"""Wrong use of the plan, the settings and the run directory: a sentence each."""

import pytest
import torch
from wrong_use import Net, examples, refused, start, take_step, train, workers

import holdtrue as ht
from holdtrue.errors import CallMismatchError, MappingError, PlanError, UsageError


def test_a_global_batch_smaller_than_the_number_of_virtual_nodes_is_refused() -> None:
    with refused(
        PlanError, "global_batch_size is 3", "virtual_nodes is 4", "at least one", "Lower virtual_nodes to 3"
    ):
        workers(lambda: ht.init(virtual_nodes=4, global_batch_size=3), 1)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"virtual_nodes": 0}, ("virtual_nodes is 0", "at least 1", "Pass")),
        (
            {"virtual_nodes": 2**20 + 1, "global_batch_size": 2**30},
            ("virtual_nodes is 1048577", "at most 1048576", "Pass fewer"),
        ),
        ({"virtual_nodes": 2.0}, ("virtual_nodes is 2.0", "whole number", "Pass an int")),
        ({"seed": -1}, ("seed is -1", "0 to 2**63 - 1", "Pass")),
        ({"numerics": "accurate"}, ("numerics is 'accurate'", "exact, portable, fast", "Pass one of them")),
        ({"buffers": {"x": "median"}}, ("buffers['x'] is 'median'", "mean, sum", "Pass one of them")),
        ({"weight_unit": -2.0}, ("weight_unit is -2.0", "positive", "Leave it out")),
        ({"weight_unit": 0}, ("weight_unit is 0", "positive", "Leave it out")),
        ({"weight_unit": "x"}, ("weight_unit is 'x'", "positive", "Leave it out")),
        ({"buffers": ["x"]}, ("buffers is ['x']", "a dict of name patterns and rules", "Pass one")),
        ({"buffers": {1: "sum"}}, ("buffers is {1: 'sum'}", "a dict of name patterns", "Pass one")),
    ],
)
def test_a_plan_that_cannot_be_is_refused_with_value_rule_and_way_out(values, words) -> None:
    with refused(PlanError, *words):
        workers(lambda: start(**values), 1)


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("HOLDTRUE_DEVICE", "tpu", ("device is 'tpu'", "auto, cpu, cuda", "Pass one of them")),
        ("HOLDTRUE_NON_FINITE", "shrug", ("non_finite is 'shrug'", "stop, skip, allow", "Pass one of them")),
        ("HOLDTRUE_THREADS", "0", ("threads is 0", "1 or more", "Pass")),
        ("HOLDTRUE_KEEP_CHECKPOINTS", "0", ("keep_checkpoints is 0", "1 or more", "Pass")),
        ("HOLDTRUE_DIGEST_EVERY", "-1", ("digest_every is -1", "0 or more", "Pass")),
        ("HOLDTRUE_TIMEOUT_S", "0", ("timeout_s is 0", "above 0", "Pass")),
        ("HOLDTRUE_RESUME", "1", ("resume is on", "no run directory", "goes on from", "Pass --run-dir")),
        ("HOLDTRUE_RESUME", "yes", ("HOLDTRUE_RESUME is 'yes'", "0 or 1", "unset it")),
        (
            "HOLDTRUE_CONFIG",
            "/no/such.toml",
            ("/no/such.toml cannot be read", "No such file", "TOML", "Pass another --config"),
        ),
    ],
)
def test_a_setting_that_cannot_be_is_refused_with_value_rule_and_way_out(
    monkeypatch, variable, value, words
) -> None:
    monkeypatch.setenv(variable, value)
    with refused(UsageError, *words):
        workers(start, 1)


def test_an_unknown_key_of_the_config_file_is_refused_with_those_there_are(tmp_path, monkeypatch) -> None:
    (tmp_path / "run.toml").write_text("sede = 3\n")
    monkeypatch.setenv("HOLDTRUE_CONFIG", str(tmp_path / "run.toml"))
    with refused(UsageError, "unknown keys ['sede']", "the keys are", "'seed'", "Remove or rename"):
        workers(start, 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"checkpoint_every = 'x'", ("checkpoint_every = 'x'", "a whole number", "Write it so")),
        (b"trace = 'no'", ("trace = 'no'", "true or false", "Write it so")),
        (b"# \xff", ("is not TOML", "UTF-8", "Write it so")),
    ],
)
def test_a_value_of_another_kind_in_the_config_file_is_refused_in_a_worker_too(
    tmp_path, monkeypatch, text, words
) -> None:
    (tmp_path / "run.toml").write_bytes(text)
    monkeypatch.setenv("HOLDTRUE_CONFIG", str(tmp_path / "run.toml"))
    with refused(UsageError, "run.toml", *words):
        workers(start, 1)


def test_cuda_is_refused_where_there_is_none(monkeypatch) -> None:
    from holdtrue.run._join import Membership, choose_device
    from holdtrue.run._settings import Settings

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with refused(UsageError, "device is 'cuda'", "no CUDA device", "--device cpu"):
        choose_device(Membership(), Settings(device="cuda"))


def test_workers_beyond_the_virtual_nodes_stand_by_with_a_message_and_the_same_bits(capsys) -> None:
    alone = workers(lambda: train(virtual_nodes=2), 1)
    assert " by without" not in capsys.readouterr().err
    assert workers(lambda: train(virtual_nodes=2), 3) == alone * 3
    told = capsys.readouterr().err
    assert "3 workers for 2 virtual nodes: 1 stands by without a pass of its own. More" in told
    assert "More virtual nodes would use them." in told
    assert "cpu:2 standby" in told
    assert told.count(" by without") == 1


def test_a_mapping_for_another_number_of_workers_or_virtual_nodes_is_refused() -> None:
    with refused(MappingError, "4-5 are not in the plan", "exactly one", "even_mapping"):
        workers(start, mapping="0-3/4-5")
    with refused(MappingError, "virtual nodes 3 have no worker", "exactly one", "even_mapping"):
        workers(start, mapping="0-1/2")


@pytest.mark.parametrize("count", [{"workers": 2.5}, {"workers": "2"}, {"threads": 1.5}])
def test_a_launch_of_workers_that_are_no_whole_number_is_refused(count: dict[str, object]) -> None:
    ((name, value),) = count.items()
    with refused(UsageError, f"{name} is {value!r}", "a whole number", "Pass an int"):
        ht.launch(lambda: None, **count)  # type: ignore[arg-type]


def test_a_launch_of_no_function_or_into_no_folder_is_refused() -> None:
    with refused(UsageError, "launch was given 5", "a function of no arguments", "Pass one"):
        ht.launch(5)  # type: ignore[arg-type]
    with refused(UsageError, "run_dir is 5", "the path of a folder", "Pass a text"):
        ht.launch(lambda: None, run_dir=5)  # type: ignore[arg-type]


def test_a_second_run_in_one_run_directory_is_refused_with_both_ways_out(tmp_path) -> None:
    folder = str(tmp_path / "run")
    workers(lambda: start(run_dir=folder)[0].close(), 1)
    with refused(UsageError, folder, "already holds a run", "one", "--run-dir", "--resume"):
        workers(lambda: start(run_dir=folder), 1)


def test_a_run_directory_of_a_living_run_is_refused_even_with_resume(tmp_path, monkeypatch) -> None:
    folder = str(tmp_path / "run")

    def main() -> None:
        first, _ = start(run_dir=folder)
        monkeypatch.setenv("HOLDTRUE_RESUME", "1")
        try:
            start(run_dir=folder)
        finally:
            first.close()

    with refused(UsageError, "is alive in", folder, "one run at a time", "Wait for it"):
        workers(main, 1)


def test_a_run_directory_that_is_no_path_is_refused() -> None:
    with refused(UsageError, "run_dir is 5", "the path of a folder", "Pass"):
        workers(lambda: start(run_dir=5), 1)


def test_a_run_directory_that_is_a_file_is_refused(tmp_path) -> None:
    (tmp_path / "run").write_text("")
    with refused(UsageError, "run is a file", "is a folder", "--run-dir"):
        workers(lambda: start(run_dir=str(tmp_path / "run")), 1)


def test_workers_with_different_plans_are_named_with_what_differs() -> None:
    ranks = iter((0, 1))

    def main() -> None:
        run, model = start(seed=next(ranks))
        for step in run.steps(examples()):
            take_step(step, model)

    with refused(CallMismatchError, "worker 0 and worker 1", "plan", "one plan", is_wrong_use=False):
        workers(main)


def test_workers_that_train_other_parameters_are_refused_before_anything_is_exchanged() -> None:
    frozen = iter((False, True))

    def main() -> None:
        model = Net()
        model.line.bias.requires_grad_(next(frozen))
        train(model)

    with refused(CallMismatchError, "layout", "same parameters", "alike", is_wrong_use=False):
        workers(main)
