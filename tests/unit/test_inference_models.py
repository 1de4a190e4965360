"""Models and data from files, and how far two runtimes are apart."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from holdtrue.errors import DataError, UsageError
from holdtrue.inference import compare_outputs, count_ulps, load_data, load_model
from holdtrue.inference._data import Rows


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
