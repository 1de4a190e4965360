"""Arithmetic before the first step: portable in the thread that opened it, torch's own elsewhere and afterwards."""

import threading
from collections.abc import Iterator

import pytest
import torch

import holdtrue as ht
from holdtrue.engine import apply_numerics
from holdtrue.numerics import close_initial, open_initial, portable_mode
from holdtrue.testing import run_in_process


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
    with pytest.raises(RuntimeError, match="expects"):
        fill(torch.empty(3))  # type: ignore[operator]


def test_level_portable_opens_it_and_another_level_closes_it() -> None:
    before = drawn()
    apply_numerics("portable", threads=1, is_training=True)
    try:
        assert not torch.equal(drawn(), before)
    finally:
        apply_numerics("exact", threads=1)
    assert torch.equal(drawn(), before)


def test_a_run_that_only_evaluates_gives_torch_its_kernels_back_at_its_end() -> None:
    data = torch.utils.data.TensorDataset(torch.ones(8, 4))

    def evaluate() -> tuple[torch.Tensor, ...]:
        before = drawn()
        run = ht.init(virtual_nodes=2, global_batch_size=4, numerics="portable")
        model = torch.nn.Linear(4, 4)
        run.prepare(model)
        run.evaluate(lambda x: {"mean": model(x).mean()}, data)
        during = drawn()
        run.close()
        return before, during, drawn()

    ((before, during, after),) = run_in_process(evaluate)
    assert not torch.equal(during, before)
    assert torch.equal(after, before)


def test_the_inverse_error_function_is_within_an_ulp() -> None:
    x = torch.cat([torch.linspace(-1, 1, 20001), torch.tensor([1 - 2**-24, 1e-30, -1e-44])])
    with portable_mode():
        found = torch.erfinv(x)
    exact = torch.special.erfinv(x.double())
    step = torch.nextafter(exact.float().abs(), torch.tensor(torch.inf)) - exact.float().abs()
    inside = x.abs() < 1
    assert ((found.double() - exact).abs() <= step.double())[inside].all()
    assert torch.equal(found[~inside], x[~inside] * torch.inf)


SAME = {
    "double arange": lambda: torch.arange(0, 1, 0.1, dtype=torch.float64),
    "arange of integers": lambda: torch.arange(5) ** 2,
    "powers of 2": lambda: 2 ** torch.arange(5),
    "linspace of one": lambda: torch.linspace(0.25, 0.75, 1),
    "linspace of integers": lambda: torch.linspace(0, 100000001, 3, dtype=torch.int64),
    "double": lambda: torch.tensor([-745.0, 800.0, 1e9], dtype=torch.float64).exp(),
    "double uniform": lambda: torch.rand(100000, dtype=torch.float64).unique().numel() > 99990,
    "number": lambda: torch.tensor(0.5).sum(-1),
    "mean of a number": lambda: torch.tensor(0.5).mean(-1, keepdim=True),
    "running sum of a number": lambda: torch.tensor(0.5).cumsum(-1),
    "running product of a number": lambda: torch.tensor(0.5).cumprod(0),
    "product of a number": lambda: torch.tensor(0.5).prod(-1),
    "half sum to float": lambda: torch.ones(3, dtype=torch.half).sum(-1, dtype=torch.float32),
    "random_split": lambda: torch.randperm(9, generator=torch.Generator().manual_seed(1)),
    "complex": lambda: (torch.ones(3, dtype=torch.complex64) * 1j).exp(),
}


@pytest.mark.parametrize("name", SAME)
def test_values_shapes_and_types_are_torchs(name: str, opened: None) -> None:
    found = SAME[name]()
    close_initial()
    expected = SAME[name]()
    open_initial()
    assert type(found) is type(expected)
    if isinstance(found, torch.Tensor):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=0)


WRONG = {
    "integers as normal": lambda: torch.zeros(3, dtype=torch.int64).normal_(),
    "integers as exp": lambda: torch.ones(3, dtype=torch.int64).exp_(),
    "mean of integers": lambda: torch.arange(3).mean(),
    "a dimension too far": lambda: torch.ones(3).sum(5),
    "a dimension twice": lambda: torch.ones(3, 2).sum([0, 0]),
    "softmax of integers": lambda: torch.arange(3).softmax(0),
    "softmax too far": lambda: torch.ones(3).softmax(3),
    "an endless range": lambda: torch.empty(3).uniform_(0, float("inf")),
    "shapes that do not fit": lambda: torch.ones(2, 3) @ torch.ones(2, 3),
    "out of another type": lambda: torch.exp(torch.ones(3), out=torch.empty(3, dtype=torch.int64)),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_by_torch(name: str, opened: None) -> None:
    with pytest.raises((RuntimeError, IndexError)) as found:
        WRONG[name]()
    close_initial()
    with pytest.raises(found.type) as expected:
        WRONG[name]()
    open_initial()
    assert str(found.value) == str(expected.value)


@pytest.mark.parametrize(
    "name", ["number", "mean of a number", "product of a number", "linspace of one", "powers of 2"]
)
def test_the_mode_has_torchs_values_too(name: str) -> None:
    expected = SAME[name]()
    with portable_mode():
        found = SAME[name]()
    assert isinstance(found, torch.Tensor)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=0)


@pytest.mark.parametrize(
    "name", ["a dimension too far", "a dimension twice", "mean of integers", "softmax too far"]
)
def test_the_mode_refuses_what_torch_refuses(name: str) -> None:
    with portable_mode(), pytest.raises((RuntimeError, IndexError)):
        WRONG[name]()


def test_normal_numbers_about_tensors() -> None:
    far = torch.full((1000,), 100.0)
    with portable_mode(key=1):
        one, two, three = (
            torch.normal(far, 1.0),
            torch.normal(far, torch.ones(1000)),
            torch.normal(100.0, 1.0, (1000,)),
        )
    with portable_mode(key=1):
        expected = torch.empty(1000).normal_(100.0, 1.0)
    assert torch.equal(one, expected)
    assert abs(float(two.mean()) - 100) < 0.2
    assert abs(float(three.mean()) - 100) < 0.2


def test_a_mode_of_the_scripts_own_stays_when_it_is_closed(opened: None) -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    class Counting(TorchDispatchMode):
        calls = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            Counting.calls += 1
            return func(*args, **(kwargs or {}))

    before = torch._C._len_torch_dispatch_stack()
    with Counting():
        close_initial()
        torch.ones(2).exp()
        assert Counting.calls >= 2
        assert torch._C._len_torch_dispatch_stack() == before
    assert torch._C._len_torch_dispatch_stack() == before - 1


def test_workers_of_a_loader_have_torchs_kernels(opened: None) -> None:
    class Noisy(torch.utils.data.Dataset[torch.Tensor]):
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> torch.Tensor:
            return torch.randn(8, generator=torch.Generator().manual_seed(index))

    loader = torch.utils.data.DataLoader(Noisy(), num_workers=1, multiprocessing_context="fork")
    found = torch.cat(list(loader))
    close_initial()
    assert torch.equal(found, torch.stack([Noisy()[0], Noisy()[1]]))
    open_initial()
