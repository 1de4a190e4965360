"""What the ends of the workers mean for the job, and when they are stopped."""

from dataclasses import replace
from pathlib import Path

import pytest

from holdtrue.errors import UsageError
from holdtrue.launch._devices import assign_devices, count_cuda_devices
from holdtrue.launch._job import WorkerEnd
from holdtrue.launch._judge import HowOver, fails_elastic_job, judge_elastic_job, judge_ends
from holdtrue.launch._output import StderrHold, last_words
from holdtrue.launch._stopping import FAILURE_GRACE_S, FINISH_GRACE_S, STOP_WAIT_S, StopState, next_stop


def end(rank: int, status: int, **changes: object) -> WorkerEnd:
    plain = WorkerEnd(worker=rank, status=status, joined=True, log=Path(f"logs/worker-{rank}.log"))
    return replace(plain, **changes)


def judge(*ends: WorkerEnd, was_interrupted: bool = False) -> tuple[int, list[tuple[int, ...]]]:
    verdict = judge_ends(ends, script="train.py", was_interrupted=was_interrupted)
    return verdict.exit_code, [failure.workers for failure in verdict.failures]


def test_a_job_whose_workers_all_end_well_is_well() -> None:
    assert judge(end(1, 0), end(0, 0)) == (0, [])


def test_the_first_failure_gives_the_exit_code() -> None:
    assert judge(end(1, 3), end(0, 4)) == (3, [(1,), (0,)])


def test_a_death_by_signal_is_exit_code_1() -> None:
    assert judge(end(0, -11)) == (1, [(0,)])


def test_workers_that_failed_because_another_died_are_no_causes() -> None:
    lost = {"kind": "WorkerLostError", "sentence": "worker 1 is gone."}
    assert judge(end(0, 1, **lost), end(1, -9), end(2, 1, **lost)) == (1, [(1,)])


def test_workers_that_the_launcher_stopped_are_no_causes() -> None:
    assert judge(end(1, 3), end(0, -15, was_stopped=True), end(2, 130, was_stopped=True)) == (3, [(1,)])


def test_a_lost_worker_is_the_cause_where_nothing_else_is() -> None:
    assert judge(end(0, 1, kind="WaitTimeoutError", sentence="waited.")) == (1, [(0,)])


def test_the_same_mistake_on_every_worker_is_shown_once() -> None:
    wrong = {"kind": "UsageError", "sentence": "virtual_nodes is 0; the rule. The way out."}
    verdict = judge_ends([end(1, 2, **wrong), end(0, 2, **wrong)], script="t.py", was_interrupted=False)
    assert [failure.workers for failure in verdict.failures] == [(0, 1)]
    assert verdict.failures[0].log == Path("logs/worker-0.log")


def test_a_script_that_never_joins_is_wrong_use() -> None:
    verdict = judge_ends([end(0, 0, joined=False)], script="train.py", was_interrupted=False)
    assert verdict.exit_code == 2
    assert verdict.failures[0].kind == "UsageError"
    assert verdict.failures[0].sentence is not None
    assert "train.py never called holdtrue.init" in verdict.failures[0].sentence


def test_a_script_that_never_joins_and_fails_keeps_its_own_status() -> None:
    assert judge(end(0, 5, joined=False)) == (5, [(0,)])


def test_an_interrupted_job_is_130_and_its_stopped_workers_are_no_failures() -> None:
    ends = (end(0, 130), end(1, -15, was_stopped=True), end(2, 0, joined=False))
    assert judge(*ends, was_interrupted=True) == (130, [])


def test_a_failure_before_the_interrupt_is_still_shown() -> None:
    assert judge(end(0, 7), was_interrupted=True) == (130, [(0,)])


