"""Outputs larger than memory: written as they come, in order, and completed after a kill at any pass."""

import functools
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import holdtrue as ht
from holdtrue.errors import UsageError
from holdtrue.run import _outputs
from holdtrue.testing import run_in_process

EXAMPLES = [torch.tensor([float(i), 1.0]) for i in range(43)]
UNEVEN = "0-2/4/3,5-6"


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_outputs, "PASSES_IN_SHARD", 2)
    monkeypatch.setattr("holdtrue.run._rounds.PASSES_IN_SHARD", 2)


class Killed(BaseException):
    """Stands for SIGKILL."""


def start(seed: int = 0) -> tuple[Any, Any]:
    run = ht.init(virtual_nodes=7, global_batch_size=21, seed=seed)
    torch.manual_seed(4 + seed)
    model = torch.nn.Linear(2, 3)
    run.prepare(model)
    return run, model


def predict(out: Path | None, seen: list[int], kill_at: int | None = None, seed: int = 0) -> Any:
    run, model = start(seed)

    def outputs(x: torch.Tensor) -> dict[str, torch.Tensor]:
        if kill_at is not None and kill_at in x[:, 0].int().tolist():
            raise Killed
        seen.extend(x[:, 0].int().tolist())
        return {"logits": model(x), "noise": torch.rand(len(x)), "example": x[:, 0].long()}

    try:
        return run.predict(outputs, EXAMPLES, out=None if out is None else str(out))
    finally:
        run._core.has_failed = kill_at is not None
        run.close()


@pytest.mark.parametrize("mapping", ["0-6", UNEVEN])
def test_what_is_on_disk_is_what_predict_returns_in_the_order_of_the_data_set(
    mapping: str, tmp_path: Path
) -> None:
    (whole,) = run_in_process(lambda: predict(None, []))
    seen: list[int] = []
    for found in run_in_process(lambda: predict(tmp_path, seen), mapping=mapping):
        loaded = found.load()
        assert loaded.keys() == whole.keys()
        assert all(torch.equal(loaded[name], whole[name]) for name in whole)
        assert loaded["example"].tolist() == list(range(43))
    assert sorted(seen) == list(range(43))
    assert [len(part["example"]) for part in ht.Outputs(tmp_path)] == [6] * 7 + [1]


@pytest.mark.parametrize("kill_at", range(0, 43, 4))
def test_a_prediction_that_was_killed_is_completed_without_repeating_a_written_or_dropping_an_example(
    kill_at: int, tmp_path: Path
) -> None:
    (whole,) = run_in_process(lambda: predict(None, []))
    with pytest.raises(Killed):
        run_in_process(lambda: predict(tmp_path, [], kill_at=kill_at))
    with pytest.raises(UsageError, match="not complete"):
        ht.Outputs(tmp_path)
    written = len(list(tmp_path.glob("part-*")))
    assert written == kill_at // 6
    (tmp_path / ".part-000000000042.safetensors.1.aside").write_bytes(b"torn")
    seen: list[int] = []
    found = run_in_process(lambda: predict(tmp_path, seen), mapping=UNEVEN)[0].load()
    assert all(torch.equal(found[name], whole[name]) for name in whole)
    assert sorted(seen) == list(range(6 * written, 43))
    assert not list(tmp_path.glob(".*"))


def test_a_complete_prediction_is_not_computed_again(tmp_path: Path) -> None:
    run_in_process(lambda: predict(tmp_path, []))
    seen: list[int] = []
    run_in_process(lambda: predict(tmp_path, seen), mapping="0-3/4-6")
    assert seen == []


def test_a_torn_shard_is_computed_again(tmp_path: Path) -> None:
    run_in_process(lambda: predict(tmp_path, []))
    shard = tmp_path / "part-000000000012.safetensors"
    whole = safetensors.torch.load(shard.read_bytes())
    shard.write_bytes(shard.read_bytes()[:-3])
    seen: list[int] = []
    run_in_process(lambda: predict(tmp_path, seen))
    assert seen == list(range(12, 18))
    again = safetensors.torch.load_file(shard)
    assert all(torch.equal(again[name], whole[name]) for name in whole)


