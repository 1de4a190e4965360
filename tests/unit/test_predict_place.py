"""Where `holdtrue predict` writes: what cannot be written is refused at the start, and a kill at the end leaves no trap."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import holdtrue as ht
from holdtrue.errors import UsageError
from holdtrue.inference._predict import aside_of, check_out, done_of, one_array, predict_file, take_name
from holdtrue.testing import run_in_process

MODEL = """import pathlib, torch
class Net(torch.nn.Linear):
    def __init__(self):
        torch.manual_seed(1)
        super().__init__(2, 3)
class Two(Net):
    def forward(self, x):
        with open(pathlib.Path(__file__).with_name("passes"), "a") as file:
            file.write("x")
        return super().forward(x), x
class Longer(Net):
    def forward(self, x):
        return super().forward(x)[:, : 2 if x[0, 0] < 70 else 3]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(MODEL)
    np.save(tmp_path / "x.npy", np.arange(80.0).reshape(40, 2))
    return tmp_path


def predict(folder: Path, out: str, model: str = "net.py:Net", pad_value: float | None = None) -> None:
    def main() -> None:
        predict_file(
            str(folder / model),
            str(folder / "x.npy"),
            str(folder / out),
            weights=None,
            pass_size=1,
            pad_value=pad_value,
        )

    run_in_process(main)


@pytest.mark.parametrize(
    ("out", "sentence"),
    [
        ("d.npy", r"d\.npy is a folder; a name that ends in \.npy is that of one file"),
        ("file", "file is a file; outputs are a folder"),
        ("file/x.npy", r"file/x\.npy cannot be written, since .*/file is no folder"),
        ("file/a/b", "file/a/b cannot be written, since .*/file is no folder"),
        ("n" * 300, "cannot be written \\(File name too long\\)"),
    ],
)
def test_a_place_that_cannot_be_written_is_a_sentence_before_the_model_loads(
    folder: Path, out: str, sentence: str
) -> None:
    (folder / "d.npy").mkdir()
    (folder / "file").touch()
    before = sorted(folder.rglob("*"))
    with pytest.raises(UsageError, match=sentence):
        predict(folder, out, model="gone.py")
    assert sorted(folder.rglob("*")) == before


def test_a_folder_that_is_not_ones_own_is_a_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, _: path != folder)  # root may write everywhere
    for out in ("new", "new/deep/x.npy", "x.npy"):
        with pytest.raises(UsageError, match=f"nothing may be made in {folder}"):
            check_out(str(folder / out))


def test_a_place_that_can_be_written_is_left_as_it_is(folder: Path) -> None:
    (folder / "old").mkdir()
    before = sorted(folder.rglob("*"))
    for out in ("old", "new", "new/deep/x.npy", "x.npy"):
        check_out(str(folder / out))
    assert sorted(folder.rglob("*")) == before


def test_several_outputs_are_refused_for_one_file_at_the_first_pass(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"gives tuple and not one tensor; .*/o\.npy holds one array"):
        predict(folder, "o.npy", model="net.py:Two")
    assert (folder / "passes").read_text() == "x"
    assert not list((folder / "o.npy.parts").glob("part-*"))


def test_rows_of_unlike_shapes_are_refused_for_one_file_unless_they_are_filled_up() -> None:
    shapes = iter([(2, 3), (2, 3), (2, 4), (2, 3)])

    def answer() -> torch.Tensor:
        return torch.zeros(next(shapes))

    ask = one_array(answer, "o.npy", is_padded=False)
    ask(), ask()
    with pytest.raises(UsageError, match=r"rows of shape \(3,\) and \(4,\)"):
        ask()
    shapes = iter([(2, 3), (2, 4), (2, 4, 1)])
    ask = one_array(answer, "o.npy", is_padded=True)
    ask(), ask()
    with pytest.raises(UsageError, match=r"rows of shape \(3,\) and \(4, 1\)"):
        ask()


def test_an_array_is_filled_up_to_the_longest_rows_of_all_files(folder: Path) -> None:
    predict(folder, "o.npy", model="net.py:Longer", pad_value=-1.5)
    predict(folder, "o", model="net.py:Longer", pad_value=-1.5)
    outputs = ht.Outputs(folder / "o")
    assert [outputs.read(i).shape[1] for i in range(2)] == [2, 3], "one file has shorter rows than the other"
    array = torch.from_numpy(np.load(folder / "o.npy"))
    assert torch.equal(array, outputs.load(pad_value=-1.5))
    assert (array[:35, 2] == -1.5).all()
    assert (array[35:, 2] != -1.5).all()


class Killed(BaseException):
    """Stands for SIGKILL."""


@pytest.mark.parametrize("removed", [0, 1])
def test_a_kill_while_the_folder_of_parts_is_removed_leaves_what_the_same_command_takes(
    folder: Path, removed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = str(folder / "o.npy")
    predict(folder, "o.npy")
    expected = (folder / "o.npy").read_bytes()
    with monkeypatch.context() as patch:

        def remove_some(path: Path, **_: Any) -> None:
            found = sorted(path.iterdir()) if path.exists() else []
            for file in found[:removed]:  # the manifest is the first
                file.unlink()
            if found:
                raise Killed

        patch.setattr("holdtrue.inference._predict.shutil.rmtree", remove_some)
        with pytest.raises(Killed):
            predict(folder, "o.npy")
    assert len(list(done_of(out).iterdir())) == 3 - removed, "it was killed in the middle"
    assert (folder / "o.npy").read_bytes() == expected
    predict(folder, "o.npy")
    assert (folder / "o.npy").read_bytes() == expected
    assert sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name != "__pycache__") == []
    assert not aside_of(out).exists()


def test_another_main_worker_removes_what_a_dead_one_left(tmp_path: Path) -> None:
    class Parts:
        path = tmp_path / "o.npy.parts"

    out = str(tmp_path / "o.npy")
    done_of(out).mkdir()
    (done_of(out) / "part-000000000000.safetensors").touch()
    assert take_name(Parts(), out)  # type: ignore[arg-type]  # its folder is all that is asked for
    assert list(tmp_path.iterdir()) == []


def test_a_stop_before_any_step_says_that_what_is_written_is_kept(capfd: pytest.CaptureFixture[str]) -> None:
    run = ht.init(virtual_nodes=2, global_batch_size=2)
    run.prepare(torch.nn.Linear(1, 1))
    run._core.wishes.is_interrupted = True
    with pytest.raises(SystemExit) as ended:
        run.share(0)
    run.close()
    assert ended.value.code == 130
    said = capfd.readouterr().err
    assert "before share (call 0); no step was taken, and what earlier calls have written is kept." in said
    assert "nothing to keep" not in said