def test_after_a_failure_the_rest_is_terminated_and_then_killed_within_ten_seconds() -> None:
    state = StopState(failed_at_s=100.0)
    first = next_stop(state, interrupt_wait_s=300)
    assert first is not None
    assert (first.way, first.at_s) == ("terminate", 100.0 + FAILURE_GRACE_S)
    second = next_stop(replace(state, terminated_at_s=first.at_s), interrupt_wait_s=300)
    assert second is not None
    assert (second.way, second.at_s) == ("kill", first.at_s + STOP_WAIT_S)
    assert second.at_s - 100.0 < 10
    assert next_stop(replace(state, killed_at_s=second.at_s), interrupt_wait_s=300) is None


def test_one_interrupt_asks_and_the_second_kills_at_once() -> None:
    once = StopState(interrupts=1, interrupted_at_s=5.0)
    asked = next_stop(once, interrupt_wait_s=300)
    assert asked is not None
    assert (asked.way, asked.at_s) == ("terminate", 5.0)
    waiting = next_stop(replace(once, terminated_at_s=5.0), interrupt_wait_s=300)
    assert waiting is not None
    assert (waiting.way, waiting.at_s) == ("kill", 305.0)
    twice = next_stop(replace(once, terminated_at_s=5.0, interrupts=2), interrupt_wait_s=300)
    assert twice is not None
    assert (twice.way, twice.at_s) == ("kill", 0.0)


def test_a_failure_while_stopping_does_not_wait_for_the_step_boundary() -> None:
    state = StopState(interrupts=1, interrupted_at_s=5.0, terminated_at_s=5.0, failed_at_s=8.0)
    stop = next_stop(state, interrupt_wait_s=300)
    assert stop is not None
    assert (stop.way, stop.at_s) == ("kill", 8.0 + STOP_WAIT_S)


