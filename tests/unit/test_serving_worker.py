"""One worker in this process: an audit that differs, and elements that do not travel."""

from pathlib import Path

import numpy as np
import pytest

from holdtrue.errors import UsageError
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
class Short(torch.nn.Module):
    def forward(self, x):
        return x.abs().to(torch.uint16)
"""


def worker(folder: Path, name: str, example: object) -> PassWorker:
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
            device="cpu",
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


def test_elements_that_do_not_travel_are_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"the model's input is of uint16; a server takes float32, .*itself\."
    ):
        worker(tmp_path, "Turning", np.ones((4, 2), np.uint16))
    with pytest.raises(
        UsageError, match=r"the model's output is of uint16; a server sends float32, .*model\."
    ):
        worker(tmp_path, "Short", np.ones((4, 2)))
