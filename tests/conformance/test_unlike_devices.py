"""Workers that round differently: replicas stay equal in every bit, since updates are those of one kind.

Workers 1 and 3 stand for devices of another kind: after each update, and in what the script registers, they have other last bits.
"""

import threading
from typing import Any

import pytest
import torch

import zoo_models
from elastic_job import ElasticJob, Fault
from holdtrue.engine import Engine
from holdtrue.errors import DivergenceError
from holdtrue.run import _unlike
from zoo import Case, Trace, train


def is_odd() -> bool:
    """Whether this thread is a worker on a device of the other kind."""
    return threading.current_thread().name in ("worker-1", "worker-3")


def nudge(tensors: Any) -> None:
    """Other last bits, as another device would have them."""
    with torch.no_grad():
        for t in tensors:
            if t.is_floating_point():
                t.copy_(torch.nextafter(t, torch.full_like(t, torch.inf)))


@pytest.fixture(autouse=True)
def _another_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    update, follow = Engine.update, zoo_models.Average.follow

    def update_elsewhere(self: Engine, *args: Any) -> float | None:
        norm = update(self, *args)
        if is_odd():
            nudge(p for _, p in self.state.named_parameters())
            nudge(v for o in self.state.optimizers for s in o.state.values() for v in s.values())
        return norm if norm is None or not is_odd() else norm * 1.001

    def follow_elsewhere(self: Any, model: torch.nn.Module) -> None:
        follow(self, model)
        if is_odd():
            nudge(self.state_dict().values())

    monkeypatch.setattr(Engine, "update", update_elsewhere)
    monkeypatch.setattr(zoo_models.Average, "follow", follow_elsewhere)
    monkeypatch.setattr(_unlike, "describe_kind", lambda *_: "odd" if is_odd() else "even")


def undisturbed(case: Case) -> Trace:
    trace: Trace = ElasticJob(lambda: train(case), workers=1).run()[0].result
    return trace


def compare(case: Case, job: ElasticJob) -> list[int]:
    """Every step of every worker has the loss and digest of one worker of the leading kind; who came to the end."""
    base = undisturbed(case)
    traces = {w: note.result for w, note in job.run().items() if note.result is not None}
    for worker, trace in traces.items():
        for note in trace.steps:
            right = base.steps[note.index]
            assert (note.loss, note.digest) == (right.loss, right.digest), (
                f"worker {worker}, step {note.index}"
            )
    return sorted(traces)


@pytest.mark.parametrize("model", ["buffers", "gan"])
def test_replicas_on_unlike_devices_are_those_of_the_leading_kind_after_every_step(model: str) -> None:
    case = Case(model=model, optimizer="adamw")
    assert compare(case, ElasticJob(lambda: train(case), workers=3)) == [0, 1, 2]


def test_a_joiner_of_another_kind_has_the_bits_of_the_others() -> None:
    case = Case(model="conv", optimizer="adamw", epochs=4)
    grow = Fault(worker=0, step=1, phase="gather", act=lambda job: job.resize(4))
    assert compare(case, ElasticJob(lambda: train(case), workers=3, faults=(grow,))) == [0, 1, 2, 3]


@pytest.mark.parametrize("is_sent", [True, False])
def test_what_a_script_registers_is_the_leaders_from_the_end_of_the_step_on(
    is_sent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDTRUE_DIGEST_EVERY", "1")  # replicas are compared after every step
    job = ElasticJob(lambda: train(Case(model="average", optimizer="adamw")), workers=2)
    if is_sent:
        assert len(job.run()) == 2
        return
    monkeypatch.setattr(_unlike.Unlike, "unify_registered", lambda self: None)
    with pytest.raises(DivergenceError, match=r"worker 1 differs .* registered/ema"):
        job.run()


def test_replicas_drift_where_each_worker_computes_its_own_update(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_unlike.Unlike, "unify_update", lambda self, norm: norm)
    case = Case(model="conv", optimizer="adamw")
    with pytest.raises(AssertionError, match=r"worker [01], step 1"):
        compare(case, ElasticJob(lambda: train(case), workers=2))


PLACES = [("spread", 0), ("spread", 1), ("gather", 1), ("gathered", 1)]


@pytest.mark.parametrize(("phase", "nth"), PLACES)
def test_the_leaders_death_while_it_sends_leaves_replicas_equal(phase: str, nth: int) -> None:
    case = Case(model="features_33", optimizer="adamw")
    fault = Fault(worker=0, step=2, phase=phase, nth=nth, is_sure=False)
    assert compare(case, ElasticJob(lambda: train(case), workers=3, faults=(fault,))) == [1, 2]
    assert fault.has_fired


@pytest.mark.parametrize("seen_by", [1, 2])
def test_a_leader_that_dies_when_only_some_have_its_bytes_leaves_replicas_equal(seen_by: int) -> None:
    case = Case(model="features_33", optimizer="adamw")
    fault = Fault(worker=0, step=2, phase="partial", nth=1, seen_by=seen_by)
    assert compare(case, ElasticJob(lambda: train(case), workers=3, faults=(fault,))) == [1, 2]


def test_when_the_leading_kind_is_gone_another_leads_and_replicas_stay_equal() -> None:
    case = Case(model="conv", optimizer="adamw", epochs=3)
    base = undisturbed(case)
    fault = Fault(worker=0, step=3, phase="exchange")
    notes = ElasticJob(lambda: train(case), workers=2, faults=(fault,), restarts=1).run()
    one, other = notes[1].result, notes[2].result
    digests = {note.index: note.digest for note in one.steps}
    assert all(digests[note.index] == note.digest for note in other.steps)
    assert digests[2] == base.steps[2].digest
    assert digests[8] != base.steps[8].digest, "the other kind leads now"
