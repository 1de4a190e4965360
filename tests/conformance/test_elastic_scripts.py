"""Whole scripts whose members come, leave and die at random: evaluations, EMA, generators, streams, several loops.

What every worker that comes to the end holds - digest, results of evaluations, the script's own variables - is what
one undisturbed worker holds.
"""

import random
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import holdtrue as ht
import resumable
from elastic_job import ElasticJob, Fault
from holdtrue.record import RunRecord, read_run

SCRIPTS: dict[str, Callable[[str | None], dict[str, Any]]] = {
    "everything": resumable.everything,
    "streaming": resumable.streaming,
}
STEPS = {"everything": 12, "streaming": 14}
MOMENTS = ("pass", "passes done", "updated", "between")
COLLECTIVES = ("exchange", "spread", "gather", "gathered", "partial")


def run_script(script: str, job: ElasticJob, monkeypatch: pytest.MonkeyPatch) -> dict[int, dict[str, Any]]:
    def moment(name: str, step: int) -> None:
        job.at(int(threading.current_thread().name.removeprefix("worker-")), step, name)

    with monkeypatch.context() as patch:
        patch.setattr(resumable, "on_moment", moment)
        notes = job.run()
    return {worker: note.result for worker, note in notes.items() if note.result is not None}


def held(found: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if name != "run"}


@cache
def undisturbed(script: str) -> dict[str, Any]:
    """What one worker holds at the end; a joiner's `counts` of a loop that was over before it came are 0."""
    notes = ElasticJob(lambda: SCRIPTS[script](None), workers=1).run()
    return held(notes[0].result)


def random_job(script: str, seed: int) -> ElasticJob:
    """A job with two or three founders and up to four faults drawn from a seed."""
    draw = random.Random(seed)
    faults = []
    for _ in range(draw.randint(1, 4)):
        worker, step = draw.choice((0, 0, 1, 1, 2, 3)), draw.randrange(STEPS[script])
        kind = draw.random()
        phase = draw.choice(MOMENTS if kind < 0.3 else COLLECTIVES)
        act: Callable[[ElasticJob], None] | None = None
        if kind > 0.65:
            phase, size = draw.choice(("gather", "updated", "pass")), draw.randint(1, 4)
            act = lambda job, size=size: job.resize(size)  # noqa: E731
        faults.append(
            Fault(
                worker=worker,
                step=step,
                phase=phase,
                nth=draw.randrange(3),
                act=act,
                seen_by=draw.randrange(4) if phase == "partial" else None,
                is_sure=False,
            )
        )
    if draw.random() < 0.2:
        faults.append(
            Fault(worker=draw.randrange(4), step=-1, phase="form", nth=draw.randrange(3), is_sure=False)
        )
    return ElasticJob(
        lambda: SCRIPTS[script](None), workers=draw.randint(2, 3), restarts=draw.randint(0, 3), faults=faults
    )


def check_random(script: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Faults that fired in a job whose every survivor holds the right values; -1 if nobody survived."""
    job = random_job(script, seed)
    found = run_script(script, job, monkeypatch)
    deaths = sum(note.was_killed for note in job.notes.values())
    if not found:
        assert job.state.how_over == "failed"
        assert deaths >= 1, job.sentences
        return -1
    right = undisturbed(script)
    for worker, result in found.items():
        mine = held(result)
        # A loop that was over before this worker came has no body for it: its plain variables count from where it came.
        names = [name for name in right if name != "counts"]
        assert {n: mine[n] for n in names} == {n: right[n] for n in names}, (seed, worker, job.sentences)
    return sum(fault.has_fired for fault in job.faults)


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_hold_true_through_random_changes(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fired = [check_random(script, seed, monkeypatch) for seed in range(12)]
    assert sum(n > 0 for n in fired) >= 5, "the faults hit"


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_hold_true_through_many_random_changes(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fired = [check_random(script, seed, monkeypatch) for seed in range(100, 500)]
    assert sum(n for n in fired if n > 0) >= 250, "the faults hit"


def recording(folder: str) -> str:
    run = ht.init(virtual_nodes=5, global_batch_size=15, seed=4, run_dir=f"{folder}/run")
    model, optimizer = resumable.build()
    run.prepare(model, optimizer)
    for step in run.steps(resumable.Noisy(45), epochs=3):
        for x, y in step:
            step.backward(F.cross_entropy(model(x), y))
        step.update()
        run.log(loss=step.loss)
    resumable.moment("trained", 0)
    run.save(f"{folder}/model.safetensors")
    digest = run.digest()
    run.close()
    return digest


def what_was_recorded(run: RunRecord) -> list[tuple[int, float | None, str | None]]:
    return [(step, record.loss, record.digest) for step, record in sorted(run.steps.items())]


@pytest.mark.parametrize(
    ("step", "phase", "nth"),
    [(2, "exchange", 0), (2, "gathered", 0), (4, "updated", 0), (0, "trained", 0)],
)
def test_another_worker_writes_on_where_the_main_worker_died(
    step: int, phase: str, nth: int, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDTRUE_DIGEST_EVERY", "1")
    whole = ElasticJob(lambda: recording(str(tmp_path / "whole")), workers=1).run()[0].result
    job = ElasticJob(
        lambda: recording(str(tmp_path / "cut")),
        workers=3,
        faults=[Fault(worker=0, step=step, phase=phase, nth=nth, is_sure=phase != "updated")],
    )
    assert set(run_script("recording", job, monkeypatch).values()) == {whole}
    a, b = read_run(tmp_path / "whole" / "run"), read_run(tmp_path / "cut" / "run")
    assert what_was_recorded(b) == what_was_recorded(a)
    saved = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert saved[0] == saved[1]


def test_state_of_a_single_virtual_node_survives_its_owner() -> None:
    class Counted(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = torch.nn.Linear(resumable.FEATURES, 3)
            self.register_buffer("seen", torch.zeros(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen += x.detach()[0, :2]
            return self.line(x) * (1 + 0.01 * self.seen.sum())

    def main() -> str:
        run = ht.init(virtual_nodes=4, global_batch_size=8, seed=4, buffers={"seen": "per_node"})
        torch.manual_seed(0)
        model = Counted()
        run.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
        for step in run.steps(resumable.Noisy(24), epochs=2):
            for x, y in step:
                step.backward(F.cross_entropy(model(x), y))
            step.update()
        return run.digest()

    whole = ElasticJob(main, workers=1).run()[0].result
    for victim in (0, 1):
        job = ElasticJob(main, workers=2, restarts=1, faults=[Fault(worker=victim, step=2, phase="exchange")])
        results = {note.result for note in job.run().values() if note.result is not None}
        assert results == {whole}
