"""Which folders `run.predict(out=...)` goes on with, and what it sees of the data to decide it."""

import itertools
import json
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

import holdtrue as ht
from holdtrue.errors import UsageError
from holdtrue.run import _identity, _outputs
from holdtrue.testing import run_in_process

ROWS = 43


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_outputs, "PASSES_IN_SHARD", 2)
    monkeypatch.setattr("holdtrue.run._rounds.PASSES_IN_SHARD", 2)


def predict(data: Any, out: Path | None, *, workers: int = 1, **options: Any) -> Any:
    """A prediction of the data themselves."""

    def main() -> Any:
        run = ht.init(virtual_nodes=7, global_batch_size=21)
        model = torch.nn.Linear(1, 1)
        torch.nn.init.ones_(model.weight)
        torch.nn.init.ones_(model.bias)
        run.prepare(model)
        try:
            return run.predict(lambda x: x + 0, data, out=None if out is None else str(out), **options)
        finally:
            run.close()

    return run_in_process(main, workers=workers)[0]


def rows(changed: int | None = None) -> torch.Tensor:
    values = torch.arange(2.0 * ROWS).reshape(ROWS, 2)
    if changed is not None:
        values[changed, 1] += 0.5
    return values


class Read(Dataset[Any]):
    """Rows that are read one by one."""

    def __init__(self, values: torch.Tensor, wrap: Callable[[torch.Tensor], Any] = torch.clone) -> None:
        self.values, self.wrap = values, wrap
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> Any:
        self.asked.append(index)
        return self.wrap(self.values[index])


# ---- other data ----

SEEN: dict[str, tuple[Callable[[torch.Tensor], Any], int]] = {
    "tensors": (TensorDataset, 17),
    "list": (list, 0),
    "dataset": (Read, ROWS - 1),
    "arrays": (lambda x: Read(x, lambda row: row.numpy()), 0),
    "names": (lambda x: Read(x, lambda row: {"x": row.clone()}), ROWS - 1),
    "loader": (lambda x: DataLoader(Read(x), batch_size=3), 0),
    "loading-processes": (lambda x: DataLoader(Read(x), batch_size=3, num_workers=2), ROWS - 1),
}
"""Data sets, and a row in which they may differ and it is seen."""


@pytest.mark.parametrize("kind", SEEN)
def test_other_data_are_refused_and_the_same_go_on(kind: str, tmp_path: Path) -> None:
    make, row = SEEN[kind]
    options: dict[str, Any] = {"collate_fn": by_name} if kind == "names" else {}
    first = predict(make(rows()), tmp_path, **options)
    assert first.computed == ROWS
    (tmp_path / "part-000000000006.safetensors").unlink()  # as after a kill
    with pytest.raises(
        UsageError, match=r"outputs of another prediction, with other data; .* Give another out"
    ):
        predict(make(rows(changed=row)), tmp_path, **options)
    assert not (tmp_path / "part-000000000006.safetensors").exists(), "nothing is mixed in"
    again = predict(make(rows()), tmp_path, workers=2, **options)  # the control
    assert again.computed == 6
    assert torch.equal(again.load(), rows())
    assert predict(make(rows()), tmp_path, **options).computed == 0


def by_name(examples: list[dict[str, torch.Tensor]]) -> torch.Tensor:
    return torch.stack([example["x"] for example in examples])


