"""One worker in this process: an audit that differs, and elements that do not travel."""

from pathlib import Path

import numpy as np
import pytest
import torch

from holdtrue.errors import UsageError
from holdtrue.inference import _serve
from holdtrue.inference._models import load_model
from holdtrue.inference._serve import PassWorker, WorkerOptions
from holdtrue.serving import Frame

MODEL = """
import torch
class Turning(torch.nn.Module):
    # Large values depend on their position, and a pass of nothing but 77 fails: neither is seen at the trial.
    def forward(self, x):
        if (x[:, 0] == 77).all():
            raise ValueError("77 alone")
        return x + torch.arange(len(x))[:, None] * (x[:, :1] > 50)
class Counting(torch.nn.Module):
    passes = 0
    def forward(self, x):
        self.passes += 1
        return x + self.passes
class Short(torch.nn.Module):
    def forward(self, x):
        return x.abs().to(torch.uint16)
"""


def worker(folder: Path, name: str, example: object, device: str = "cpu") -> PassWorker:
    (folder / "net.py").write_text(MODEL)
    np.save(folder / "x.npy", example)  # type: ignore[arg-type]
    return PassWorker(
        WorkerOptions(
            model=f"{folder / 'net.py'}:{name}",
            weights=None,
            example=str(folder / "x.npy"),
            tokens=8,
            pass_size=4,
            numerics="exact",
            threads=1,
            device=device,
            audit_every=1,
        )
    )


def test_an_audit_that_differs_says_which_examples_fail_alone(tmp_path: Path) -> None:
    inputs = np.array([[77, 1], [60, 2], [61, 3]], np.float32)
    frame = Frame(head={"do": "pass", "pass": 3, "positions": [0, 1, 2, 3]}, arrays={"input": inputs})
    answer = worker(tmp_path, "Turning", np.ones((4, 2))).answer(frame)
    assert answer.head["audit"] == "differs"
    assert list(answer.head["errors"]) == ["0"]
    assert "ValueError: 77 alone" in answer.head["errors"]["0"]
    assert answer.arrays["output"].tolist() == [[60, 2], [61, 3]]


def test_a_model_that_answers_otherwise_when_it_is_asked_again_is_refused_at_the_start(
    tmp_path: Path,
) -> None:
    with pytest.raises(UsageError, match=r"another answer when it is asked again: it keeps a state.*fast\."):
        worker(tmp_path, "Counting", np.ones((4, 2)))


def test_elements_that_do_not_travel_are_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"the model's input is of uint16; a server takes float32, .*itself\."
    ):
        worker(tmp_path, "Turning", np.ones((4, 2), np.uint16))
    with pytest.raises(
        UsageError, match=r"the model's output is of uint16; a server sends float32, .*model\."
    ):
        worker(tmp_path, "Short", np.ones((4, 2)))


def test_a_worker_of_a_second_gpu_seeds_that_one_and_loads_the_model_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA itself is stood in for: what is asked of it, in which order, and that inputs are moved."""
    asked: list[object] = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: asked.append(f"use {device}"))
    monkeypatch.setattr(torch.cuda, "manual_seed", lambda seed: asked.append(f"seed {seed}"))

    def load(*names: object, device: torch.device, **_: object) -> object:
        asked.append(f"load on {device}")
        return load_model(*names, device=torch.device("cpu"), **_)  # type: ignore[arg-type]

    monkeypatch.setattr(_serve, "load_model", load)
    moved = torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "to", lambda t, to, *o: asked.append(f"to {to}") or moved(t, "cpu"))
    worker(tmp_path, "Turning", np.ones((4, 2), np.float32), device="cuda:1")
    assert asked[:2] == ["use cuda:1", "load on cuda:1"]
    assert asked[-2:] == ["seed 0", "to cuda:1"]
