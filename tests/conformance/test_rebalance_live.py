"""A running job follows its devices' speeds: virtual nodes move at step boundaries, and no bit changes."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from elastic_job import ElasticJob, Fault
from holdtrue.engine import PassTimer, timed_by
from holdtrue.mapping import order_by_worker
from holdtrue.reduce import Group
from zoo import Case, Trace, train

PASS_S = 0.02
Speeds = Callable[[int, int], float]
"""Worker and step -> seconds of one of its passes."""


class ScriptedTimer(PassTimer):
    """Says what the test's speeds say, of the passes that ran."""

    def __init__(self, speeds: Speeds, worker: int) -> None:
        super().__init__()
        self._speeds, self._worker = speeds, worker
        self._passes, self._of = 0, -1

    def begin(self, step: int, passes: int) -> None:
        self._of, self._passes = step, passes

    def end(self) -> None:
        if self._passes:
            self._passes = 0
            self._add(self._of, self._speeds(self._worker, self._of))


def make_job(
    case: Case, speeds: Speeds, *, workers: int = 2, order: object = None, faults: tuple[Fault, ...] = ()
) -> ElasticJob:
    def make(device: torch.device, group: Group) -> PassTimer:
        return ScriptedTimer(speeds, group.agent.worker)  # type: ignore[attr-defined]  # an ElasticGroup

    def main() -> Trace:
        with timed_by(make):
            return train(case)

    return ElasticJob(main, workers=workers, order=order, faults=faults)


def moving(at: int) -> Speeds:
    """Worker 1 runs at 40 %; from step `at` on it is worker 0."""
    return lambda worker, step: PASS_S / 0.4 if worker == (0 if step >= at else 1) else PASS_S


@cache
def undisturbed(case: Case) -> Trace:
    trace: Trace = ElasticJob(lambda: train(case), workers=1).run()[0].result
    return trace


def run_and_compare(case: Case, job: ElasticJob) -> dict[int, Trace]:
    """Run; after every step every worker has the loss and the digest of one undisturbed worker."""
    base = undisturbed(case)
    traces = {w: note.result for w, note in job.run().items() if note.result is not None}
    assert traces, job.sentences
    for worker, trace in traces.items():
        for note, right in zip(trace.steps, base.steps, strict=True):
            assert (note.loss, note.digest) == (right.loss, right.digest), (
                f"worker {worker}, step {note.index}"
            )
    return traces


def passes_at(traces: dict[int, Trace], step: int) -> list[int]:
    """Passes of each worker in a step."""
    return [len(traces[worker].steps[step].passes) for worker in sorted(traces)]


def is_whole(step: int) -> bool:
    """Whether a step has all its virtual nodes: every third is a short one."""
    return step % 3 != 2


@pytest.fixture(autouse=True)
def _rebalancing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDTRUE_REBALANCE", "1")


@pytest.mark.parametrize(
    "model", ["gan", *(pytest.param(name, marks=pytest.mark.slow) for name in ("conv", "buffers"))]
)
def test_a_throttle_that_moves_to_the_other_worker_is_followed_within_ten_steps_with_equal_bits(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDTRUE_RUN_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("HOLDTRUE_CHECKPOINT_EVERY", "0")
    case, moved = Case(model=model, optimizer="adamw", virtual_nodes=7, epochs=14), 20
    undisturbed.cache_clear()
    with monkeypatch.context() as alone:
        alone.setenv("HOLDTRUE_RUN_DIR", str(tmp_path / "alone"))
        undisturbed(case)
    traces = run_and_compare(case, make_job(case, moving(moved)))
    rounds = 2 if model == "gan" else 1
    counts = [passes_at(traces, step) for step in range(len(traces[0].steps))]
    assert counts[0] == [4 * rounds, 3 * rounds]
    for step in filter(is_whole, range(10, moved)):
        assert counts[step] == [5 * rounds, 2 * rounds], f"step {step}: {counts}"
    for step in filter(is_whole, range(moved + 10, len(counts))):
        assert counts[step] == [2 * rounds, 5 * rounds], f"step {step}: {counts}"
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    remaps = [event for event in events if event["kind"] == "remap"]
    assert len(remaps) == 2, events
    assert "worker 1 3 -> 2 virtual nodes" in remaps[0]["reason"]
    assert remaps[0]["details"]["predicted_gain"] > 0.2
    assert sum(event["kind"] == "remapped" for event in events) >= 1


def test_the_wrong_order_of_additions_is_noticed_when_virtual_nodes_move() -> None:
    case = Case(model="features_33", optimizer="adamw", virtual_nodes=7, epochs=5)
    with pytest.raises(AssertionError, match="step"):
        run_and_compare(case, make_job(case, moving(100), order=order_by_worker))


def test_noise_moves_nothing_and_neither_does_a_job_that_was_not_asked_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = Case(model="conv", virtual_nodes=7, epochs=10)

    def noisy(worker: int, step: int) -> float:
        return PASS_S * (1.2 if (step + worker) % 2 else 0.8)

    job = make_job(case, noisy)
    run_and_compare(case, job)
    assert job.state.generation == 1, job.sentences
    monkeypatch.setenv("HOLDTRUE_REBALANCE", "0")
    job = make_job(case, moving(100))
    run_and_compare(case, job)
    assert job.state.generation == 1, job.sentences


def test_a_worker_that_dies_while_the_new_mapping_is_entered_costs_no_bit() -> None:
    case = Case(model="conv", optimizer="adamw", virtual_nodes=7, epochs=8)
    fault = Fault(worker=0, step=-1, phase="form", nth=1)  # the main worker, which had asked for it
    job = make_job(case, moving(100), workers=3, faults=(fault,))
    assert sorted(run_and_compare(case, job)) == [1, 2]
    assert any("since a step takes" in sentence for sentence in job.sentences)