def test_without_the_look_old_outputs_would_pass_for_new_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: what the refusal is for."""
    monkeypatch.setattr("holdtrue.run._rounds.look_at_data", lambda *_: "")
    predict(list(rows()), tmp_path)
    found = predict(list(rows(changed=0)), tmp_path)
    assert torch.equal(found.load(), rows())


def test_an_example_between_those_that_are_looked_at_is_not_seen(tmp_path: Path) -> None:
    """The limit that docs/guarantees.md states."""
    assert 5 not in _identity.spread(ROWS)
    predict(Read(rows()), tmp_path)
    assert predict(Read(rows(changed=5)), tmp_path).computed == 0


def test_another_choice_of_a_sampler_is_other_data(tmp_path: Path) -> None:
    def chosen(first: int) -> DataLoader[Any]:
        return DataLoader(TensorDataset(rows()), batch_size=3, sampler=range(first, first + 20))

    predict(chosen(0), tmp_path)
    with pytest.raises(UsageError, match="with other data;"):
        predict(chosen(1), tmp_path)
    assert predict(chosen(0), tmp_path).computed == 0


# ---- random data ----


def test_augmentation_by_the_streams_of_the_run_is_seen_and_goes_on(tmp_path: Path) -> None:
    def draw(row: torch.Tensor) -> torch.Tensor:
        return row + torch.rand(2) + random.random() + np.random.rand()

    whole = predict(Read(rows(), draw), None)
    assert torch.equal(predict(Read(rows(), draw), tmp_path).load(), whole)
    (tmp_path / "part-000000000006.safetensors").unlink()
    found = predict(Read(rows(), draw), tmp_path)
    assert found.computed == 6
    assert torch.equal(found.load(), whole), "the look took nothing from the streams"
    with pytest.raises(UsageError, match="with other data;"):
        predict(Read(rows(changed=0), draw), tmp_path)


@pytest.mark.parametrize("workers", [1, 2])
def test_data_that_two_looks_see_unlike_are_not_refused(workers: int, tmp_path: Path) -> None:
    counter = itertools.count()
    drawing = Read(rows(), lambda row: row + next(counter))
    predict(drawing, tmp_path, workers=workers)
    assert json.loads((tmp_path / "manifest.json").read_text())["identity"]["data"] == ""
    (tmp_path / "part-000000000006.safetensors").unlink()
    assert predict(drawing, tmp_path, workers=workers).computed == 6


def test_a_look_reads_a_few_examples_twice_and_leaves_the_users_streams_alone(tmp_path: Path) -> None:
    source = Read(rows(), lambda row: row + torch.rand(2))
    drawn = []

    def main() -> None:
        run = ht.init(virtual_nodes=7, global_batch_size=21)
        model = torch.nn.Linear(1, 1)
        run.prepare(model)
        torch.manual_seed(5)
        run.predict(lambda x: x + 0, source, out=str(tmp_path))
        drawn.append(torch.rand(3))
        run.close()

    run_in_process(main)
    torch.manual_seed(5)
    assert torch.equal(drawn[0], torch.rand(3))
    looked = _identity.spread(ROWS)
    assert source.asked == [*looked, *looked, *range(ROWS)]


def test_what_is_read_by_loading_processes_is_not_opened_here(tmp_path: Path) -> None:
    source = Read(rows())
    predict(DataLoader(source, batch_size=3, num_workers=1), tmp_path)
    assert source.asked == []


# ---- kinds of devices ----


def test_data_that_another_kind_of_device_sees_otherwise_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = iter("aab")
    monkeypatch.setattr("holdtrue.run._unlike.describe_kind", lambda *_: next(kinds))
    predict(list(rows()), tmp_path)
    (tmp_path / "part-000000000006.safetensors").unlink()
    with pytest.raises(UsageError, match="with other data;"):
        predict(list(rows(changed=0)), tmp_path)
    before = (tmp_path / "manifest.json").read_bytes()
    assert predict(list(rows(changed=0)), tmp_path).computed == 6
    assert (tmp_path / "manifest.json").read_bytes() == before


# ---- what the caller names ----


def test_what_the_caller_names_decides_too(tmp_path: Path) -> None:
    predict(list(rows()), tmp_path, identity={"code": "one", "data": "of May"})
    with pytest.raises(UsageError, match="with other code of the model;"):
        predict(list(rows()), tmp_path, identity={"code": "two", "data": "of May"})
    with pytest.raises(UsageError, match="with other data and code of the model;"):
        predict(list(rows()), tmp_path, identity={"data": "of June"})
    # The control: its word stands for the look.
    assert predict(list(rows(changed=0)), tmp_path, identity={"code": "one", "data": "of May"}).computed == 0


@pytest.mark.parametrize(
    ("identity", "out", "sentence"),
    [
        ({"code": "a"}, False, "identity is given without out"),
        ({"code": 5}, True, "identity has 'code': 5; it is texts by name"),
        ({"seed": "5"}, True, "identity has the name 'seed', which the run fills in itself"),
    ],
)
def test_a_wrong_identity_is_a_sentence(identity: Any, out: bool, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=sentence):
        predict(list(rows()), tmp_path if out else None, identity=identity)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_an_older_version_is_refused_in_a_sentence(tmp_path: Path) -> None:
    predict(list(rows()), tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"format": 1}))
    with pytest.raises(
        UsageError, match=r"is of format 1, and this version of holdtrue reads format 2 alone"
    ):
        predict(list(rows()), tmp_path)


# ---- digests of examples ----


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.ones(2), torch.ones(2, dtype=torch.float64)),
        (torch.ones(2, 1), torch.ones(1, 2)),
        (np.ones(2), np.zeros(2)),
        (np.float32(1), np.float32(2)),
        (np.array(["a"]), np.array(["b"])),
        ({"a": 1}, {"b": 1}),
        ({"a": {"b": [1, "x"]}}, {"a": {"b": [1, "y"]}}),
        ((1, 2), [1, 2]),
        (None, False),
        (SimpleNamespace(__array_interface__=np.ones(2).__array_interface__), np.zeros(2)),
    ],
)
def test_unlike_examples_have_unlike_digests(one: Any, other: Any) -> None:
    assert _identity.digest_examples([one]) != _identity.digest_examples([other])
    assert _identity.digest_examples([one]) == _identity.digest_examples([one])


@pytest.mark.parametrize(
    "value", [object(), torch.ones(2).to_sparse(), np.array([object()]), {(1, 2): "a"}, {3}]
)
def test_what_is_no_number_or_text_has_no_say_beside_its_type(value: Any) -> None:
    digest = _identity.digest_examples([value])
    assert digest == _identity.digest_examples([value])
    assert digest != _identity.digest_examples([1])


def test_a_subset_is_looked_at_by_its_own_examples(tmp_path: Path) -> None:
    whole = TensorDataset(rows())
    predict(Subset(whole, range(20)), tmp_path)
    with pytest.raises(UsageError, match="with other data;"):
        predict(Subset(whole, range(1, 21)), tmp_path)
