"""Ends of real processes: what they say, with which status, and how soon."""

import pytest
from commands import Ended, holdtrue, python, write_script

from holdtrue.record import read_run

pytestmark = pytest.mark.process
RUN = ("run", "--device", "cpu", "--run-dir", "r")

LOOP = """
run, model = start()
for step in run.steps(examples(), epochs=4):
    take_step(step, model)
"""


def check_sentence(ended: Ended, status: int, *words: str) -> None:
    """Its status, and a sentence without a traceback that has all these words."""
    assert ended.status == status, ended.text
    assert "Traceback" not in ended.text, ended.text
    flat = " ".join(ended.err.split())
    for word in words:
        assert word in flat, ended.text


# ---- python train.py ----


@pytest.mark.parametrize(
    ("body", "env", "status", "words"),
    [
        (
            "ht.init(virtual_nodes=4, global_batch_size=3)",
            {},
            2,
            ("holdtrue: global_batch_size is 3 and virtual_nodes is 4", "Lower virtual_nodes", "train.py"),
        ),
        (
            LOOP,
            {"HOLDTRUE_NUMERICS": "accurate"},
            2,
            ("holdtrue: numerics is 'accurate'", "exact, portable, fast"),
        ),
        (
            LOOP.replace("take_step(step, model)", "[step.backward(loss_of(model, b)) for b in step]; break"),
            {},
            2,
            ("holdtrue: step 0 was left without step.update", "Call step.update"),
        ),
        (
            LOOP.replace(
                "take_step(step, model)",
                "\n    for b in step:\n        step.backward(loss_of(model, b) * float('nan'))",
            ),
            {},
            1,
            ("holdtrue: the loss of step 0 is nan in virtual nodes 0-3", "--non-finite skip"),
        ),
    ],
    ids=["plan", "setting", "left by break at the end of the script", "nan"],
)
def test_an_error_of_a_script_alone_is_a_sentence_and_a_status(tmp_path, body, env, status, words) -> None:
    check_sentence(python(write_script(tmp_path, body), env=env), status, *words)


def test_an_exception_of_the_script_names_virtual_node_step_and_examples(tmp_path) -> None:
    body = """
    run, model = start()
    for step in run.steps(examples(), shuffle=False):
        for i, (x, y) in enumerate(step):
            if (step.index, i) == (1, 2):
                raise KeyError("my own mistake")
            step.backward(loss_of(model, (x, y)))
        step.update()
    """
    ended = python(write_script(tmp_path, body))
    assert ended.status == 1
    assert "KeyError: 'my own mistake'" in ended.err
    assert "in the pass of virtual node 2, step 1: examples 12, 13 of the dataset" in ended.err
    assert "Exception ignored" not in ended.err


def test_one_example_in_a_pass_under_batch_norm_says_the_way_out(tmp_path) -> None:
    body = """
    run, model = start(torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 1)),
                       virtual_nodes=8)
    for step in run.steps(examples()):
        take_step(step, model)
    """
    ended = python(write_script(tmp_path, body))
    assert ended.status == 2, ended.text
    assert "Traceback" not in ended.err
    (sentence,) = (line for line in ended.err.splitlines() if line.startswith("holdtrue: "))
    place = "a norm layer got input size torch.Size([1, 2]) in the pass of virtual node 0, step 0: examples "
    assert place in sentence
    assert sentence.endswith("fewer virtual_nodes, a larger global_batch_size, or drop_last=True.")
    assert "F.mse_loss(model(batch[0])" in ended.err, "the line of the script"


def test_the_scripts_own_exit_status_is_kept(tmp_path) -> None:
    ended = python(write_script(tmp_path, LOOP + "\n    if step.index == 2: sys.exit(7)\n"))
    assert ended.status == 7
    assert "update" not in ended.err


def test_a_second_run_in_a_script_alone_ends_the_first(tmp_path) -> None:
    ended = python(
        write_script(tmp_path, LOOP + LOOP + "\nrun.print(run.digest('weights') == run.digest('weights'))")
    )
    assert (ended.status, ended.out) == (0, "True\n")