def test_devices_go_round_the_gpus_that_are_visible(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert count_cuda_devices({}, tmp_path) == 2
    assert count_cuda_devices({"CUDA_VISIBLE_DEVICES": "1"}, tmp_path) == 1
    assert count_cuda_devices({"CUDA_VISIBLE_DEVICES": ""}, tmp_path) == 0
    assert count_cuda_devices({"CUDA_VISIBLE_DEVICES": "0,-1,1"}, tmp_path) == 1
    assert assign_devices("cuda", 3, 2) == ("cuda:0", "cuda:1", "cuda:0")
    assert assign_devices("auto", 2, 0) == ("cpu", "cpu")
    assert assign_devices("cpu", 2, 8) == ("cpu", "cpu")


def test_cuda_without_a_gpu_is_refused() -> None:
    with pytest.raises(UsageError, match="no CUDA device"):
        assign_devices("cuda", 1, 0)


def test_an_ending_traceback_is_kept_back_and_all_else_passes() -> None:
    hold = StderrHold()
    assert hold.pass_through(b"warning\n", now_s=0, has_failed=False) == b"warning\n"
    traceback = b"Traceback (most recent call last):\n"
    assert hold.pass_through(b"x\n" + traceback, now_s=1, has_failed=False) == b"x\n"
    assert hold.pass_through(b"ValueError: boom\n", now_s=1, has_failed=False) == b""
    assert hold.release_after(1.5) == 1.5
    assert hold.release() == traceback + b"ValueError: boom\n"
    assert hold.release_after(9) is None
    assert hold.pass_through(b"the worker's own words\n", now_s=9, has_failed=True) == b""


def test_the_last_words_of_a_log_hold_the_whole_chain_of_exceptions() -> None:
    chain = [
        "Traceback (most recent call last):",
        "  a",
        "KeyError: 1",
        "",
        "During handling of the above exception, another exception occurred:",
        "",
        "Traceback (most recent call last):",
        "  b",
        "ValueError: 2",
    ]
    log = "\n".join(["Traceback (most recent call last):", "  caught", "OSError", "step 1", *chain, "", ""])
    assert list(last_words(log)) == chain
    assert last_words("".join(f"{i}\n" for i in range(100)))[-1] == "99"
    assert last_words("\x1b[31mred") == ("\\x1b[31mred",)
    assert last_words("") == ()


def judge_elastic(
    *ends: WorkerEnd, was_interrupted: bool = False, how_over: HowOver | None = None
) -> tuple[int, list[tuple[int, ...]]]:
    verdict = judge_elastic_job(ends, script="train.py", was_interrupted=was_interrupted, how_over=how_over)
    return verdict.exit_code, [failure.workers for failure in verdict.failures]


def test_a_death_is_no_failure_of_an_elastic_job_that_others_finish() -> None:
    lost = end(2, 1, kind="WorkerLostError", sentence="worker 1 is gone.")
    expelled = end(3, 1, kind="ExpelledError", sentence="outside.")
    assert judge_elastic(end(1, -9), lost, expelled, end(0, 0, finished=True)) == (0, [])
    for dead in (end(1, -9), lost, expelled):
        assert not fails_elastic_job(dead, was_interrupted=False)


def test_an_exception_in_the_script_fails_an_elastic_job_at_once() -> None:
    wrong = end(1, 1, kind="ValueError", sentence="boom")
    assert fails_elastic_job(wrong, was_interrupted=False)
    assert judge_elastic(wrong, end(2, -9), end(0, 0, finished=True)) == (1, [(1,)])
    assert judge_elastic(end(0, 7)) == (7, [(0,)])
    assert judge_elastic(end(0, 0, joined=False)) == (2, [(0,)])


def test_a_status_that_scripts_chose_at_their_end_is_that_of_the_job() -> None:
    for how_over in ("finished", None):
        chosen = (end(1, 17, finished=True), end(0, 17, finished=True))
        assert judge_elastic(*chosen, how_over=how_over) == (17, [(1,), (0,)])
    early = end(1, 3)
    assert judge_elastic(early, end(0, 0, finished=True), how_over="finished") == (0, [])
    assert judge_elastic(early, end(0, 5, finished=True), how_over="finished") == (5, [(0,)])


def test_an_elastic_job_whose_last_worker_died_failed_by_those_deaths() -> None:
    lost = end(0, 1, kind="WorkerLostError", sentence="worker 1 is gone.")
    assert judge_elastic(end(1, -9), end(0, -11)) == (1, [(1,), (0,)])
    assert judge_elastic(end(1, -9), lost) == (1, [(1,)])
    assert judge_elastic(lost) == (1, [(0,)])
    assert judge_elastic(end(1, -9, was_stopped=True), end(0, -9)) == (1, [(0,)])


def test_an_elastic_job_that_was_stopped_with_a_checkpoint_is_130_and_no_failure() -> None:
    assert judge_elastic(end(0, 130), end(1, 130)) == (130, [])
    assert judge_elastic(end(0, 130), end(1, -15, was_stopped=True), was_interrupted=True) == (130, [])
    assert judge_elastic(end(1, 130), end(0, 0, finished=True)) == (0, [])


def test_the_controllers_word_counts_for_workers_that_are_elsewhere() -> None:
    assert judge_elastic(end(0, 0), how_over="finished") == (0, [])
    assert judge_elastic(how_over="finished") == (0, [])
    assert judge_elastic(end(0, 0, finished=True), how_over="stopped") == (130, [])
    assert judge_elastic(end(0, 0), how_over="failed") == (1, [])
    assert judge_elastic(end(1, -9), end(0, 0, finished=True), how_over="failed") == (1, [(1,)])


def test_after_the_end_of_the_job_a_worker_that_goes_on_is_stopped() -> None:
    state = StopState(finished_at_s=10.0)
    stop = next_stop(state, interrupt_wait_s=300)
    assert stop is not None
    assert (stop.way, stop.at_s) == ("terminate", 10.0 + FINISH_GRACE_S)
    kill = next_stop(replace(state, terminated_at_s=40.0), interrupt_wait_s=300)
    assert kill is not None
    assert (kill.way, kill.at_s) == ("kill", 40.0 + STOP_WAIT_S)
