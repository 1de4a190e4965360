"""Recurrent layers by their kernels: the bits of their operators, one by one."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from holdtrue.errors import NumericsError
from holdtrue.numerics import _composites, engines, force_engine, portable_mode, unfused_layers
from numerics_checks import bits, same_for_all_engines

Found = list[torch.Tensor | None]

LAYERS: dict[str, tuple[type[nn.RNNBase], dict[str, Any], int, int]] = {
    "lstm": (nn.LSTM, {"input_size": 12, "hidden_size": 24, "num_layers": 2, "dropout": 0.1}, 7, 10),
    "lstm of one step": (nn.LSTM, {"input_size": 5, "hidden_size": 7}, 1, 3),
    "lstm without bias": (nn.LSTM, {"input_size": 4, "hidden_size": 3, "bias": False}, 4, 2),
    "gru both ways": (nn.GRU, {"input_size": 6, "hidden_size": 10, "bidirectional": True}, 5, 9),
    "gru": (nn.GRU, {"input_size": 6, "hidden_size": 33, "batch_first": True}, 4, 40),
    "tanh": (nn.RNN, {"input_size": 6, "hidden_size": 9, "num_layers": 2}, 6, 8),
    "relu": (nn.RNN, {"input_size": 6, "hidden_size": 20, "nonlinearity": "relu"}, 6, 8),
}
LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "outputs": lambda out, last: (out * out).sum(),
    "the last state": lambda out, last: last.sin().sum(),
    "both": lambda out, last: (out * out).sum() + last.sin().sum(),
    "infinite": lambda out, last: (out * torch.inf).sum(),
}


def train(name: str, loss: str, *, with_state: bool, calls: int = 1, slices: int = 4) -> Found:
    """Results and gradients of a layer that is called so many times before one backward."""
    build, settings, T, N = LAYERS[name]
    with portable_mode(key=3, slices=slices):
        layer = build(**settings)
        shape = (N, T) if layer.batch_first else (T, N)
        x = torch.randn(*shape, layer.input_size).requires_grad_()
        depth = layer.num_layers * (2 if layer.bidirectional else 1)
        given = [
            torch.randn(depth, N, layer.hidden_size).requires_grad_() for _ in range(2 if with_state else 0)
        ]
        state: Any = None if not given else tuple(given) if isinstance(layer, nn.LSTM) else given[0]
        parts = []
        for call in range(calls):
            out, state = layer(x * (1.0 + call), state)
            last = torch.cat(state) if isinstance(state, tuple) else state
            parts.append(LOSSES[loss](out, last))
        torch.stack(parts).sum().backward()
    return [
        out.detach(),
        last.detach(),
        x.grad,
        *(p.grad for p in layer.parameters()),
        *(g.grad for g in given),
    ]


def assert_same(fused: Found, single: Found) -> None:
    for one, other in zip(fused, single, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert torch.equal(bits(one), bits(other))


@pytest.fixture(autouse=True)
def kernels() -> None:
    if len(engines()) == 1:
        pytest.skip("the kernels are not built")


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether the kernels served, layer by layer."""
    seen: list[bool] = []
    plain = _composites.run_layer

    def spy(*given: Any) -> Any:  # Any: what a layer is given
        done = plain(*given)
        seen.append(done is not None)
        return done

    monkeypatch.setattr(_composites, "run_layer", spy)
    return seen


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", LAYERS)
def test_the_kernels_have_the_bits_of_the_operators(name: str, loss: str, served: list[bool]) -> None:
    fused = train(name, loss, with_state=loss == "both")
    assert all(served)
    with unfused_layers():
        single = train(name, loss, with_state=loss == "both")
    assert not all(served)
    assert_same(fused, single)


@pytest.mark.parametrize("name", ["lstm", "gru both ways", "tanh"])
def test_a_layer_that_is_called_twice_adds_its_gradients_step_by_step(name: str) -> None:
    """A kernel that added all steps of one call first would have other bits."""
    fused = train(name, "both", with_state=True, calls=2)
    with unfused_layers():
        assert_same(fused, train(name, "both", with_state=True, calls=2))


@pytest.mark.parametrize("engine", engines())
def test_every_engine_has_the_same_bits(engine: str) -> None:
    with unfused_layers():
        expected = train("gru both ways", "both", with_state=True, slices=3)
    force_engine(engine)  # type: ignore[arg-type]  # one of those here
    try:
        assert_same(train("gru both ways", "both", with_state=True, slices=3), expected)
    finally:
        force_engine(None)


def test_adding_the_steps_in_another_order_has_other_bits() -> None:
    """The negative control: what the order of the ports keeps."""
    g = torch.Generator().manual_seed(0)
    steps = torch.randn(12, 1000, generator=g)
    forwards, backwards = steps[0].clone(), steps[-1].clone()
    for t in range(1, 12):
        forwards += steps[t]
        backwards += steps[-1 - t]
    assert not torch.equal(forwards, backwards)


def slope_of_slope(layer: nn.RNNBase, x: torch.Tensor) -> torch.Tensor:
    """Gradient of the square of a gradient: what a gradient penalty asks for."""
    x = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(layer(x)[0].sum(), x, create_graph=True)
    (second,) = torch.autograd.grad((slope * slope).sum(), x)
    return second


second_derivatives = pytest.mark.parametrize("build", [nn.LSTM, nn.GRU, nn.RNN])


@second_derivatives
def test_a_second_derivative_is_refused_with_the_way_out(build: Callable[[int, int], nn.RNNBase]) -> None:
    message = r"second derivative through a recurrent layer.*unfused_layers"
    with portable_mode(key=1), pytest.raises(NumericsError, match=message):
        slope_of_slope(build(3, 4), torch.randn(5, 2, 3))


@second_derivatives
def test_a_second_derivative_within_unfused_layers_has_one_answer(
    build: Callable[[int, int], nn.RNNBase],
) -> None:
    with portable_mode(key=1):
        layer, x = build(3, 4), torch.randn(5, 2, 3)

    def portable() -> torch.Tensor:
        with portable_mode(), unfused_layers():
            return slope_of_slope(layer, x)

    found = same_for_all_engines(portable)
    exact = slope_of_slope(layer.double(), x.double())
    torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-6)
