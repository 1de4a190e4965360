"""Limits of memory hold through deaths and joins, also in the one step in which virtual nodes are taken over."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest

from elastic_job import ElasticJob, Fault
from holdtrue.profile import DeviceProfile, PassPoint, Profile
from holdtrue.solve import JobCosts, Place, format_job_costs
from zoo import Case, Trace, train

PEAK, GRADIENT = 1000, 100
ANY, NONE, ONE, THREE = None, 500, PEAK + GRADIENT + 99, PEAK + 2 * GRADIENT
"""Limits with which a worker of several can hold anything, no pass at all, one virtual node, and three."""
CASE = Case(model="conv", optimizer="adamw", virtual_nodes=7, epochs=5)


def costs(limits: Sequence[int | None], *, seconds: Sequence[float] | None = None) -> str:
    """The setting `costs` of a job that begins with as many devices as there are limits."""
    each = seconds or [0.02] * len(limits)
    devices = tuple(
        DeviceProfile(
            kind=f"cpu.{number}",
            torch_version="2.13.0",
            date="2026-11-28",
            memory_bytes=limit,
            points=(PassPoint(batch_size=8, seconds=pass_s, peak_bytes=PEAK),),
        )
        for number, (limit, pass_s) in enumerate(zip(limits, each, strict=True))
    )
    profile = Profile(model_name="net", devices=devices, gradient_bytes=GRADIENT)
    places = tuple(Place(kind=device.kind, device="cpu") for device in devices)
    return format_job_costs(JobCosts(profile=profile, memory_bytes={}, places=places))


@cache
def undisturbed() -> Trace:
    trace: Trace = ElasticJob(lambda: train(CASE), workers=1).run()[0].result
    return trace


Passes = dict[int, list[int]]
"""By worker, how many it ran in each step that it saw."""


def run(job: ElasticJob) -> Passes:
    """By worker, the passes that it ran in each step that it saw; every step has the bits of one undisturbed worker."""
    digests = {note.index: note.digest for note in undisturbed().steps}
    found = {}
    for worker, note in job.run().items():
        if note.result is not None:
            assert all(step.digest == digests[step.index] for step in note.result.steps), worker
            found[worker] = [len(step.passes) for step in note.result.steps]
    return found


def run_without_first(
    limits: Sequence[int | None], mapping: str, *, phase: str = "exchange", **more: Any
) -> Passes:
    """As `run`, of a job with these limits whose worker 0 dies in step 3."""
    undisturbed()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOLDTRUE_COSTS", costs(limits))
        faults = [Fault(worker=0, step=3, phase=phase), *more.pop("faults", ())]
        return run(
            ElasticJob(lambda: train(CASE), workers=len(limits), mapping=mapping, faults=faults, **more)
        )


@pytest.mark.parametrize("phase", ["exchange", "gather"])
def test_a_standby_that_cannot_hold_a_pass_takes_nothing_over_when_another_dies(phase: str) -> None:
    passes = run_without_first([THREE, NONE, ANY], "0-2/none/3-6", phase=phase)
    assert passes[1] == [0] * len(passes[1]), "the standby ran a pass"
    assert max(passes[2][4:]) == 7


def test_the_even_mapping_of_the_survivors_is_left_for_one_that_memory_allows() -> None:
    passes = run_without_first([ANY, NONE, THREE, ANY], "0-1/none/2-3/4-6")  # even would be 3, 2 and 2
    assert passes[1] == [0] * len(passes[1])
    assert max(passes[2]) <= 3
    assert (passes[2][6], passes[3][6]) in {(3, 4), (2, 5)}


def test_a_replacement_stands_on_the_place_of_the_dead_and_has_its_limit() -> None:
    passes = run_without_first([THREE, NONE, ANY], "0-2/none/3-6", restarts=1)
    assert passes[1] == [0] * len(passes[1])
    assert passes[3], "the replacement never entered"
    assert 1 <= max(passes[3]) <= 3
    assert max(passes[2][-1], passes[2][-3]) >= 4


def test_a_mapping_that_somebody_asks_for_and_memory_forbids_is_not_used(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    undisturbed()
    monkeypatch.setenv("HOLDTRUE_COSTS", costs([ANY, THREE]))
    ask = Fault(worker=0, step=2, phase="exchange", act=lambda job: job.map("0/1-6"))
    job = ElasticJob(lambda: train(CASE), workers=2, mapping="0-3/4-6", faults=[ask])
    passes = run(job)
    assert job.state.generation == 2, job.sentences
    assert max(passes[1]) <= 3
    assert "the mapping 0/1-6 gives a worker more than its memory holds; 0-3/4-6 is used" in "".join(
        capfd.readouterr()
    )


def test_workers_that_cannot_hold_the_rest_go_on_and_say_so(capfd: pytest.CaptureFixture[str]) -> None:
    passes = run_without_first([ANY, ONE], "0-5/6")
    assert max(passes[1]) == 7
    said = "".join(capfd.readouterr())
    assert "the 1 worker(s) that are left cannot hold 7 virtual nodes within their limits" in said


def test_a_worker_that_dies_while_the_mapping_is_agreed_costs_no_bit() -> None:
    second = Fault(worker=1, step=-1, phase="form", nth=1)
    passes = run_without_first([ANY, NONE, THREE, ANY], "0-1/none/2-3/4-6", faults=[second])
    assert sorted(passes) == [2, 3]
    assert max(passes[2]) <= 3
