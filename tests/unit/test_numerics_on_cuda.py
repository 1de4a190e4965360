"""Portable forms on a CUDA device that is not here: no tensor of the CPU among its own, and the CPU's bits."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from holdtrue.engine._buffer_family import Family, Tracked, settle_family
from holdtrue.engine._buffer_places import Place
from holdtrue.numerics import portable_mode, steady_optimizer
from numerics_checks import bits
from pretend_cuda import DEVICE, Pretend, PretendCuda, to_pretend, to_real

G = torch.Generator().manual_seed(0)
WIDE = torch.randn(7, 11, generator=G, dtype=torch.float64)
IMAGES = torch.randn(3, 6, 5, 7, generator=G, dtype=torch.float64)

DIVIDING: dict[str, tuple[Tensor, Callable[[Tensor], Any]]] = {
    "mean": (WIDE, lambda x: [x.mean(), x.mean(1)]),
    "var, std": (WIDE, lambda x: [x.var(1), x.std(), *torch.var_mean(x, 1)]),
    "layer norm": (WIDE, lambda x: F.layer_norm(x, (11,))),
    "rms norm": (WIDE, lambda x: F.rms_norm(x, (11,))),
    "batch norm": (IMAGES, lambda x: F.batch_norm(x, None, None, training=True)),
    "losses": (
        WIDE,
        lambda x: [F.mse_loss(x, -x), F.smooth_l1_loss(x, -x, beta=0.7), F.huber_loss(x, -x, delta=0.3)],
    ),
    "softplus, celu": (WIDE, lambda x: [F.softplus(x, 3.0), F.celu(x, 0.7)]),
    "hard activations": (WIDE, lambda x: [F.hardswish(x), F.hardsigmoid(x)]),
    "adaptive pool": (IMAGES, lambda x: F.adaptive_avg_pool2d(x, (3, 4))),
    "average pool": (IMAGES, lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)),
    "exponential": (WIDE, lambda x: x.clone().exponential_(0.7)),
    "division by a number": (WIDE, lambda x: [x / 3.0, x.clone().div_(7)]),
}


def weighted(function: Callable[..., Any]) -> Callable[..., Any]:
    """Its values, and their gradients with respect to what asks for them."""

    def run(*given: Any) -> Any:
        wanted = [x for x in pytree.tree_leaves(given) if isinstance(x, Tensor) and x.requires_grad]
        values = pytree.tree_leaves(function(*given))
        total = sum((y * y).sum() for y in values if y.requires_grad)
        got = torch.autograd.grad(total, wanted, allow_unused=True) if isinstance(total, Tensor) else ()
        return [y.detach() for y in values], [g for g in got if g is not None]

    return run


def check(function: Callable[..., Any], *given: Any) -> None:
    """The device has the bits of the CPU, by kernels of torch alone."""
    own = pytree.tree_map_only(Tensor, lambda x: x.detach().clone().requires_grad_(x.requires_grad), given)
    with portable_mode(key=1):
        expected = pytree.tree_leaves(function(*own))
    with PretendCuda(), portable_mode(key=1):
        found = pytree.tree_leaves(to_real(function(*to_pretend(given))))
    for got, want in zip(found, expected, strict=True):
        assert got.dtype == want.dtype
        same = torch.equal(bits(got), bits(want)) if want.is_floating_point() else torch.equal(got, want)
        assert same, f"{(got != want).sum()} of {want.numel()} differ"


@pytest.mark.parametrize("name", DIVIDING)
def test_a_division_by_a_number_has_the_cpus_bits_on_cuda(name: str) -> None:
    x, function = DIVIDING[name]
    check(weighted(function), x.requires_grad_())


def test_the_device_of_these_tests_divides_as_cuda_does_and_keeps_the_cpu_out() -> None:
    x = torch.randn(1000, dtype=torch.float64)
    with PretendCuda():
        there = Pretend(x)
        assert not torch.equal(to_real(there / 3.0), x / 3.0)
        assert torch.equal(to_real(there / torch.full((), 3.0, dtype=x.dtype, device=DEVICE)), x / 3.0)
        with pytest.raises(RuntimeError, match="on the same device"):
            there + x
        with pytest.raises(RuntimeError, match="other bits"):
            there.sum()


def test_draws_are_the_same_on_cuda() -> None:
    def draw(x: Tensor) -> list[Tensor]:
        d = x.device
        return [
            torch.rand_like(x), torch.randn_like(x), torch.randint_like(x, 9), x.clone().normal_(1, 2),
            torch.bernoulli(x.sigmoid()), torch.randperm(9, device=d), torch.rand(4, device=d), torch.normal(x, x.abs()),
            F.dropout(x, 0.3), torch.native_dropout(x, 0.3, True)[0],
        ]  # fmt: skip

    check(draw, torch.randn(9, 3))


def test_models_train_on_cuda_without_a_tensor_of_the_cpu() -> None:
    cnn = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 4, 3),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(4, 3),
    )  # fmt: skip
    encoder = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, activation="gelu", batch_first=True)
    reader = nn.LSTM(5, 4, 2, batch_first=True, dropout=0.3)
    for model, x in ((cnn, (3, 1, 8, 8)), (encoder, (2, 5, 8)), (reader, (2, 3, 5))):
        names = [name for name, _ in model.named_parameters()]
        others = [name for name, _ in model.named_buffers()]

        def run(
            x: Tensor, parameters: list[Tensor], buffers: list[Tensor], of: Any = (model, names, others)
        ) -> Any:
            model, names, others = of
            state = dict(zip(names, parameters, strict=True)) | dict(zip(others, buffers, strict=True))
            out = torch.func.functional_call(model, state, (x,))
            return (out[0] if isinstance(out, tuple) else out), buffers

        given = [p.detach().clone().requires_grad_() for p in model.parameters()]
        check(weighted(run), torch.randn(x), given, list(model.buffers()))


def test_embeddings_and_losses_of_classes_run_on_cuda() -> None:
    words, classes = torch.randint(0, 12, (4, 9), generator=G), torch.randint(0, 6, (4, 9), generator=G)

    def run(table: Tensor, words: Tensor, classes: Tensor) -> Tensor:
        return F.cross_entropy(
            F.embedding(words, table, padding_idx=3).flatten(0, 1), classes.flatten(), label_smoothing=0.1
        )

    check(weighted(run), torch.randn(12, 6).requires_grad_(), words, classes)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}),
        (torch.optim.Adam, {"lr": 5e-3}),
        (torch.optim.AdamW, {"lr": 4e-3, "betas": (0.9, 0.98)}),
    ],
)
def test_clipping_and_optimizers_have_the_cpus_bits_on_cuda(kind: Any, settings: dict[str, Any]) -> None:
    def train(parameters: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        optimizer = kind([p.requires_grad_() for p in parameters], **settings)
        for _ in range(3):
            for p, g in zip(parameters, gradients, strict=True):
                p.grad = g.clone()
            total = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            torch.nn.utils.clip_grads_with_norm_(parameters, 1.0, total)
            with steady_optimizer(optimizer):
                optimizer.step()
        return [p.detach() for p in parameters]

    check(train, [torch.randn(5, 3), torch.randn(7)], [torch.randn(5, 3), torch.randn(7)])


def test_the_mean_of_buffers_is_the_same_on_cuda_as_on_a_replica_on_the_cpu() -> None:
    """One replica divides in NumPy, the other on its device."""
    total = np.random.default_rng(0).standard_normal(1000) * 1e-3

    def settled(tensor: Tensor) -> Tensor:
        family = Family(rule="mean")
        place = Place.of({"mean": tensor}, "mean", tensor)
        family.members.append(Tracked("mean", place, tensor, tensor.detach().reshape(-1), True))
        family.close()
        settle_family(family, [True], torch.zeros_like(tensor), total, 7.0, [])
        return tensor

    expected = settled(torch.zeros(1000, dtype=torch.float64))
    with PretendCuda():
        found = settled(Pretend(torch.zeros(1000, dtype=torch.float64)))
    assert torch.equal(to_real(found), expected)
