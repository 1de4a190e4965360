"""`holdtrue predict` given again: what has changed meanwhile is refused, and what has not goes on, with a line that says so."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import Ended, holdtrue
from predict_files import MODEL, write_files

from holdtrue.run import Outputs

pytestmark = pytest.mark.process

FIRST = "part-000000000000.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_files(tmp_path, 100)


def predict(folder: Path, *options: str, model: str = "net.py:Net", out: str = "o.out") -> Ended:
    words = ("predict", model, "x.npy", "--out", out, "--device", "cpu", "--pass-size", "2", *options)
    return holdtrue(*words, cwd=folder)


def refused(done: Ended, differing: str) -> None:
    assert (done.status, done.out) == (2, ""), done.text
    text = " ".join(done.err.split())
    assert f"o.out holds outputs of another prediction, with other {differing};" in text, done.text
    assert "Give another out, or remove that folder" in text
    assert "Traceback" not in done.text


def bytes_of(out: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(out.iterdir())}


def test_other_data_and_another_model_are_refused_and_the_same_go_on(folder: Path) -> None:
    out = folder / "o.out"
    first = predict(folder)
    assert (first.status, first.out) == (0, f"100 predictions in {out}\n"), first.text
    whole, x = bytes_of(out), (folder / "x.npy").read_bytes()

    (out / FIRST).unlink()  # as after a kill
    np.save(folder / "x.npy", np.load(folder / "x.npy") + 1)
    refused(predict(folder), "data")
    (folder / "x.npy").write_bytes(x)
    (folder / "net.py").write_text(MODEL.replace("torch.tanh", "torch.sin"))
    refused(predict(folder), "code of the model")
    (folder / "net.py").write_text(MODEL)
    refused(predict(folder, model="net.py:Other"), "code of the model")
    assert not (out / FIRST).exists(), "nothing is mixed in"

    # The control: the same again, on other workers, completes it.
    again = predict(folder, "--workers", "2")
    assert (again.status, again.out) == (0, f"100 predictions in {out} (36 were there already)\n"), again.text
    assert bytes_of(out) == whole
    done = predict(folder)
    assert done.out == f"100 predictions in {out}; all 100 were there already, and nothing was computed\n"


@pytest.mark.slow
def test_parts_of_an_array_are_not_of_two_data_sets(folder: Path) -> None:
    done = predict(folder, out="o.out.parts")
    assert done.status == 0, done.text
    (folder / "o.out.parts").rename(folder / "o.npy.parts")  # as after a kill before the array was whole
    np.save(folder / "x.npy", np.load(folder / "x.npy") + 1)
    changed = predict(folder, out="o.npy")
    assert changed.status == 2, changed.text
    assert "o.npy.parts holds outputs of another prediction, with other data;" in " ".join(
        changed.err.split()
    )
    shutil.rmtree(folder / "o.npy.parts")
    assert predict(folder, out="o.npy").status == 0
    # An array that is whole holds no parts: the same command computes it anew.
    np.save(folder / "x.npy", np.load(folder / "x.npy") - 1)
    assert predict(folder, out="o.npy").out == f"100 predictions in {folder}/o.npy\n"
    assert predict(folder).status == 0
    assert torch.equal(torch.from_numpy(np.load(folder / "o.npy")), Outputs(folder / "o.out").load())


@pytest.mark.slow
def test_a_program_that_was_exported_anew_from_other_code_is_refused(folder: Path) -> None:
    def export(name: str) -> None:
        names: dict[str, type[torch.nn.Module]] = {}
        exec(MODEL, names)
        batch = torch.export.Dim("batch")
        program = torch.export.export(names[name](), (torch.ones(2, 4),), dynamic_shapes=({0: batch},))
        torch.export.save(program, folder / "net.pt2")

    export("Net")
    assert predict(folder, model="net.pt2").status == 0
    again = predict(folder, model="net.pt2")
    assert again.out.endswith("all 100 were there already, and nothing was computed\n")
    export("Other")
    refused(predict(folder, model="net.pt2"), "code of the model")