def test_processes_that_the_script_forks_can_be_ended_while_the_loop_runs(tmp_path) -> None:
    body = """
    import multiprocessing
    run, model = start()
    for step in run.steps(examples()):
        take_step(step, model)
        if step.index == 1:
            child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
            child.start()
            child.terminate()
            child.join(20)
            print(child.exitcode, flush=True)
            child.kill()
    """
    ended = python(write_script(tmp_path, body))
    assert (ended.status, ended.out) == (0, "-15\n"), ended.text


# ---- holdtrue run ----


def run(tmp_path, body: str, *options: str, env: dict[str, str] | None = None) -> Ended:
    write_script(tmp_path, body)
    return holdtrue(*RUN, *options, "train.py", cwd=tmp_path, env=env)


def test_unknown_options_and_choices_are_refused_before_anything_starts(tmp_path) -> None:
    check_sentence(run(tmp_path, LOOP, "--wrokers", "2"), 2, "--wrokers")
    check_sentence(
        run(tmp_path, LOOP, "--numerics", "accurate"), 2, "--numerics is 'accurate'", "exact, portable, fast"
    )
    tpu = holdtrue("run", "--device", "tpu", "train.py", cwd=tmp_path)
    check_sentence(tpu, 2, "--device is 'tpu'", "cpu", "cuda", "auto")
    assert not (tmp_path / "r").exists()


def test_wrong_use_by_a_script_is_said_once_for_all_workers(tmp_path) -> None:
    ended = run(tmp_path, "ht.init(virtual_nodes=4, global_batch_size=3)", "--workers", "2")
    check_sentence(ended, 2, "global_batch_size is 3 and virtual_nodes is 4", "Lower virtual_nodes")
    assert ended.err.count("global_batch_size is 3") == 1


def test_a_second_init_in_a_group_is_refused(tmp_path) -> None:
    ended = run(tmp_path, LOOP + "\nstart()", "--workers", "2")
    check_sentence(
        ended, 2, "holdtrue.init was called a second time", "one job", "run.prepare takes them all"
    )


def test_an_initial_model_that_differs_between_workers_fails_the_job_by_name(tmp_path) -> None:
    body = """
    model = Net()
    with torch.no_grad():
        model.line.bias.fill_(time.perf_counter())
    run, model = start(model)
    for step in run.steps(examples()):
        take_step(step, model)
    """
    ended = run(tmp_path, body, "--workers", "2")
    check_sentence(
        ended, 1, "worker 1 differs from worker 0's before the first step", "weights/line.bias", "the clock"
    )


@pytest.mark.parametrize("leaver", [0, 1])
def test_one_worker_that_leaves_alone_ends_the_job_soon_and_both_are_named(tmp_path, leaver: int) -> None:
    body = f"""
    run, model = start()
    for step in run.steps(examples(), epochs=4):
        take_step(step, model)
        if step.index == 3 and run.is_main == ({leaver} == 0):
            break
    """
    ended = run(tmp_path, body, "--workers", "2")
    check_sentence(
        ended,
        1,
        f"worker {leaver}",
        f"worker {1 - leaver}",
        "at step 4",
        "the end of the script",
        "same calls",
        "run.stop(reason)",
    )
    assert ended.seconds < 40


def test_one_worker_that_goes_on_to_another_call_ends_the_job_soon_and_both_are_named(tmp_path) -> None:
    body = """
    run, model = start()
    for step in run.steps(examples(), epochs=4):
        take_step(step, model)
        if step.index == 3 and not run.is_main:
            break
    run.evaluate(lambda x, y: {"a": 1.0}, examples())
    """
    ended = run(tmp_path, body, "--workers", "2")
    check_sentence(ended, 1, "worker 0", "worker 1", "step 4", "evaluate", "same calls in the same order")
    assert ended.seconds < 40


DIES = """
run, model = start()
for step in run.steps(examples(), epochs=40):
    for i, batch in enumerate(step):
        if (step.index, i) == (5, 1) and os.environ["HOLDTRUE_WORKER_WORKER"] == "{victim}":
            pathlib.Path("died").touch()
            {end}
        step.backward(loss_of(model, batch))
    step.update()
"""


