"""`predict_file`, what workers of `holdtrue predict` run: one array in a file, also if the worker that writes it dies."""

import functools
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from elastic_job import ElasticJob, Fault
from holdtrue.errors import UsageError
from holdtrue.inference import _predict
from holdtrue.run import _outputs, _rounds
from holdtrue.testing import run_in_process

MODEL = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.line = torch.nn.Linear(4, 3)
    def forward(self, x):
        return self.line(x)
"""
ROWS = 50


@pytest.fixture(autouse=True)
def _small_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_outputs, "PASSES_IN_SHARD", 2)
    monkeypatch.setattr(_rounds, "PASSES_IN_SHARD", 2)
    monkeypatch.setattr(_predict, "WRITE_S", 0.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(MODEL)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(ROWS, 4)))
    return tmp_path


def predict(folder: Path) -> None:
    _predict.predict_file(
        f"{folder}/net.py:Net",
        f"{folder}/x.npy",
        f"{folder}/out.npy",
        weights=None,
        pass_size=3,
        pad_value=None,
    )


def expected(folder: Path) -> torch.Tensor:
    names: dict[str, type[torch.nn.Module]] = {}
    exec(MODEL, names)
    x = torch.from_numpy(np.load(folder / "x.npy")).float()
    with torch.no_grad():
        return torch.cat([names["Net"]()(part.clone()) for part in x.split(3)])


@pytest.mark.parametrize(("moment", "at"), [("write", 0), ("written", 0), ("written", 4), ("named", -1)])
def test_the_array_is_whole_if_the_worker_that_writes_it_dies(
    moment: str, at: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_some, take_name = _predict.write_some, _predict.take_name

    def reach(name: str, done: int) -> None:
        job.at(int(threading.current_thread().name.removeprefix("worker-")), done, name)

    def write(outputs: Any, out: str, done: int, pad_value: float | None) -> int:
        reach("write", done)
        found = write_some(outputs, out, done, pad_value)
        reach("written", done)
        return found

    def name(outputs: Any, out: str) -> bool:
        found = take_name(outputs, out)
        reach("named", -1)
        return found

    monkeypatch.setattr(_predict, "write_some", write)
    monkeypatch.setattr(_predict, "take_name", name)
    job = ElasticJob(
        functools.partial(predict, folder), workers=2, faults=[Fault(worker=0, step=at, phase=moment)]
    )
    notes = job.run()
    assert notes[0].was_killed
    assert job.state.how_over == "finished"
    assert torch.equal(torch.from_numpy(np.load(folder / "out.npy")), expected(folder))
    assert sorted(p.name for p in folder.iterdir()) == ["net.py", "out.npy", "x.npy"]


def change(folder: Path) -> None:
    rows: Any = np.lib.format.open_memmap(folder / "x.npy", mode="r+")
    rows[-1] += 1
    rows.flush()


def touch(folder: Path) -> None:
    os.utime(folder / "x.npy", (1, 1))


@pytest.mark.parametrize("act", [change, touch])
def test_outputs_of_a_file_that_changes_meanwhile_are_refused(
    act: Callable[[Path], None], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = _outputs.ShardFolder.write

    def write(shards: Any, start: int, *rest: Any) -> None:
        own(shards, start, *rest)
        if start == 0:
            act(folder)

    monkeypatch.setattr(_outputs.ShardFolder, "write", write)

    main = functools.partial(predict, folder)
    if act is touch:  # the control
        run_in_process(main)
        assert torch.equal(torch.from_numpy(np.load(folder / "out.npy")), expected(folder))
        return
    with pytest.raises(
        UsageError, match=r"x.npy changed while it was being predicted; .*out.npy.parts may hold"
    ):
        run_in_process(main)
    assert not (folder / "out.npy").exists()
    with pytest.raises(
        UsageError, match=r"out.npy.parts holds outputs of another prediction, with other data;"
    ):
        run_in_process(main)