def test_outputs_of_another_model_are_not_mixed_in(tmp_path: Path) -> None:
    run_in_process(lambda: predict(tmp_path, []))
    with pytest.raises(UsageError, match=r"with other seed, weights"):
        run_in_process(lambda: predict(tmp_path, [], seed=1))


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="a folder of their own"):
        run_in_process(lambda: predict(tmp_path, []))
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_memory_holds_one_shard_and_not_the_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    most = 0
    own = _outputs.ShardFolder.write

    def write(folder: Any, start: int, stop: int, passes: list[Any], pad_value: float | None) -> None:
        nonlocal most
        most = max(most, len(passes))
        own(folder, start, stop, passes, pad_value)

    monkeypatch.setattr(_outputs.ShardFolder, "write", write)
    run_in_process(lambda: predict(tmp_path, []))
    assert most == 2


def test_files_written_twice_have_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        run_in_process(
            functools.partial(predict, tmp_path / name, []), mapping="0-6" if name == "a" else UNEVEN
        )
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert names == sorted(p.name for p in (tmp_path / "b").iterdir())
    assert len(names) == 9
    assert all((tmp_path / "a" / n).read_bytes() == (tmp_path / "b" / n).read_bytes() for n in names)


def test_safetensors_by_itself_writes_its_notes_in_any_order() -> None:
    """The control: without it the test above would show nothing."""
    columns, notes = {"0000": torch.ones(2)}, {name: name for name in "abcdefgh"}
    assert len({safetensors.torch.save(columns, notes) for _ in range(20)}) > 1
    assert len({b"".join(_outputs.shard_bytes(columns, notes)) for _ in range(20)}) == 1
    again = safetensors.torch.load(b"".join(_outputs.shard_bytes(columns, notes)))
    assert torch.equal(again["0000"], columns["0000"])


def test_a_kill_before_the_manifest_has_its_name_leaves_a_folder_that_is_taken(tmp_path: Path) -> None:
    (tmp_path / ".manifest.json.0-1-77-2f.aside").write_text('{"form')
    run_in_process(lambda: predict(tmp_path, []))
    assert ht.Outputs(tmp_path).examples == 43
    assert not list(tmp_path.glob(".*"))


def test_no_two_writers_share_a_file_aside() -> None:
    names = {_outputs.name_writer(worker, 1) for worker in range(2) for _ in range(50)}
    assert len(names) == 100, "two hosts may give the same number and process id"


@pytest.mark.parametrize("mapping", ["0-6", "0-3/4-6"])
def test_ctrl_c_ends_a_prediction_between_two_rounds_and_the_same_call_goes_on(
    mapping: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("holdtrue.run._rounds.ROUND_S", 0.0)

    def interrupted() -> None:
        run, model = start()

        def outputs(x: torch.Tensor) -> torch.Tensor:
            if x[0, 0] == 12:
                assert run._core.interrupt(), "as the first Ctrl-C asks"
                assert not run._core.interrupt(), "the second ends at once"
            return model(x)

        run.predict(outputs, EXAMPLES, out=str(tmp_path))

    with pytest.raises(SystemExit) as ended:
        run_in_process(interrupted, mapping=mapping)
    assert ended.value.code == 130
    written = len(list(tmp_path.glob("part-*")))
    assert 3 <= written <= 4, "all that was begun in that round, and no more"
    assert f"outputs of {6 * written} of 43 examples are in {tmp_path}" in capsys.readouterr().err
    seen: list[int] = []
    run_in_process(lambda: predict(tmp_path, seen))
    assert sorted(seen) == list(range(6 * written, 43))


def test_a_file_without_a_row_for_each_example_is_not_read(tmp_path: Path) -> None:
    run_in_process(lambda: predict(tmp_path, []))
    part = tmp_path / "part-000000000006.safetensors"
    columns = {name: rows[:-1].contiguous() for name, rows in safetensors.torch.load_file(part).items()}
    safetensors.torch.save_file(columns, part)
    with pytest.raises(UsageError, match=r"part-000000000006\.safetensors does not hold 6 rows"):
        ht.Outputs(tmp_path).load()
