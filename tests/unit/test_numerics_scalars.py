"""Optimizers and schedulers: Python's own pow and cos are libm's, so they are replaced."""

import contextlib
import decimal
import functools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import nn

from holdtrue.errors import NumericsError
from holdtrue.numerics import check_portable, portable_mode, steady_optimizer, steady_scheduler
from holdtrue.numerics._scalars import Steady, steady_cos, steady_exp, steady_pow, steady_sin
from numerics_checks import bits


@pytest.mark.parametrize("base", [0.9, 0.999, 0.95, 1.0000001, -0.3, 3.7])
@pytest.mark.parametrize("exponent", [1.0, 2.0, 3.0, 10.0, 37.0, 1000.0, -7.0])
def test_whole_powers_are_correctly_rounded(base: float, exponent: float) -> None:
    true = Fraction(base) ** int(exponent)
    largest = Fraction(2) ** 1023
    assert steady_pow(base, exponent) == (float(true) if true < largest else math.inf)


def test_other_powers_and_angles_are_within_an_ulp_of_libm() -> None:
    for i in range(1, 200):
        x = i * 0.173
        for ours, libm in (
            (steady_pow(x, 0.3), x**0.3),
            (steady_pow(x, 0.5), math.sqrt(x)),
            (steady_cos(x), math.cos(x)),
            (steady_sin(x), math.sin(x)),
            (steady_exp(x), math.exp(x)),
        ):
            assert abs(ours - libm) <= 2 * math.ulp(libm) + 1e-17


def test_an_angle_is_correctly_rounded() -> None:
    """cos(1) from a series of rational numbers."""
    true = sum(Fraction((-1) ** n, math.factorial(2 * n)) for n in range(25))
    assert steady_cos(1.0) == float(true)


def test_a_power_that_is_not_real_is_refused() -> None:
    with pytest.raises(NumericsError, match=r"-2\.0 \*\* 0\.5 is not a real number"):
        steady_pow(-2.0, 0.5)


def test_steady_numbers_stay_steady_through_arithmetic() -> None:
    x = Steady(0.9)
    assert type(1 - x**3) is Steady
    assert (1 - x**7) ** 0.5 == math.sqrt(1 - steady_pow(0.9, 7.0))
    assert 2 ** Steady(0.3) == steady_pow(2.0, 0.3)


FUNCTION = """
import math

def warmed_up(step, *, warmup):
    return step / warmup if step < warmup else 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / 7))
"""
"""What transformers' cosine schedule computes, in a module with a `math` of its own."""
of_another_module: dict[str, Any] = {}
exec(FUNCTION, of_another_module)


SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=7, eta_min=1e-5),
    "warm restarts": lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, T_0=3, T_mult=2),
    "polynomial": lambda o: torch.optim.lr_scheduler.PolynomialLR(o, total_iters=6, power=0.9),
    "exponential": lambda o: torch.optim.lr_scheduler.ExponentialLR(o, gamma=0.97),
    "one cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=9),
    "steps": lambda o: torch.optim.lr_scheduler.MultiStepLR(o, milestones=[2, 2, 4], gamma=0.3),
    "function": lambda o: torch.optim.lr_scheduler.LambdaLR(
        o, functools.partial(of_another_module["warmed_up"], warmup=1)
    ),
    "linear": lambda o: torch.optim.lr_scheduler.LinearLR(o, total_iters=4),
}


def rates(make: Callable[[torch.optim.Optimizer], Any], steady: bool) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1, momentum=0.9)
    scheduler = make(optimizer)
    found = []
    for _ in range(8):
        optimizer.step()
        if steady:
            with steady_scheduler(scheduler):
                scheduler.step()
        else:
            scheduler.step()
        assert type(optimizer.param_groups[0]["lr"]) is float
        found.append(optimizer.param_groups[0]["lr"])
    return found


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_has_torchs_rates_within_rounding(name: str) -> None:
    for ours, torchs in zip(rates(SCHEDULERS[name], True), rates(SCHEDULERS[name], False), strict=True):
        assert ours == pytest.approx(torchs, rel=1e-13)


@pytest.mark.parametrize("name", ["cosine", "warm restarts", "one cycle", "function"])
def test_a_scheduler_never_calls_libms_cos(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = rates(SCHEDULERS[name], True)
    plain = math.cos
    monkeypatch.setattr(math, "cos", lambda x: plain(x) * (1 + 2**-50))
    assert rates(SCHEDULERS[name], True) == expected
    assert rates(SCHEDULERS[name], False) != expected, "the plain scheduler asks libm"


OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.01),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, betas=(0.91, 0.997)),
    "foreach adamw": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=True),
    "maximize": lambda p: torch.optim.AdamW(p, lr=0.01, maximize=True),
}


