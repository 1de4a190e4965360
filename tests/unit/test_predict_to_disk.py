"""Outputs larger than memory: written as they come, in order, and completed after a kill at any pass."""

import functools
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import safetensors.torch
import torch

import holdtrue as ht
from holdtrue.engine import TrainingState
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
    with pytest.raises(UsageError, match=r"with other seed \(0 there, 1 asked for\) and weights;"):
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

        def outputs(x: torch.Tensor) -> dict[str, torch.Tensor]:
            if x[0, 0] == 12:
                assert run._core.interrupt(), "as the first Ctrl-C asks"
                assert not run._core.interrupt(), "the second ends at once"
            return {"logits": model(x), "noise": torch.rand(len(x)), "example": x[:, 0].long()}

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


@pytest.mark.parametrize(
    ("first", "then", "differing"),
    [
        ({"numerics": "portable"}, {}, "numerics"),
        ({"pad_value": 0.0}, {"pad_value": -1.0}, "pad_value"),
        ({}, {"pad_value": 0.0}, "pad_value"),
    ],
)
def test_outputs_of_another_numerics_level_or_padding_are_not_mixed_in(
    first: dict[str, Any], then: dict[str, Any], differing: str, tmp_path: Path
) -> None:
    returned_by(torch.clone, tmp_path, **first)
    with pytest.raises(UsageError, match=rf"with other {differing} \(\S+ there, \S+ asked for\);"):
        returned_by(torch.clone, tmp_path, **then)


def test_a_padding_of_nan_is_the_same_again(tmp_path: Path) -> None:
    for _ in range(2):
        found = returned_by(lambda x: x, tmp_path, pad_value=float("nan"))
    assert torch.equal(found.load(), torch.stack(EXAMPLES))


def returned_by(
    fn: Callable[[torch.Tensor], Any],
    out: Path | None,
    *,
    numerics: str = "exact",
    workers: int = 1,
    **options: Any,
) -> Any:
    """A prediction with a function of the test's."""

    def main() -> Any:
        run = ht.init(virtual_nodes=7, global_batch_size=21, numerics=numerics)
        model = torch.nn.Linear(1, 1)
        torch.nn.init.ones_(model.weight)  # at each level random ones have bits of their own
        torch.nn.init.ones_(model.bias)
        run.prepare(model)
        try:
            return run.predict(fn, EXAMPLES, out=None if out is None else str(out), **options)
        finally:
            run.close()

    return run_in_process(main, workers=workers)[0]


@pytest.mark.parametrize("is_to_disk", [False, True])
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("one", "other"), [("a", "b"), ("a", None)], ids=["another-name", "no-name"])
def test_outputs_whose_structure_changes_are_not_joined(
    one: str, other: str | None, workers: int, is_to_disk: bool, tmp_path: Path
) -> None:
    def changes(x: torch.Tensor) -> Any:
        name = one if x[0, 0] < 36 else other
        return x if name is None else {name: x}

    with pytest.raises(UsageError, match=r"for one batch and .* for another"):
        returned_by(changes, tmp_path / "out" if is_to_disk else None, workers=workers)


def test_outputs_of_another_structure_than_those_on_disk_are_refused_at_the_first_pass(
    tmp_path: Path,
) -> None:
    with pytest.raises(Killed):
        run_in_process(lambda: predict(tmp_path, [], kill_at=20))
    seen: list[int] = []

    def other(x: torch.Tensor) -> torch.Tensor:
        seen.append(int(x[0, 0]))
        return x

    def main() -> None:
        run, _ = start()
        run.predict(other, EXAMPLES, out=str(tmp_path))

    with pytest.raises(
        UsageError, match=r"returned \* for one batch and \{'logits': \*, 'noise': \*, 'example': \*\}"
    ):
        run_in_process(main)
    assert seen == [18]


def test_files_of_two_structures_do_not_make_a_complete_folder(tmp_path: Path) -> None:
    """What the comparison in a worker cannot see: two of them wrote their first files in one round."""
    identity: _outputs.Identity = {"examples": 2}
    folder = _outputs.ShardFolder(tmp_path, identity, writer="0")
    folder.begin([(0, 1), (1, 2)])
    for i, name in enumerate("ab"):
        folder.write(i, i + 1, [{name: torch.ones(1, 2)}], None)
    with pytest.raises(UsageError, match=r"\{'b': \*\} for one batch and \{'a': \*\} for another"):
        folder.end([(0, 1), (1, 2)])


