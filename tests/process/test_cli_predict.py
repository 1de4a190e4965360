"""`holdtrue predict` and `holdtrue export`, from the command line to the files."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from commands import holdtrue
from predict_files import MODEL, write_files

from holdtrue.run import Outputs

pytestmark = pytest.mark.process

QUIET = {"PYTHONWARNINGS": "default"}
"""Warnings of exporters about themselves are not ours."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_files(tmp_path, 100)


def expected(folder: Path, size: int) -> torch.Tensor:
    names: dict[str, type[torch.nn.Module]] = {}
    exec(MODEL, names)
    x = torch.from_numpy(np.load(folder / "x.npy")).float()
    with torch.no_grad():
        return torch.cat([names["Net"]()(part.clone()) for part in x.split(size)])


def test_predictions_are_those_of_the_model_on_any_number_of_workers(folder: Path) -> None:
    words = ("predict", "net.py:Net", "x.npy", "--device", "cpu", "--pass-size", "7")
    one = holdtrue(*words, "--out", "one.npy", cwd=folder)
    assert (one.status, one.out) == (0, f"100 predictions in {folder}/one.npy\n"), one.text
    two = holdtrue(*words, "--out", "two", "--workers", "2", cwd=folder)
    assert two.status == 0, two.text
    found = torch.from_numpy(np.load(folder / "one.npy"))
    assert torch.equal(found, expected(folder, 7))
    assert torch.equal(Outputs(folder / "two").load(), found)
    assert not (folder / "one.npy.parts").exists()


def test_a_model_that_is_not_there_is_a_sentence(folder: Path) -> None:
    done = holdtrue("predict", "gone.py", "x.npy", "--out", "out", "--device", "cpu", cwd=folder)
    assert done.status == 2
    assert "gone.py is no file" in done.err
    assert "Traceback" not in done.text


@pytest.mark.slow
def test_an_exported_model_runs_elsewhere_and_its_distance_is_written_down(folder: Path) -> None:
    pytest.importorskip("onnxruntime")
    done = holdtrue(
        "export", "net.py:Net", "x.npy", "--out", "out", "--examples", "50", cwd=folder, env=QUIET
    )
    assert done.status == 0, done.text
    assert "50 examples beside PyTorch" in done.out
    found = json.loads((folder / "out/agreement.json").read_text())["runtimes"]
    assert found["torch.export"]["ulps"] == 0
    assert found["ONNX Runtime"]["differing"] == 0
    assert found["ONNX Runtime"]["absolute"] < 1e-5
    again = holdtrue(
        "predict", "out/model.pt2", "x.npy", "--out", "p", "--device", "cpu", cwd=folder, env=QUIET
    )
    assert again.status == 0, again.text
    assert torch.equal(Outputs(folder / "p").load(), expected(folder, 32))


@pytest.mark.slow
def test_an_exported_model_runs_in_openvino_where_it_is_installed(folder: Path) -> None:
    pytest.importorskip("openvino")
    words = ("export", "net.py:Net", "x.npy", "--to", "onnx", "--out", "out", "--examples", "50")
    done = holdtrue(*words, cwd=folder, env=QUIET)
    assert done.status == 0, done.text
    assert "  OpenVINO: " in done.out
    found = json.loads((folder / "out/agreement.json").read_text())["runtimes"]["OpenVINO"]
    assert found["differing"] == 0
    assert found["absolute"] < 1e-5, "float32, and not the bfloat16 that it takes by itself"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("predict net.py:Net five.npy --out p", "fails on rows of five.npy, whose shape is (5,) of float32"),
        ("export net.py:Net five.npy --out e", "fails on rows of five.npy, whose shape is (5,) of float32"),
        ("export net.py:Net x.npy --out net.py", "--out net.py can be no folder"),
        ("export net.py:Net x.npy --to tflite", "--to names 'tflite'; the targets are onnx, torch"),
        ("predict net.py:Net x.npy --out net.py", "net.py is a file"),
    ],
)
def test_what_a_model_does_not_take_and_what_cannot_be_written_is_a_sentence(
    folder: Path, words: str, sentence: str
) -> None:
    np.save(folder / "five.npy", np.ones((6, 5)))
    done = holdtrue(*words.split(), cwd=folder, env=QUIET)
    assert done.status == 2, done.text
    assert sentence in " ".join(done.err.split()).replace(f"{folder}/", "")
    assert "Traceback" not in done.text


@pytest.mark.slow
def test_a_program_of_a_fixed_size_is_exported_on_fewer_examples(folder: Path) -> None:
    names: dict[str, type[torch.nn.Module]] = {}
    exec(MODEL, names)
    torch.export.save(torch.export.export(names["Net"](), (torch.ones(8, 4),)), folder / "net.pt2")
    np.save(folder / "one.npy", np.ones((1, 4)))
    for model in ("net.pt2", "net.py:Net"):
        done = holdtrue("export", model, "one.npy", "--to", "torch", "--out", "out", cwd=folder, env=QUIET)
        assert done.status == 0, done.text
        assert done.out.startswith("1 example beside PyTorch")


@pytest.mark.slow
def test_weights_are_read_beside_the_model(folder: Path) -> None:
    names: dict[str, type[torch.nn.Module]] = {}
    exec(MODEL.replace("manual_seed(1)", "manual_seed(2)"), names)
    safetensors.torch.save_file(names["Net"]().state_dict(), folder / "w.safetensors")
    words = (
        "predict",
        "net.py:Net",
        "x.npy",
        "--device",
        "cpu",
        "--weights",
        "w.safetensors",
        "--out",
        "w.npy",
    )
    assert holdtrue(*words, cwd=folder).status == 0
    assert not torch.equal(torch.from_numpy(np.load(folder / "w.npy")), expected(folder, 32))


@pytest.mark.slow
def test_a_transformers_folder_predicts_lines_of_text(folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"[PAD]": 0, "[UNK]": 1, "a": 2, "b": 3}, "[UNK]")
    )
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")
    config = transformers.BertConfig(
        vocab_size=4, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    model = transformers.BertForSequenceClassification(config).eval()
    model.save_pretrained(folder / "bert")
    fast.save_pretrained(folder / "bert")
    lines = ["a b", "b", "a a a b", "c a"]
    (folder / "lines.txt").write_text("\n".join(lines))
    done = holdtrue(
        "predict", "bert", "lines.txt", "--out", "p.npy", "--device", "cpu", cwd=folder, env=QUIET
    )
    assert done.status == 0, done.text
    with torch.no_grad():
        logits = model(**fast(lines, padding=True, return_tensors="pt")).logits
    torch.testing.assert_close(torch.from_numpy(np.load(folder / "p.npy")), logits)