def updated(make: Callable[[list[nn.Parameter]], torch.optim.Optimizer], start: torch.Tensor) -> torch.Tensor:
    p = nn.Parameter(start.clone())
    optimizer = make([p])
    for step in range(4):
        p.grad = (start * (step + 1)).clone()
        torch.nn.utils.clip_grad_norm_([p], 0.5)
        with steady_optimizer(optimizer):
            optimizer.step()
    return p.detach()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_has_torchs_values_and_one_set_of_bits(name: str) -> None:
    start = torch.sin(torch.arange(999.0).double()).float()
    with portable_mode():
        got = updated(OPTIMIZERS[name], start)
    plain = updated(OPTIMIZERS[name], start)
    assert torch.allclose(got, plain, atol=1e-5)
    check_portable(lambda x: updated(OPTIMIZERS[name], x), start)


def test_the_update_of_adamw_is_what_its_formula_says() -> None:
    """Each operation rounded to float32, with powers of the betas correctly rounded: numpy's arithmetic."""
    import numpy as np

    f = np.float32
    start = torch.rand(2048, generator=torch.Generator().manual_seed(1))
    g, p = start.numpy(), start.numpy().copy()
    m = v = np.zeros_like(p)
    with portable_mode():
        parameter = nn.Parameter(start.clone())
        optimizer = torch.optim.AdamW([parameter], lr=0.01, weight_decay=0.1)
        for step in range(1, 4):
            parameter.grad = start.clone()
            with steady_optimizer(optimizer):
                optimizer.step()
            p = p * f(1 - 0.01 * 0.1)
            m = m + (g - m) * f(1 - 0.9)
            v = v * f(0.999) + (g * g) * f(1 - 0.999)
            c1, c2 = 1 - float(Fraction(0.9) ** step), 1 - float(Fraction(0.999) ** step)
            root = np.sqrt(v) / f(math.sqrt(c2)) + f(1e-8)
            p = p + (m / root) * f(-(0.01 / c1))
    assert torch.equal(bits(parameter.detach()), bits(torch.from_numpy(p)))


class OtherLibm(float):
    """A float whose power is another libm's: off by more than libms are, so that float32 shows it."""

    def __pow__(self, other: float, mod: None = None) -> float:
        return float(self).__pow__(float(other)) * (1 + 2**-30)  # type: ignore[no-any-return]

    __rpow__ = __pow__


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_an_optimizer_never_calls_libms_pow(kind: type[torch.optim.Optimizer]) -> None:
    def run(number: type[float], is_steady: bool) -> torch.Tensor:
        p = nn.Parameter(torch.linspace(0.1, 1, 4096))
        optimizer = kind([p], lr=0.01, foreach=False)  # type: ignore[call-arg]  # both have them
        optimizer.param_groups[0]["betas"] = (number(0.9), number(0.999))
        with portable_mode():
            for _ in range(3):
                p.grad = p.detach().clone()
                with steady_optimizer(optimizer) if is_steady else contextlib.nullcontext():
                    optimizer.step()
        return p.detach()

    assert torch.equal(run(OtherLibm, True), run(float, True))
    assert not torch.equal(run(OtherLibm, False), run(float, False)), "the plain optimizer asks libm"


def test_a_scheduler_never_calls_libms_pow() -> None:
    def make(number: type[float]) -> Callable[[torch.optim.Optimizer], Any]:
        return lambda o: torch.optim.lr_scheduler.PolynomialLR(o, total_iters=6, power=number(0.9))

    assert rates(make(OtherLibm), True) == rates(make(float), True)
    assert rates(make(OtherLibm), False) != rates(make(float), False), "the plain scheduler asks libm"


def test_a_cosine_near_zero_keeps_all_its_digits() -> None:
    """A unary minus of the decimal module rounds to 28 digits: cos(pi / 2) had 11 good ones."""
    assert steady_cos(math.pi / 2) == 6.123233995736766e-17
    assert steady_sin(math.pi) == pytest.approx(1.2246467991473532e-16, rel=1e-15)


def test_decimal_arithmetic_of_a_user_does_not_matter() -> None:
    expected = steady_pow.__wrapped__(0.77, 12.5), steady_cos.__wrapped__(2.3)
    with decimal.localcontext(prec=5, rounding=decimal.ROUND_UP):
        assert (steady_pow.__wrapped__(0.77, 12.5), steady_cos.__wrapped__(2.3)) == expected