class Named(NamedTuple):
    row: torch.Tensor


@pytest.mark.parametrize("is_to_disk", [False, True])
@pytest.mark.parametrize(
    ("fn", "sentence"),
    [
        (Named, "returned a Named whose structure cannot be written"),
        (lambda x: {(1, 2): x}, "returned a dict whose structure cannot be written"),
        (lambda x: x.to_sparse(), "a tensor of layout torch.sparse_coo"),
        (lambda x: x.to(torch.complex128), "a tensor of torch.complex128"),
        (lambda x: torch.nested.as_nested_tensor(list(x), layout=torch.jagged), "a nested tensor"),
    ],
)
def test_outputs_that_cannot_be_written_are_refused_at_the_first_pass(
    fn: Callable[[torch.Tensor], Any], sentence: str, is_to_disk: bool, tmp_path: Path
) -> None:
    seen: list[int] = []

    def outputs(x: torch.Tensor) -> Any:
        seen.append(len(x))
        return fn(x)

    with pytest.raises(UsageError, match=re.escape(sentence)):
        returned_by(outputs, tmp_path if is_to_disk else None)
    assert len(seen) == 1


@pytest.mark.parametrize("size", [0, -1])
def test_a_pass_without_examples_is_refused(size: int, tmp_path: Path) -> None:
    for out in (None, tmp_path):
        with pytest.raises(UsageError, match=f"batch_size is {size}; a pass of evaluate or predict"):
            returned_by(torch.clone, out, batch_size=size)
    assert list(tmp_path.iterdir()) == []

    def evaluate() -> None:
        run = ht.init(virtual_nodes=7, global_batch_size=21)
        run.evaluate(lambda x: {"mean": x.mean()}, EXAMPLES, batch_size=size)

    with pytest.raises(UsageError, match=f"batch_size is {size}; a pass of evaluate or predict"):
        run_in_process(evaluate)


def test_a_folder_that_cannot_be_made_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"file/out cannot be made \(Not a directory\)"):
        returned_by(torch.clone, tmp_path / "file" / "out")


def test_another_command_that_completes_the_folder_does_not_take_a_file_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end removes what is aside, also what this one is writing."""
    own, taken = os.fsync, []

    def sync(file: int) -> None:
        own(file)
        asides = [p for p in tmp_path.iterdir() if ".part-000000000012." in p.name]
        if asides and not taken:
            taken.extend(asides)
            asides[0].unlink()

    monkeypatch.setattr("holdtrue.run._outputs.os.fsync", sync)
    found = returned_by(torch.clone, tmp_path).load()
    assert taken
    assert torch.equal(found, torch.stack(EXAMPLES))


def test_a_folder_that_another_command_removed_is_told_in_a_sentence(tmp_path: Path) -> None:
    def outputs(x: torch.Tensor) -> torch.Tensor:
        if x[0, 0] == 12:
            shutil.rmtree(tmp_path / "out")
        return x

    with pytest.raises(UsageError, match=r"another command uses the folder, or removed it"):
        returned_by(outputs, tmp_path / "out")


def test_waits_for_loading_processes_are_bounded_by_the_runs_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class SeenError(Exception):
        pass

    def see(*_: Any, timeout_s: float = 0.0, **__: Any) -> None:
        raise SeenError(timeout_s)

    monkeypatch.setattr("holdtrue.run._rounds.Loader", see)
    monkeypatch.setattr("holdtrue.run._passes.Loader", see)
    bounds = []
    for workers in (0, 1):
        loading: Any = torch.utils.data.DataLoader(EXAMPLES, batch_size=3, num_workers=workers)  # type: ignore[arg-type]
        for out in (None, str(tmp_path / "out")):

            def main(loading: Any = loading, out: str | None = out) -> None:
                run = ht.init(virtual_nodes=7, global_batch_size=21)
                run.predict(torch.clone, loading, out=out)

            with pytest.raises(SeenError) as seen:
                run_in_process(main)
            bounds.append(seen.value.args[0])
    assert bounds[:2] == [0, 0]
    assert min(bounds[2:]) > 0, "no limit"


def test_all_weights_are_digested_once_in_a_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    own = TrainingState.digest

    def digest(state: Any, *args: Any, **options: Any) -> Any:
        asked.append(options.get("what"))
        return own(state, *args, **options)

    monkeypatch.setattr(TrainingState, "digest", digest)
    returned_by(torch.clone, tmp_path)
    assert asked == ["weights"]
