"""Arithmetic before the first step: portable in the thread that opened it, torch's own elsewhere and afterwards."""

import threading
from collections.abc import Iterator

import pytest
import torch

from holdtrue.engine import apply_numerics
from holdtrue.numerics import close_initial, open_initial, portable_mode


@pytest.fixture
def opened() -> Iterator[None]:
    open_initial()
    yield
    close_initial()


def drawn() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.cat([torch.randn(40), torch.nn.Linear(5, 8).weight.detach().flatten(), torch.rand(3).exp()])


def test_initial_weights_are_those_of_the_mode(opened: None) -> None:
    found = drawn()
    with portable_mode():
        assert torch.equal(found, drawn())


def test_torch_has_its_own_kernels_again_after_it_was_closed() -> None:
    before = drawn()
    open_initial()
    open_initial()
    assert not torch.equal(drawn(), before)
    close_initial()
    assert torch.equal(drawn(), before)


def test_another_thread_has_torchs_kernels_while_it_is_open() -> None:
    before, found = drawn(), []
    open_initial()
    try:
        thread = threading.Thread(target=lambda: found.append(drawn()))
        thread.start()
        thread.join(60)
    finally:
        close_initial()
    assert torch.equal(found[0], before)


def test_a_thread_that_closes_it_leaves_it_open_for_the_other() -> None:
    with portable_mode():
        expected = drawn()
    open_initial()
    try:
        thread = threading.Thread(target=lambda: (open_initial(), close_initial()))
        thread.start()
        thread.join(60)
        assert torch.equal(drawn(), expected)
    finally:
        close_initial()


def test_a_generator_of_the_scripts_own_numbers_the_draws(opened: None) -> None:
    def normal(seed: int) -> torch.Tensor:
        return torch.empty(20).normal_(generator=torch.Generator().manual_seed(seed))

    state = torch.get_rng_state()
    assert torch.equal(normal(1), normal(1))
    assert not torch.equal(normal(1), normal(2))
    assert torch.equal(torch.get_rng_state(), state)


def test_what_no_form_covers_is_torchs_own(opened: None) -> None:
    a = torch.rand(3, 3, dtype=torch.float64)
    assert torch.equal(a @ torch.eye(3, dtype=torch.float64), a)
    assert torch.randn(4, dtype=torch.complex64).isfinite().all()
    assert torch.fft.rfft(torch.ones(8))[0] == 8


def test_gradients_flow(opened: None) -> None:
    x = torch.linspace(0.1, 1.0, 5, requires_grad=True)
    (x.exp().sum() + (x**2).mean()).backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, (x.exp() + 0.4 * x).detach())


@pytest.mark.parametrize(
    "fill",
    [
        lambda x: x.normal_(0, -1),
        lambda x: x.uniform_(1, 0),
        lambda x: x.exponential_(0),
        lambda x: x.bernoulli_(1.5),
    ],
)
def test_wrong_draws_are_refused_as_torch_refuses_them(fill: object, opened: None) -> None:
    with pytest.raises(RuntimeError, match=r"is 0 or more|at most|above 0|from 0 to 1"):
        fill(torch.empty(3))  # type: ignore[operator]


def test_level_portable_opens_it_and_another_level_closes_it() -> None:
    before = drawn()
    apply_numerics("portable", threads=1)
    try:
        assert not torch.equal(drawn(), before)
    finally:
        apply_numerics("exact", threads=1)
    assert torch.equal(drawn(), before)


def test_the_inverse_error_function_is_within_an_ulp() -> None:
    x = torch.cat([torch.linspace(-1, 1, 20001), torch.tensor([1 - 2**-24, 1e-30, -1e-44])])
    with portable_mode():
        found = torch.erfinv(x)
    exact = torch.special.erfinv(x.double())
    step = torch.nextafter(exact.float().abs(), torch.tensor(torch.inf)) - exact.float().abs()
    inside = x.abs() < 1
    assert ((found.double() - exact).abs() <= step.double())[inside].all()
    assert torch.equal(found[~inside], x[~inside] * torch.inf)
