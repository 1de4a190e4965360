"""Models and data from files, and how far two runtimes are apart."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from holdtrue.errors import DataError, UsageError
from holdtrue.inference import compare_outputs, count_ulps, load_data, load_model
from holdtrue.inference._data import Rows
from holdtrue.inference._export import _compare, _of_each
from holdtrue.inference._models import ask, check_row

FAILS = """import torch
class Net(torch.nn.Linear):
    def forward(self, x):
        return super().forward(x)
model = Net(4, 1)
"""


class Scaled(torch.nn.Module):
    """Takes a batch and a number."""

    def forward(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return x * scale


def test_ulps_count_the_numbers_in_between_on_both_sides_of_zero() -> None:
    values = torch.tensor([1.0, -1.0, 1e-30, 0.0, -0.0, 3.0e38])
    up = torch.nextafter(values, torch.full_like(values, torch.inf))
    assert count_ulps(values, values).tolist() == [0] * 6
    assert count_ulps(values, up).tolist() == [1] * 6
    assert count_ulps(up, values).tolist() == [1] * 6
    smallest = torch.tensor([1e-45])
    assert count_ulps(smallest, -smallest).tolist() == [2]
    nan = torch.tensor([float("nan")])
    assert count_ulps(nan, nan).tolist() == [0]
    assert count_ulps(nan, smallest).tolist() == [2**32]


def test_an_agreement_says_bits_and_predictions() -> None:
    a = torch.tensor([[1.0, 2.0, 0.0], [5.0, 1.0, 1.0]])
    b = a.clone()
    assert compare_outputs(a, b).sentence == "equal in every bit; 0 of 2 predictions differ"
    b[0, 0] = 2.5
    found = compare_outputs(a, b)
    assert (found.differing, found.examples, found.absolute) == (1, 2, 1.5)
    assert "1 of 2 predictions differ" in found.sentence
    close = torch.tensor([[1.0 + 2.0**-40, 1.0]], dtype=torch.float64)
    assert compare_outputs(close, close.round()).sentence.startswith("at most 0 ulps apart (9.09e-13)")


def test_the_proof_of_an_export_is_of_every_output() -> None:
    a = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    found = _compare([a, a > 2, a], [a, a > 2, a + 0.5], 2)
    assert (found.absolute, found.differing, found.examples) == (0.5, 0, 2)
    with pytest.raises(UsageError, match="has 2 outputs, and 1 where it was written to"):
        _compare([a, a], [a], 2)
    with pytest.raises(UsageError, match="the model gave a str for 2 examples"):
        _of_each([a, "text"], 2)


@pytest.mark.parametrize("ending", ["npy", "npz", "safetensors", "csv"])
def test_rows_of_a_file_are_fresh_float32_tensors(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"data.{ending}"
    array = np.arange(12.0).reshape(4, 3)
    if ending == "npy":
        np.save(path, array)
    elif ending == "npz":
        np.savez(path, x=array, n=np.arange(4))
    elif ending == "safetensors":
        save_file({"x": array, "n": np.arange(4)}, path)
    else:
        np.savetxt(path, array, delimiter=",")
    rows = load_data(path)
    assert isinstance(rows, Rows)
    assert len(rows) == 4
    row = rows[2]
    x = row["x"] if isinstance(row, dict) else row
    assert x.tolist() == [6.0, 7.0, 8.0]
    assert x.dtype == torch.float32
    assert not isinstance(row, dict) or row["n"].dtype == torch.int64


@pytest.mark.parametrize(("name", "words"), [("gone.npy", "no file"), ("a.xls", "ends in .xls")])
def test_data_of_no_known_kind_is_refused(name: str, words: str, tmp_path: Path) -> None:
    if name == "a.xls":
        (tmp_path / name).write_text("")
    with pytest.raises(DataError, match=words):
        load_data(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.npy", b"no array", "cannot be read as .npy"),
        ("a.npy", b"", "cannot be read as .npy"),
        ("a.npz", b"no arrays", "cannot be read as .npz"),
        ("a.safetensors", b"no tensors", "cannot be read as .safetensors"),
        ("a.csv", b"height,width\n1,2\n", "could not convert string 'height'"),
        ("a.csv", b"", "arrays of 0 rows"),
        ("a.txt", b"", "has no line"),
        ("a.txt", b"\xff\xfe", "cannot be read as .txt"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_refused(
    name: str, content: bytes, words: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words):
        load_data(tmp_path / name)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.array([["a"]]), "array of <U1"),
        (np.float32(3.0), "one number without rows"),
        (np.zeros((0, 2)), "arrays of 0 rows"),
    ],
)
def test_an_array_that_is_no_rows_of_numbers_is_refused(array: Any, words: str, tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", array)
    with pytest.raises(DataError, match=words):
        load_data(tmp_path / "data.npy")


def test_numbers_of_another_byte_order_are_read(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", np.arange(3, dtype=">i4"))
    rows = load_data(tmp_path / "data.npy")
    assert [rows[i].item() for i in range(3)] == [0, 1, 2]


def test_models_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("import torch\ndef model(size): return torch.nn.Linear(size, 1)\n")
    with pytest.raises(UsageError, match="without arguments"):
        load_model(str(tmp_path / "net.py"))
    (tmp_path / "net.pt2").write_text("no program")
    with pytest.raises(UsageError, match="cannot be loaded as an exported program"):
        load_model(str(tmp_path / "net.pt2"))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="cannot be loaded as a transformers folder"):
        load_model(str(tmp_path))


def test_a_failure_on_rows_says_their_shape_and_where(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(FAILS)
    loaded = load_model(str(tmp_path / "net.py"))
    assert ask(loaded, "x.npy")(torch.ones(2, 4)).shape == (2, 1)
    with pytest.raises(
        UsageError, match=r"rows of x.npy, whose shape is \(5,\) of float32: .*\(net.py, line 4\)"
    ):
        ask(loaded, "x.npy")(torch.ones(2, 5))


def test_a_program_without_an_axis_of_examples_is_refused(tmp_path: Path) -> None:
    program = torch.export.export(Scaled(), (torch.ones(3, 2), torch.tensor(2.0)))
    torch.export.save(program, tmp_path / "net.pt2")
    with pytest.raises(UsageError, match="the first axis of every input is of examples"):
        load_model(str(tmp_path / "net.pt2"))
    torch.export.save(torch.export.export(torch.nn.Linear(4, 3), (torch.ones(4),)), tmp_path / "flat.pt2")
    flat = load_model(str(tmp_path / "flat.pt2"))
    with pytest.raises(UsageError, match="the program takes rows of one float32"):
        check_row(flat, torch.ones(4), "x.npy")


def test_rows_of_a_program_have_its_axes_and_elements(tmp_path: Path) -> None:
    batch = ({0: torch.export.Dim("examples")},)
    program = torch.export.export(torch.nn.Linear(4, 3), (torch.ones(8, 4),), dynamic_shapes=batch)
    torch.export.save(program, tmp_path / "net.pt2")
    loaded = load_model(str(tmp_path / "net.pt2"))
    check_row(loaded, torch.ones(4), "x.npy")
    for row, words in (
        (torch.ones(5), "5 float32"),
        (torch.ones(4).long(), "4 int64"),
        ({"a": torch.ones(4), "b": torch.ones(4)}, "4 float32 and 4 float32"),
    ):
        with pytest.raises(
            UsageError, match=f"a row of x.npy is {words}; the program takes rows of 4 float32"
        ):
            check_row(loaded, row, "x.npy")


def test_arrays_of_unlike_lengths_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", a=np.zeros(3), b=np.zeros(4))
    with pytest.raises(DataError, match="3 and 4 rows"):
        load_data(tmp_path / "data.npz")


MODEL = """
import torch
class Net(torch.nn.Linear):
    def __init__(self): super().__init__(3, 2)
