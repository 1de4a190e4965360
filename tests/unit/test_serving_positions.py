"""An answer's bits do not depend on position, neighbours or filling: at the positions that were tried out.

Controls: batches of what waits, and all positions of a fixed shape, have other bits.
"""

import random

import numpy as np
import pytest
import torch

from holdtrue.inference._positions import (
    Example,
    Outputs,
    agreeing_positions,
    bits_of,
    lay_out,
    name_outputs,
    vary,
)

SIZE = 8
CONTROLLED = "odd rows off 16 bytes"
"""The model whose bits ordinary batching changes on every processor that we know; with others it depends."""


class Recurrent(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.line, self.out = torch.nn.LSTM(6, 24, batch_first=True), torch.nn.Linear(24, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.out(self.line(x)[0][:, -1])
        return found


class Mixing(torch.nn.Module):
    """An answer takes the mean of the batch into account."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(0)


def models() -> dict[str, tuple[torch.nn.Module, tuple[int, ...]]]:
    nn = torch.nn
    return {
        "odd rows off 16 bytes": (nn.Sequential(nn.Linear(50, 130), nn.Tanh(), nn.Linear(130, 7)), (50,)),
        "convolution": (
            nn.Sequential(
                nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)
            ),
            (1, 8, 8),
        ),
        "recurrent": (Recurrent(), (9, 6)),
        "attention": (nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), (5, 16)),
    }


def compute_of(module: torch.nn.Module):
    module.eval()

    def compute(inputs: Example) -> Outputs:
        with torch.no_grad():
            return name_outputs(module(inputs["x"]), len(inputs["x"]))

    return compute


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[pytest.mark.slow] if n in ("convolution", "recurrent") else [])
        for n in models()
    ],
)
def test_answers_under_random_arrivals_have_the_bits_of_the_request_alone(name: str) -> None:
    torch.manual_seed(3)
    module, shape = models()[name]
    compute = compute_of(module)
    examples = [{"x": torch.randn(shape)} for _ in range(40)]
    positions = agreeing_positions(compute, vary(examples[0]), SIZE)
    assert 0 in positions
    alone = [bits_of(compute(lay_out([e], (0,), SIZE)), 0) for e in examples]
    dice = random.Random(5)
    seen: set[tuple[int, int]] = set()
    dynamic_differs = other_positions_differ = 0
    for _ in range(25):
        group = dice.sample(range(len(examples)), dice.randint(1, len(positions)))
        where = dice.sample(positions, len(group))
        outputs = compute(lay_out([examples[i] for i in group], where, SIZE))
        for i, position in zip(group, where, strict=True):
            assert bits_of(outputs, position) == alone[i], (name, i, position)
            seen.add((len(group), position))
        dynamic = compute({"x": torch.stack([examples[i]["x"] for i in group])})
        dynamic_differs += any(bits_of(dynamic, row) != alone[i] for row, i in enumerate(group))
        rest = sorted(set(range(SIZE)) - set(positions))
        if rest:
            outputs = compute(lay_out([examples[i] for i in group], rest, SIZE))
            pairs = list(zip(group, rest, strict=False))
            other_positions_differ += any(bits_of(outputs, position) != alone[i] for i, position in pairs)
    assert {position for _, position in seen} == set(positions)
    if name == CONTROLLED:
        assert dynamic_differs > 0, "ordinary dynamic batching has the same bits: the test could not fail"
    assert len(positions) == SIZE or other_positions_differ > 0


def test_a_model_that_mixes_examples_has_no_position() -> None:
    assert agreeing_positions(compute_of(Mixing()), vary({"x": torch.ones(3)}), 4) == ()


def test_bits_are_compared_and_not_values() -> None:
    zeros = {"x": torch.tensor([[0.0], [-0.0], [float("nan")], [float("nan")]])}
    assert bits_of(zeros, 0) != bits_of(zeros, 1)
    assert bits_of(zeros, 2) == bits_of(zeros, 3)
    assert np.array_equal(zeros["x"][0].numpy(), zeros["x"][1].numpy())
