"""Predictions to disk whose workers die, come, leave and are stopped in the middle: the folder of one worker, byte for byte."""

import functools
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import holdtrue as ht
import resumable
from elastic_job import ROUND, ElasticJob, Fault, Note
from holdtrue.errors import DivergenceError, JoinRefusedError, UsageError
from holdtrue.run import _calls, _keeper, _outputs, _rounds

EXAMPLES = 59
PASS = 2
SHARD = 2 * PASS
SHARDS = -(-EXAMPLES // SHARD)
COLLECTIVES = ("gather", "gathered", "partial")


@pytest.fixture(autouse=True)
def _small_rounds(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A shard of two passes, and one shard of each worker in a round."""
    monkeypatch.setattr(_outputs, "PASSES_IN_SHARD", 2)
    monkeypatch.setattr(_rounds, "PASSES_IN_SHARD", 2)
    monkeypatch.setattr(_rounds, "ROUND_S", 0.0)
    yield
    jobs.clear()


jobs: list[ElasticJob] = []
"""The job that runs."""
seen: dict[int, list[int]] = {}
"""Examples whose outputs each worker computed, by its number."""


def worker_here() -> int:
    return int(threading.current_thread().name.removeprefix("worker-"))


def script(out: str) -> dict[str, Any]:
    """Training, a prediction, and training again, which must not notice who came in between."""
    run = ht.init(virtual_nodes=4, global_batch_size=8, seed=3)
    model, optimizer = resumable.build()
    run.prepare(model, optimizer)
    data = resumable.Noisy(24)

    def train() -> None:
        for step in run.steps(data):
            for x, y in step:
                step.backward(F.cross_entropy(model(x), y))
            step.update()
            run.evaluate(lambda x, y: {"loss": F.cross_entropy(model(x), y)}, data)

    def outputs(x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        jobs[0].at(worker_here(), int(y[0]) // SHARD, "pass")
        seen.setdefault(worker_here(), []).extend(y.tolist())
        return {"logits": model(x), "noise": torch.rand(len(x)), "example": y}

    train()
    scores = run.evaluate(lambda x, y: {"loss": F.cross_entropy(model(x), y)}, data)
    noisy = resumable.Noisy(EXAMPLES)
    noisy.y = torch.arange(EXAMPLES)
    found = run.predict(outputs, noisy, batch_size=PASS, out=out)
    assert found.load()["example"].tolist() == list(range(EXAMPLES))
    train()
    digest = run.digest()
    run.close()
    return {"digest": digest, "scores": scores}


def bytes_of(out: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(out.iterdir())}


def run_job(out: Path, *faults: Fault, **settings: Any) -> tuple[ElasticJob, dict[int, Note]]:
    seen.clear()
    job = ElasticJob(functools.partial(script, str(out)), faults=faults, **settings)
    jobs[:] = [job]
    return job, job.run()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Files and results of one worker that nobody disturbs."""
    out = tmp_path_factory.mktemp("whole") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_outputs, "PASSES_IN_SHARD", 2)
        patch.setattr(_rounds, "PASSES_IN_SHARD", 2)
        _, notes = run_job(out, workers=1)
    assert len(bytes_of(out)) == SHARDS + 1
    return bytes_of(out), notes[0].result


Whole = tuple[dict[str, bytes], dict[str, Any]]


def check(out: Path, notes: dict[int, Note], whole: Whole) -> set[int]:
    """The folder and the results are those of one worker; who came to the end."""
    assert bytes_of(out) == whole[0]
    found = {worker: note.result for worker, note in notes.items() if note.result is not None}
    assert found
    assert all(result == whole[1] for result in found.values())
    return set(found)


def resize(workers: int) -> Callable[[ElasticJob], None]:
    return lambda job: job.resize(workers)


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize(
    ("step", "phase"), [(6, "pass"), (7, "pass"), (ROUND + 3, "gather"), (ROUND + 3, "gathered")]
)
def test_a_death_within_a_round_repeats_no_file_and_drops_none(
    step: int, phase: str, victim: int, tmp_path: Path, whole: Whole
) -> None:
    if phase == "pass" and step % 2 != victim:
        step += 1  # that worker's own shard
    job, notes = run_job(tmp_path / "out", Fault(worker=victim, step=step, phase=phase), workers=2)
    assert notes[victim].was_killed
    assert check(tmp_path / "out", notes, whole) == {1 - victim}
    again = sorted(i for who in seen.values() for i in who)
    # Only what the dead one had in its hands is computed twice.
    assert set(again) == set(range(EXAMPLES))
    assert len(again) - EXAMPLES <= SHARD
    assert job.state.how_over == "finished"


def test_a_worker_that_joins_in_the_middle_takes_its_share_and_goes_on_in_the_script(
    tmp_path: Path, whole: Whole
) -> None:
    fault = Fault(worker=0, step=2, phase="pass", act=resize(3))
    _, notes = run_job(tmp_path / "out", fault, workers=1)
    assert check(tmp_path / "out", notes, whole) == {0, 1, 2}
    assert sorted(i for who in seen.values() for i in who) == list(range(EXAMPLES))
    assert all(len(seen[worker]) >= 3 * SHARD for worker in (0, 1, 2)), "the share of a third"


def take_leave(job: ElasticJob) -> None:
    """Worker 1 is sent SIGTERM."""
    job.agents[1].say_leaving("it was sent SIGTERM")


@pytest.mark.parametrize(("act", "left"), [(resize(1), {0}), (take_leave, {0, 2})])
def test_workers_that_leave_in_the_middle_leave_nothing_undone(
    act: Callable[[ElasticJob], None], left: set[int], tmp_path: Path, whole: Whole
) -> None:
    fault = Fault(worker=0, step=3, phase="pass", act=act)
    _, notes = run_job(tmp_path / "out", fault, workers=3)
    assert check(tmp_path / "out", notes, whole) == left
    assert sorted(i for who in seen.values() for i in who) == list(range(EXAMPLES))
    assert len(seen[1]) <= 3 * SHARD


def test_a_death_is_mended_by_a_new_worker_in_the_same_prediction(tmp_path: Path, whole: Whole) -> None:
    _, notes = run_job(tmp_path / "out", Fault(worker=1, step=3, phase="pass"), workers=2, restarts=1)
    assert notes[1].was_killed
    assert check(tmp_path / "out", notes, whole) == {0, 2}
    assert len(seen[2]) >= 2 * SHARD


@pytest.mark.parametrize("workers", [1, 3])
def test_a_stop_in_the_middle_ends_in_order_and_the_same_call_goes_on(
    workers: int, tmp_path: Path, whole: Whole
) -> None:
    out = tmp_path / "out"
    job, notes = run_job(out, Fault(worker=0, step=6, phase="pass", act=lambda job: job.stop()), workers=2)
    assert job.state.how_over == "stopped"
    assert [note.result for note in notes.values()] == [None, None]
    written = {name: content for name, content in bytes_of(out).items() if name.startswith("part-")}
    assert 0 < len(written) < SHARDS
    with pytest.raises(UsageError, match="not complete"):
        ht.Outputs(out)
    _, notes = run_job(out, workers=workers)
    check(out, notes, whole)
    again = sorted(i for who in seen.values() for i in who)
    kept = {i for name in written for i in range(int(name[5:17]), int(name[5:17]) + SHARD)}
    assert again == [i for i in range(EXAMPLES) if i not in kept]


def test_all_may_die_and_the_same_call_goes_on(tmp_path: Path, whole: Whole) -> None:
    out = tmp_path / "out"
    job, _ = run_job(
        out, Fault(worker=1, step=3, phase="pass"), Fault(worker=0, step=8, phase="pass"), workers=2
    )
    assert job.state.how_over == "failed"
    _, notes = run_job(out, workers=3)
    check(out, notes, whole)


def random_faults(seed: int) -> tuple[list[Fault], dict[str, Any]]:
    draw = random.Random(seed)
    faults = []
    for _ in range(draw.randint(1, 4)):
        worker, kind = draw.choice((0, 0, 1, 1, 2, 3)), draw.random()
        phase = "pass" if kind < 0.3 else draw.choice(COLLECTIVES)
        act = None
        if kind > 0.6:
            phase, act = draw.choice(("gather", "pass")), resize(draw.randint(1, 4))
        step = draw.randrange(SHARDS) if phase == "pass" else ROUND + draw.randrange(10)
        seen_by = draw.randrange(4) if phase == "partial" else None
        faults.append(
            Fault(
                worker=worker,
                step=step,
                phase=phase,
                nth=draw.randrange(2) if phase == "pass" else 0,  # a round has one gather, or few
                act=act,
                seen_by=seen_by,
                is_sure=False,
            )
        )
    if draw.random() < 0.2:
        faults.append(
            Fault(worker=draw.randrange(4), step=-1, phase="form", nth=draw.randrange(4), is_sure=False)
        )
    return faults, {"workers": draw.randint(2, 3), "restarts": draw.randint(0, 3)}


def check_random(seed: int, out: Path, whole: Whole) -> int:
    """Faults that fired; -1 where nobody survived, and the same call was made again."""
    faults, settings = random_faults(seed)
    job, notes = run_job(out, *faults, **settings)
    fired = sum(fault.has_fired for fault in faults)
    if job.state.how_over == "failed":
        assert any(note.was_killed for note in notes.values()), job.sentences
        _, notes = run_job(out, workers=2)
        fired = -1
    check(out, notes, whole)
    return fired


def test_predictions_hold_true_through_random_changes(tmp_path: Path, whole: Whole) -> None:
    fired = [check_random(seed, tmp_path / str(seed), whole) for seed in range(16)]
    assert sum(n > 0 for n in fired) >= 8, "the faults hit"


@pytest.mark.slow
def test_predictions_hold_true_through_many_random_changes(tmp_path: Path, whole: Whole) -> None:
    fired = [check_random(seed, tmp_path / str(seed), whole) for seed in range(100, 300)]
    assert sum(n for n in fired if n > 0) >= 100, "the faults hit"


# ---- controls: each takes a part of the machinery away, and must be noticed ----


def test_a_joiner_without_the_others_weights_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forget(keeper: Any) -> None:
        keeper._found = None
        keeper._core.calls.go_live()

    monkeypatch.setattr(_keeper.Keeper, "restore_in_call", forget)
    with pytest.raises(DivergenceError, match=r"worker 1 differs from worker 0's after joining in predict"):
        run_job(tmp_path / "out", Fault(worker=0, step=2, phase="pass", act=resize(2)), workers=1)


def test_a_joiner_that_takes_the_call_for_another_one_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_calls.CallBook, "present_number", property(lambda book: book.position.next_call - 1))
    with pytest.raises(JoinRefusedError, match="differs from the job that it came to in call"):
        run_job(tmp_path / "out", Fault(worker=0, step=2, phase="pass", act=resize(2)), workers=1)


def test_other_random_streams_of_a_joiner_would_show_in_the_bytes(
    tmp_path: Path, whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = _rounds.run_passes

    def shifted(core: Any, *args: Any) -> Any:
        return own(core, *args[:-1], args[-1] + (worker_here() == 1))

    monkeypatch.setattr(_rounds, "run_passes", shifted)
    run_job(tmp_path / "out", Fault(worker=0, step=2, phase="pass", act=resize(2)), workers=1)
    differing = {n for n, content in bytes_of(tmp_path / "out").items() if content != whole[0][n]}
    assert {int(name[5:17]) // SHARD for name in differing} == {i // SHARD for i in seen[1]} != set()


def test_a_shard_that_is_counted_as_written_and_is_not_there_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = _rounds.what_is_missing

    def drop(known: Any, words: Any) -> list[int]:
        return [i for i in own(known, words) if i != 9]

    monkeypatch.setattr(_rounds, "what_is_missing", drop)
    with pytest.raises(UsageError, match=f"part-{9 * SHARD:012d}.safetensors is not there"):
        run_job(tmp_path / "out", Fault(worker=1, step=3, phase="pass"), workers=2)