model = Net()
number = 3
if __name__ == "__main__":
    raise SystemExit("a script that trains")
"""


def test_a_model_comes_from_a_python_file_by_name(tmp_path: Path) -> None:
    path = tmp_path / "net.py"
    path.write_text(MODEL)
    for name in (str(path), f"{path}:Net"):
        loaded = load_model(name)
        assert not loaded.module.training
        assert loaded(torch.ones(5, 3)).shape == (5, 2)
    with pytest.raises(UsageError, match="'number'"):
        load_model(f"{path}:number")
    (tmp_path / "w.safetensors").write_bytes(b"no")
    with pytest.raises(UsageError, match="do not fit"):
        load_model(str(path), weights=str(tmp_path / "w.safetensors"))
    with pytest.raises(UsageError, match="is no model"):
        load_model(str(tmp_path))


class Places(torch.nn.Linear):
    """Its program has the device of a constant and of a range written in it."""

    def __init__(self) -> None:
        super().__init__(3, 2)
        self.constant = torch.ones(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + torch.arange(2) + self.constant


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_program_that_was_exported_on_the_cpu_moves_whole_to_another_device(tmp_path: Path) -> None:
    """torch's device without memory stands in for a GPU: it too refuses tensors from elsewhere."""
    torch.export.save(
        torch.export.export(Places().eval(), (torch.zeros(4, 3),)), path := str(tmp_path / "net.pt2")
    )
    device = torch.device("meta")
    loaded = load_model(path, device=device)
    assert loaded(torch.zeros(4, 3, device=device)).device == device
    with pytest.raises(RuntimeError, match="not on the expected device"):  # the control: its parameters alone
        load_model(path).module.to(device)(torch.zeros(4, 3, device=device))