@pytest.mark.parametrize("victim", [0, 1])
def test_a_worker_that_is_killed_is_named_with_its_pass_and_log_and_the_run_goes_on(tmp_path, victim) -> None:
    body = DIES.format(victim=victim, end="os.kill(os.getpid(), signal.SIGKILL)")
    ended = run(tmp_path, body, "--workers", "2")
    assert (tmp_path / "died").exists()
    words = (
        f"worker {victim} was killed by SIGKILL",
        "step 5",
        f"r/logs/worker-{victim}.log",
        "done: 120 steps",
    )
    check_sentence(ended, 0, *words)
    assert f"worker {1 - victim} " not in ended.err
    assert "connection" not in ended.err


def test_a_worker_that_ends_with_a_status_of_its_own_ends_the_job_with_it(tmp_path) -> None:
    ended = run(tmp_path, DIES.format(victim=1, end="os._exit(9)"), "--workers", "2")
    assert (tmp_path / "died").exists()
    check_sentence(ended, 9, "worker 1 ended with exit status 9", "r/logs/worker-1.log")
    assert "connection" not in ended.err


def test_an_exception_on_one_worker_is_shown_once_with_its_place_and_status_1(tmp_path) -> None:
    body = """
    run, model = start()
    for step in run.steps(examples(), shuffle=False):
        for i, (x, y) in enumerate(step):
            if step.index == 1 and not run.is_main:
                raise KeyError("my own mistake")
            step.backward(loss_of(model, (x, y)))
        step.update()
    """
    ended = run(tmp_path, body, "--workers", "2")
    assert ended.status == 1
    assert ended.err.count("KeyError: 'my own mistake'") == 1
    assert "in the pass of virtual node 2, step 1: examples 12, 13 of the dataset" in ended.err
    assert "worker 1" in ended.err
    assert "connection to another worker broke" not in ended.err


def test_a_worker_that_hangs_is_killed_after_the_time_out_and_the_run_goes_on(tmp_path) -> None:
    body = """
    run, model = start()
    for step in run.steps(examples()):
        if step.index == 1 and os.environ["HOLDTRUE_WORKER_WORKER"] == "1":
            signal.pause()
        take_step(step, model)
    """
    ended = run(tmp_path, body, "--workers", "2", "--timeout", "3")
    check_sentence(ended, 0, "worker 1 killed: it is silent and the others have lost it", "done: 3 steps")


def test_a_second_run_in_one_run_directory_is_refused_by_command_and_script(tmp_path) -> None:
    assert run(tmp_path, LOOP).status == 0
    check_sentence(run(tmp_path, LOOP), 2, "r already holds a run", "--run-dir", "--resume")
    check_sentence(
        python(tmp_path / "train.py", env={"HOLDTRUE_RUN_DIR": "r"}),
        2,
        "r already holds a run",
        "--run-dir",
        "--resume",
    )
    changed = run(tmp_path, LOOP, "--resume", "--seed", "5")
    check_sentence(
        changed, 2, "another plan", "seed is 5 here and 0 there", "never changes", "another --run-dir"
    )


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [0, 1])
def test_a_worker_that_is_stopped_is_killed_too_also_where_it_hosts_the_store(tmp_path, stopped: int) -> None:
    body = f"""
    run, model = start()
    for step in run.steps(examples()):
        if step.index == 1 and os.environ["HOLDTRUE_WORKER_WORKER"] == "{stopped}":
            os.kill(os.getpid(), signal.SIGSTOP)
        take_step(step, model)
    """
    ended = run(tmp_path, body, "--workers", "2", "--timeout", "3")
    check_sentence(ended, 0, f"worker {stopped} killed: it is silent", "done: 3 steps")
    assert "out-of-memory" not in ended.err


def test_a_loop_left_by_break_as_the_last_thing_leaves_a_checkpoint_and_the_digest_of_its_last_step(
    tmp_path,
) -> None:
    body = """
    run, model = start()
    for step in run.steps(examples(), epochs=4):
        take_step(step, model)
        if step.index == 6:
            run.on_main(pathlib.Path("mine").write_text, "")
            break
    """
    ended = run(tmp_path, body, "--workers", "2", "--digest-every", "4")
    assert ended.status == 0, ended.text
    record = read_run(tmp_path / "r")
    assert [s for s, step in record.steps.items() if step.digest is not None] == [3, 6]
    assert f"digest {record.steps[6].digest[:16]}" in ended.err
    assert [p.name for p in (tmp_path / "r" / "checkpoints").iterdir()] == ["step-00000007"]
