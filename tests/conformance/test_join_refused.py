"""A worker that comes to a running job and would do something else than the job does ends alone; the job keeps its bits."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.data import TensorDataset

import holdtrue as ht
from elastic_job import ElasticJob, Fault, edge_of
from holdtrue.errors import CallMismatchError

EXAMPLES, BATCH = 24, 4


def number() -> int:
    return int(threading.current_thread().name.removeprefix("worker-"))


def train(epochs: int, width: int, seen: dict[int, str]) -> list[str]:
    """What the job does, or something like it; the sentence of a worker that is refused goes into `seen`."""
    run = ht.init(virtual_nodes=4, global_batch_size=BATCH, seed=1)
    model = torch.nn.Sequential(torch.nn.Linear(3, width), torch.nn.Linear(width, 1))
    run.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    data = TensorDataset(torch.arange(3.0 * EXAMPLES).reshape(-1, 3) / 50)
    digests = []
    run.share(1)  # the job's state comes to a newcomer
    with edge_of(run, seen):
        for step in run.steps(data, epochs=epochs) if epochs else ():
            for (x,) in step:
                step.backward(model(x).square().mean())
            step.update()
            digests.append(run.digest())
    run.close()
    return digests


def train_alone() -> list[str]:
    notes = ElasticJob(lambda: train(3, 2, {}), workers=1).run()
    found: list[str] = notes[0].result
    return found


def growing(main: Callable[[], list[str]], at_step: int, **changes: Any) -> ElasticJob:
    """A job of two that a third comes to."""
    return ElasticJob(main, faults=[Fault(0, at_step, "gather", act=lambda job: job.resize(3))], **changes)


def check_that_the_job_went_on(job: ElasticJob) -> None:
    right = train_alone()
    notes = job.run()
    assert [notes[worker].result for worker in (0, 1)] == [right, right], job.sentences
    assert job.state.how_over == "finished"
    assert job.state.target == 2, job.sentences
    assert any("worker 2, which had come, is refused" in sentence for sentence in job.sentences)


@pytest.mark.parametrize("epochs", [1, 2, 4])
@pytest.mark.parametrize("at_step", [1, 8])
def test_a_newcomer_whose_loop_has_another_length_ends_alone(epochs: int, at_step: int) -> None:
    seen: dict[int, str] = {}
    check_that_the_job_went_on(growing(lambda: train(3 if number() < 2 else epochs, 2, seen), at_step))
    assert set(seen) == {2}
    assert f"in steps (18 and {6 * epochs})" in seen[2]
    assert "The job goes on without it" in seen[2]


def test_a_newcomer_with_another_model_ends_alone() -> None:
    seen: dict[int, str] = {}
    check_that_the_job_went_on(growing(lambda: train(3, 2 if number() < 2 else 5, seen), 1))
    assert "the checkpoint does not fit the model of the script" in seen[2]


def test_a_newcomer_whose_script_has_no_such_loop_ends_alone(capfd: pytest.CaptureFixture[str]) -> None:
    check_that_the_job_went_on(growing(lambda: train(3 if number() < 2 else 0, 2, {}), 1))
    assert "ended before it came to where the job is" in "".join(capfd.readouterr())


def test_a_newcomer_that_does_the_same_is_taken() -> None:
    seen: dict[int, str] = {}
    notes = growing(lambda: train(3, 2, seen), 1).run()
    assert not seen
    assert notes[2].result
    assert notes[2].result == train_alone()[-len(notes[2].result) :]


def test_founders_whose_loops_differ_in_length_end_the_job() -> None:
    job = ElasticJob(lambda: train(3 - number(), 2, {}))
    with pytest.raises(CallMismatchError, match=r"worker 0 and worker 1 differ in steps \(18 and 12\)"):
        job.run()
