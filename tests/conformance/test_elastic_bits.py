"""Members come, leave and die; after every step every living worker has the bits of one undisturbed worker."""

from collections.abc import Callable
from functools import cache

import pytest

from elastic_job import ElasticJob, Fault
from holdtrue.errors import MappingError
from holdtrue.mapping import order_by_worker
from zoo import MODELS, Case, Trace, train

Act = Callable[[ElasticJob], None]


@cache
def undisturbed(case: Case) -> Trace:
    """The run of one worker that nothing happens to."""
    notes = ElasticJob(lambda: train(case), workers=1).run()
    trace: Trace = notes[0].result
    assert len(trace.steps) >= 4
    return trace


def check(case: Case, job: ElasticJob) -> dict[int, Trace]:
    """Run the job; every step that a worker saw to its end is that of one undisturbed worker."""
    base = undisturbed(case)
    notes = job.run()
    traces = {worker: note.result for worker, note in notes.items() if note.result is not None}
    assert traces, job.sentences
    for worker, trace in traces.items():
        for note in trace.steps:
            right = base.steps[note.index]
            assert (note.loss, note.digest) == (right.loss, right.digest), (
                f"{case}, worker {worker}, step {note.index}; {job.sentences}"
            )
        indices = [note.index for note in trace.steps]
        assert indices == list(range(indices[0] if indices else len(base.steps), len(base.steps))), worker
    return traces


def at(
    worker: int,
    step: int,
    phase: str = "gather",
    nth: int = 0,
    act: Act | None = None,
    seen_by: int | None = None,
) -> Fault:
    return Fault(worker=worker, step=step, phase=phase, nth=nth, act=act, seen_by=seen_by)


def resize(workers: int) -> Act:
    return lambda job: job.resize(workers)


@pytest.mark.parametrize("mapping", ["0-2/3-5", "0-3/4-7", "0/1"])
def test_a_job_started_with_a_mapping_of_other_virtual_nodes_than_the_plans_is_refused(mapping: str) -> None:
    case = Case(model="conv", optimizer="sgd")
    with pytest.raises(MappingError, match="the plan has 7 virtual nodes"):
        ElasticJob(lambda: train(case), workers=2, mapping=mapping).run()


def test_a_living_job_that_is_asked_for_such_a_mapping_goes_on_and_says_so(
    capfd: pytest.CaptureFixture[str],
) -> None:
    case = Case(model="conv", optimizer="sgd")
    ask = at(0, 1, "exchange", act=lambda job: job.map("0-2/3-5"))
    check(case, ElasticJob(lambda: train(case), workers=2, faults=[ask]))
    said = "".join(capfd.readouterr())
    assert said.count("virtual nodes 6 have no worker") == 1
    assert "The virtual nodes are dealt out evenly." in said


@pytest.mark.parametrize("model", MODELS)
def test_a_killed_workers_passes_are_taken_over_in_the_same_step(model: str) -> None:
    case = Case(model=model, optimizer="adamw")
    traces = check(case, ElasticJob(lambda: train(case), workers=3, faults=[at(1, 1, "exchange")]))
    assert sorted(traces) == [0, 2]


@pytest.mark.parametrize("model", MODELS)
def test_workers_that_join_and_leave_change_no_bit(model: str) -> None:
    case = Case(model=model, optimizer="adamw", epochs=3)
    job = ElasticJob(
        lambda: train(case),
        workers=2,
        faults=[at(0, 1, act=resize(3)), at(0, 5, act=resize(1))],
    )
    traces = check(case, job)
    assert 0 in traces
    assert len(job.notes) == 3


PHASES = [
    ("exchange", 0),
    ("spread", 0),
    ("gather", 0),
    ("gathered", 0),
    ("gather", 1),
    ("gathered", 1),
]


@pytest.mark.parametrize("victim", [0, 1, 2])
@pytest.mark.parametrize(("phase", "nth"), PHASES)
def test_a_death_at_any_phase_of_the_exchange_changes_no_bit(phase: str, nth: int, victim: int) -> None:
    model = "gan" if nth else "conv"  # the former has a gather in each of its two rounds
    case = Case(model=model, optimizer="sgd", bucket_bytes=64)
    job = ElasticJob(lambda: train(case), workers=3, faults=[at(victim, 2, phase, nth)])
    assert sorted(check(case, job)) == [w for w in range(3) if w != victim]


@pytest.mark.parametrize("seen_by", [0, 1, 2])
@pytest.mark.parametrize("victim", [0, 1, 2])
@pytest.mark.parametrize("nth", [0, 1])
def test_a_last_message_that_only_some_received_is_handed_on(nth: int, victim: int, seen_by: int) -> None:
    if victim == seen_by:
        return
    case = Case(model="gan" if nth else "conv", optimizer="adamw")
    job = ElasticJob(lambda: train(case), workers=3, faults=[at(victim, 2, "partial", nth, seen_by=seen_by)])
    assert sorted(check(case, job)) == [w for w in range(3) if w != victim]


def test_two_deaths_in_one_step_and_one_while_the_group_is_formed_change_no_bit() -> None:
    case = Case(model="conv", optimizer="adamw", virtual_nodes=8)
    check(
        case, ElasticJob(lambda: train(case), workers=4, faults=[at(1, 2, "exchange"), at(3, 2, "exchange")])
    )
    job = ElasticJob(lambda: train(case), workers=4, faults=[at(1, 2, "exchange"), at(3, -1, "form", 1)])
    assert sorted(check(case, job)) == [0, 2]


def test_a_replacement_joins_after_a_death() -> None:
    case = Case(model="transformer", optimizer="adamw", epochs=4)
    job = ElasticJob(lambda: train(case), workers=2, restarts=1, faults=[at(0, 2, "exchange")])
    assert sorted(check(case, job)) == [1, 2]


@pytest.mark.parametrize("nth", [0])
def test_a_joiner_that_dies_while_joining_is_left_behind(nth: int) -> None:
    case = Case(model="conv", optimizer="adamw", epochs=4)
    job = ElasticJob(lambda: train(case), workers=2, faults=[at(0, 1, act=resize(3)), at(2, -1, "form", nth)])
    assert sorted(check(case, job)) == [0, 1]


def test_the_wrong_order_of_additions_is_noticed_after_a_death() -> None:
    case = Case(model="features_33", optimizer="adamw")
    job = ElasticJob(lambda: train(case), workers=3, faults=[at(1, 1, "exchange")], order=order_by_worker)
    with pytest.raises(AssertionError, match="step"):
        check(case, job)


def test_who_leaves_goes_on_if_those_who_stay_die_before_they_stand_alone() -> None:
    case = Case(model="conv", optimizer="adamw", epochs=3)
    job = ElasticJob(lambda: train(case), workers=3, faults=[at(0, 1, act=resize(1)), at(0, -1, "form", 1)])
    assert sorted(check(case, job)) == [1]
    assert job.notes[2].views[:2] == [1, 3], "it was on its way out and came back, until the resize was done"
