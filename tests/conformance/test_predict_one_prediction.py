"""Workers that do not predict the same, or not into the same folder, are refused before they write."""

import functools
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import holdtrue as ht
from elastic_job import ElasticJob, Fault, edge_of
from holdtrue.errors import CallMismatchError, UsageError
from holdtrue.run import _outputs, _rounds
from holdtrue.testing import run_in_process

DATA = [torch.tensor([float(i), 1.0]) for i in range(40)]
Options = dict[str, Any]
computed: dict[int, int] = {}
"""What each worker says that the latest call computed."""
refused: dict[int, str] = {}
"""What was said to a worker that joined and was refused."""


@pytest.fixture(autouse=True)
def _small_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_outputs, "PASSES_IN_SHARD", 2)
    monkeypatch.setattr(_rounds, "PASSES_IN_SHARD", 2)
    monkeypatch.setattr(_rounds, "ROUND_S", 0.0)


def worker_here() -> int:
    return int(threading.current_thread().name.removeprefix("worker-"))


def predict(options: Callable[[int], Options], at: Callable[[int], None] = lambda first: None) -> list[float]:
    run = ht.init(virtual_nodes=4, global_batch_size=8)
    torch.manual_seed(1)
    model = torch.nn.Linear(2, 3)
    run.prepare(model)
    chosen = {"source": DATA} | options(worker_here())

    def outputs(x: torch.Tensor) -> dict[str, torch.Tensor]:
        at(int(x[0, 0]))
        return {"example": x[:, 0], "logits": model(x)}

    with edge_of(run, refused):
        written = run.predict(outputs, chosen.pop("source"), **chosen)
    computed[worker_here()] = written.computed
    found = written.load()
    run.close()
    examples: list[float] = found["example"].tolist()
    return examples


def grow(options: Callable[[int], Options]) -> ElasticJob:
    """One worker begins, and another one joins in the middle."""

    def at(first: int) -> None:
        job.at(worker_here(), first, "pass")

    job = ElasticJob(
        lambda: predict(options, at),
        workers=1,
        faults=[Fault(worker=0, step=8, phase="pass", act=lambda job: job.resize(2))],
    )
    return job


def in_folder(out: Path, _: int) -> Options:
    return {"out": str(out)}


OTHERS: list[tuple[Options, str, str]] = [
    ({"source": DATA[:36]}, r"examples \(40", r" and 36\)"),
    ({"batch_size": 3}, r"pass_size \(2", r" and 3\)"),
    ({"source": [*DATA[:-1], DATA[0]]}, "data", r" \(\w{32} and \w{32}\)"),
    ({"identity": {"code": "b"}}, "code", r" \(None and b\)"),
]


@pytest.mark.parametrize(("other", "shown", "values"), OTHERS)
def test_founders_that_predict_something_else_are_refused_before_anything_is_written(
    other: Options, shown: str, values: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(
        CallMismatchError, match=f"worker 0 and worker 1 differ in {shown}{values} in predict"
    ):
        run_in_process(lambda: predict(lambda rank: {"out": str(out)} | (other if rank else {})), workers=2)
    assert not out.exists()


@pytest.mark.parametrize(("other", "shown"), [each[:2] for each in OTHERS])
def test_a_joiner_that_predicts_something_else_is_refused_before_it_writes(
    other: Options, shown: str, tmp_path: Path
) -> None:
    refused.clear()
    computed.clear()
    job = grow(lambda worker: {"out": str(tmp_path)} | (other if worker else {}))
    assert job.run()[0].result == list(range(40)), "the job goes on without it"
    assert set(refused) == {1}
    assert re.search(f"differs from the job that it came to in {shown}", refused[1]), refused
    assert set(computed) == {0}


def test_a_joiner_with_the_same_goes_on(tmp_path: Path) -> None:
    """The control."""
    assert grow(lambda worker: {"out": str(tmp_path)}).run()[1].result == list(range(40))
    assert computed == {0: 40, 1: 40}, "also what was written before it joined"


def test_without_the_comparison_the_files_are_found_to_be_of_another_prediction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_rounds, "check_identities", lambda *_: None)
    monkeypatch.setattr(_rounds, "is_marked", lambda *_: True)
    options: Callable[[int], Options] = lambda rank: {"out": str(tmp_path), "source": DATA[: 40 - rank]}  # noqa: E731
    with pytest.raises(
        UsageError, match=r"part-000000000004.safetensors is not there, or of another prediction"
    ):
        run_in_process(lambda: predict(options), workers=2)
    monkeypatch.setattr(_outputs.ShardFolder, "notes", notes_of_any)
    monkeypatch.setattr(_rounds.Outputs, "read", read_blindly)
    (tmp_path / "manifest.json").unlink()
    for part in tmp_path.glob("part-*"):
        part.unlink()
    found = run_in_process(lambda: predict(options), workers=2)[0]
    assert found != list(range(40)), "which is why both are there"


def notes_of_any(folder: Any, start: int, stop: int) -> dict[str, str] | None:
    if not folder.name_of(start).exists():
        return None
    with _outputs.safetensors.safe_open(folder.name_of(start), "pt") as file:
        notes: dict[str, str] = file.metadata()
    return notes


def read_blindly(outputs: Any, index: int) -> Any:
    columns = _outputs.safetensors.torch.load_file(
        outputs.path / f"part-{outputs.starts[index]:012d}.safetensors"
    )
    return {"example": columns["0000"], "logits": columns["0001"]}


@pytest.mark.parametrize("is_there", [False, True])
def test_founders_that_do_not_share_the_folder_are_refused_before_they_write(
    is_there: bool, tmp_path: Path
) -> None:
    if is_there:  # left by an earlier command that was cut off
        for name in "01":
            with pytest.raises(KeyError):
                run_in_process(
                    functools.partial(
                        predict, functools.partial(in_folder, tmp_path / name), {0: 0, 2: 0}.__getitem__
                    )
                )
    with pytest.raises(UsageError, match=rf"worker 1 does not see in {tmp_path}/1 what worker 0 wrote"):
        run_in_process(lambda: predict(lambda rank: {"out": str(tmp_path / str(rank))}), workers=2)
    assert len(list(tmp_path.glob("1/part-*"))) == is_there


def test_a_joiner_that_does_not_share_the_folder_is_refused_before_it_computes(tmp_path: Path) -> None:
    refused.clear()
    notes = grow(lambda worker: {"out": str(tmp_path / str(worker))}).run()
    assert notes[0].result == list(range(40)), "the job goes on without it"
    assert f"worker 1 does not see in {tmp_path}/1 what worker 0 wrote" in refused[1]
    assert not (tmp_path / "1").exists()
