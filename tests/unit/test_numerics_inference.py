"""Portable numerics where nothing is trained: without autograd, and for exported programs."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import nn

from holdtrue.errors import NumericsError
from holdtrue.numerics import portable_mode


class Net(nn.Module):
    """A layer of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv1d(4, 8, 3), nn.BatchNorm1d(8), nn.GELU(), nn.Linear(6, 16))
        self.middle = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.last = nn.LSTM(16, 5, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.middle(self.first(x)))[0].softmax(-1)  # type: ignore[no-any-return]  # torch's modules


def outputs(
    model: nn.Module, x: torch.Tensor, around: Callable[[], AbstractContextManager[None]]
) -> torch.Tensor:
    with portable_mode(key=2), around():
        return model(x).detach().clone()  # type: ignore[no-any-return]


@pytest.mark.parametrize("training", [True, False])
def test_inference_mode_has_the_bits_of_training(training: bool) -> None:
    """Operators that autograd takes apart, such as linear, come whole where autograd is off altogether."""
    with portable_mode(key=1):
        model, x = Net().train(training), torch.randn(3, 4, 8)
    expected = outputs(model, x, torch.enable_grad)
    assert torch.equal(outputs(model, x, torch.no_grad), expected)
    assert torch.equal(outputs(model, x, torch.inference_mode), expected)


def test_what_is_not_covered_is_refused_in_inference_mode_by_its_part() -> None:
    with portable_mode(), torch.inference_mode(), pytest.raises(NumericsError, match="_fft_r2c"):
        torch.fft.rfft(torch.ones(8))


def exported(model: nn.Module, x: torch.Tensor) -> nn.Module:
    return torch.export.export(model.eval(), (x,)).module()


def test_an_exported_program_has_the_bits_of_its_module() -> None:
    model, x = (
        nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.LayerNorm(16), nn.Linear(16, 3)),
        torch.rand(5, 4),
    )
    program = exported(model, x)
    expected = outputs(model, x, torch.no_grad)
    for around in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        assert torch.equal(outputs(program, x, around), expected)


@pytest.mark.filterwarnings("ignore:The tensor attributes:UserWarning")
@pytest.mark.parametrize(
    ("layer", "sentence"),
    [
        (nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), "attention called from Python"),
        (nn.LSTM(16, 5, batch_first=True), "the layer called from Python"),
    ],
    ids=["attention", "lstm"],
)
def test_what_an_exported_program_calls_whole_is_refused_with_the_way_out(
    layer: nn.Module, sentence: str
) -> None:
    x = torch.rand(2, 3, 16)
    program = exported(layer, x)
    with pytest.raises(NumericsError, match=f"{sentence}, not in an exported program"):
        outputs(program, x, torch.no_grad)
