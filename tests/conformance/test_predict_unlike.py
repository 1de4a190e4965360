"""Predictions to disk by workers that began with other weights: of unlike devices the leading kind's, else refused."""

import json
import threading
from pathlib import Path

import pytest
import torch

import holdtrue as ht
from elastic_job import ROUND, ElasticJob, Fault
from holdtrue.errors import CallMismatchError, DivergenceError
from holdtrue.run import _outputs, _rounds, _unlike

DATA = [torch.tensor([float(i), 1.0]) for i in range(40)]


@pytest.fixture(autouse=True)
def _small_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_outputs, "PASSES_IN_SHARD", 2)
    monkeypatch.setattr(_rounds, "PASSES_IN_SHARD", 2)
    monkeypatch.setattr(_rounds, "ROUND_S", 0.0)


def is_odd() -> bool:
    return threading.current_thread().name == "worker-1"


def predict(out: Path, data: list[torch.Tensor] = DATA) -> str:
    """A prediction with a new model, whose first weights have other last bits on the odd worker."""
    run = ht.init(virtual_nodes=4, global_batch_size=8)
    torch.manual_seed(1)
    model = torch.nn.Linear(2, 3)
    if is_odd():
        with torch.no_grad():
            model.weight.copy_(torch.nextafter(model.weight, torch.full_like(model.weight, torch.inf)))
    run.prepare(model)
    run.predict(model, data, out=str(out))
    digest = run.digest()
    run.close()
    return digest


def bytes_of(out: Path) -> list[bytes]:
    return [p.read_bytes() for p in sorted(out.iterdir())]


@pytest.mark.parametrize(("workers", "grown"), [(3, None), (1, 2)])
def test_unlike_devices_predict_with_the_weights_of_the_leading_kind(
    workers: int, grown: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_unlike, "describe_kind", lambda *_: "odd" if is_odd() else "even")
    one = ElasticJob(lambda: predict(tmp_path / "one"), workers=1).run()
    grow = (
        [Fault(worker=0, step=ROUND + 1, phase="gather", act=lambda job: job.resize(grown))] if grown else []
    )
    many = ElasticJob(lambda: predict(tmp_path / "many"), workers=workers, faults=grow).run()
    assert len(many) == (grown or workers)
    assert {note.result for note in many.values()} == {one[0].result}
    # The arithmetic of the threads is one: what could differ are the weights.
    assert bytes_of(tmp_path / "many") == bytes_of(tmp_path / "one")


def test_other_weights_on_devices_of_one_kind_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(
        DivergenceError, match=r"worker 1 differs from worker 0's before predict .* weights/weight"
    ):
        ElasticJob(lambda: predict(tmp_path / "out"), workers=2).run()
    assert not (tmp_path / "out").exists()


def predict_rounded(out: Path) -> str:
    """The same with data that the odd worker computed otherwise."""
    return predict(out, [torch.nextafter(row, row + 1) for row in DATA] if is_odd() else DATA)


@pytest.mark.parametrize(("workers", "grown"), [(2, None), (1, 2)])
def test_data_that_unlike_devices_compute_otherwise_are_one_prediction(
    workers: int, grown: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(_unlike, "describe_kind", lambda *_: "odd" if is_odd() else "even")
    grow = (
        [Fault(worker=0, step=ROUND + 1, phase="gather", act=lambda job: job.resize(grown))] if grown else []
    )
    notes = ElasticJob(lambda: predict_rounded(out), workers=workers, faults=grow).run()
    assert len({note.result for note in notes.values()}) == 1
    assert ht.Outputs(out).load().shape == (40, 3)
    identity = json.loads((out / "manifest.json").read_text())["identity"]
    assert identity["data"].endswith(" as seen on even")


def test_other_data_on_devices_of_one_kind_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    """The control."""
    with pytest.raises(CallMismatchError, match=r"worker 0 and worker 1 differ in data"):
        ElasticJob(lambda: predict_rounded(tmp_path / "out"), workers=2).run()
    assert not (tmp_path / "out").exists()
