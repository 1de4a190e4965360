"""Digests of the files that a prediction depends on, and the line that says what was done."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from holdtrue.errors import UsageError
from holdtrue.inference._identity import digest_of, identity_of
from holdtrue.inference._predict import say_done


@pytest.fixture
def data(tmp_path: Path) -> str:
    (tmp_path / "x.csv").write_text("1,2\n")
    return str(tmp_path / "x.csv")


def code_of(model: Path | str, data: str) -> str:
    return identity_of(str(model), data)["code"]


def test_data_count_by_their_bytes_and_not_by_their_name(tmp_path: Path, data: str) -> None:
    model = tmp_path / "m.py"
    model.write_text("model = 1")
    first = identity_of(str(model), data)
    (tmp_path / "y.csv").write_bytes(Path(data).read_bytes())
    assert identity_of(str(model), str(tmp_path / "y.csv")) == first
    Path(data).write_text("1,3\n")
    second = identity_of(str(model), data)
    assert second["data"] != first["data"]
    assert second["code"] == first["code"]


def test_a_python_file_counts_with_the_name_in_it(tmp_path: Path, data: str) -> None:
    model = tmp_path / "m.py"
    model.write_text("model = 1")
    assert code_of(model, data) == code_of(f"{model}:model", data)
    assert code_of(model, data) != code_of(f"{model}:other", data)
    before = code_of(model, data)
    model.write_text("model = 2")
    assert code_of(model, data) != before


def test_of_a_transformers_folder_the_files_beside_the_weights_count(tmp_path: Path, data: str) -> None:
    folder = tmp_path / "bert"
    (folder / "checkpoint-1").mkdir(parents=True)
    for name in ("config.json", "vocab.txt", "model.safetensors", ".note", "checkpoint-1/config.json"):
        (folder / name).write_text("1")
    before = code_of(folder, data)
    for name in ("model.safetensors", ".note", "checkpoint-1/config.json"):
        (folder / name).write_text("2")
    assert code_of(folder, data) == before
    for name in ("config.json", "vocab.txt"):
        (folder / name).write_text("2")
        assert code_of(folder, data) != before
        (folder / name).write_text("1")
    (folder / "vocab.txt").rename(folder / "words.txt")
    assert code_of(folder, data) != before


def test_a_model_that_is_not_there_is_a_sentence(tmp_path: Path, data: str) -> None:
    with pytest.raises(UsageError, match=r"gone.py is no file"):
        identity_of(str(tmp_path / "gone.py"), data)


def test_a_digest_is_sha_256(data: str) -> None:
    assert digest_of(data) == "52186c933993da4082b3cdc7c40bb4bf"


@pytest.mark.parametrize(
    ("computed", "out", "line"),
    [
        (100, "o", "100 predictions in o"),
        (64, "o", "100 predictions in o (36 were there already)"),
        (0, "o", "100 predictions in o; all 100 were there already, and nothing was computed"),
        (64, "o.npy", "100 predictions in o.npy (36 were in o.npy.parts already)"),
    ],
)
def test_the_last_line_says_what_was_done(computed: int, out: str, line: str) -> None:
    outputs: Any = SimpleNamespace(examples=100, computed=computed)
    assert say_done(outputs, out, out if out == "o" else f"{out}.parts") == line
