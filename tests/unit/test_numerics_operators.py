"""Every covered operator inside the mode: the value torch has within rounding, and one set of bits."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdtrue.errors import NumericsError
from holdtrue.numerics import (
    _registry,
    check_portable,
    engine,
    operator_groups,
    portable_mode,
    register_operator,
)
from numerics_checks import bits, each_engine

G = torch.Generator().manual_seed(0)
X = torch.randn(6, 8, 5, 7, generator=G)
M = torch.randn(9, 33, generator=G)
P = torch.rand(9, 33, generator=G) * 0.98 + 0.01
WORDS = torch.randint(0, 12, (4, 9), generator=G)
TARGET = torch.randint(0, 33, (9,), generator=G)

Case = Callable[[Tensor], Tensor]


def weight(*shape: int) -> Tensor:
    """The same numbers for each shape."""
    return torch.sin(torch.arange(math.prod(shape), dtype=torch.float64) * 1.7).float().reshape(shape)


def layer(module: nn.Module) -> Case:
    """A module with fixed weights."""
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(weight(*p.shape) * 0.5 + (0.8 if p.dim() == 1 else 0.0))
    return lambda x: module.to(x.dtype)(x)


CASES: dict[str, tuple[Tensor, Case]] = {
    "exp": (M, torch.exp),
    "log": (P, torch.log),
    "log2": (P, torch.log2),
    "log1p": (P, torch.log1p),
    "expm1": (M, torch.expm1),
    "tanh": (M, torch.tanh),
    "sigmoid": (M, torch.sigmoid),
    "erf": (M, torch.erf),
    "sin": (M, torch.sin),
    "cos": (M, torch.cos),
    "sqrt": (P, torch.sqrt),
    "rsqrt": (P, torch.rsqrt),
    "reciprocal": (P, torch.reciprocal),
    "gelu": (M, F.gelu),
    "gelu tanh": (M, lambda x: F.gelu(x, approximate="tanh")),
    "silu": (M, F.silu),
    "softplus": (M, lambda x: F.softplus(x, 2.0, 1.0)),
    "log sigmoid": (M, F.logsigmoid),
    "relu": (M, F.relu),
    "relu6": (M, F.relu6),
    "leaky relu": (M, F.leaky_relu),
    "elu": (M, F.elu),
    "selu": (M, F.selu),
    "mish": (M, F.mish),
    "xlogy": (P, lambda x: torch.xlogy(x, 1.5 * x)),
    "hardtanh": (M, F.hardtanh),
    "clamp": (M, lambda x: x.clamp(-0.5, 0.7)),
    "powers": (P, lambda x: x**2 + x**3 + x**0.5 + x**-0.5 + x**1.7 + 1.3**x + x**x),
    "arithmetic": (M, lambda x: (x - 2 * x * x) / (x * x + 1) + torch.add(x, x.abs(), alpha=0.3) - (1 - x)),
    "addcmul, addcdiv, lerp": (
        P,
        lambda x: (
            torch.addcmul(x, x, x, value=0.3)
            + torch.addcdiv(x, x, x + 1, value=0.7)
            + torch.lerp(x, x * x, 0.3)
        ),
    ),
    "maximum, minimum": (M, lambda x: torch.maximum(x, -x * 0.5) + torch.minimum(x, x * x)),
    "where, cat, index": (M, lambda x: torch.cat([torch.where(x > 0, x, -x), x[:, [3, 1, 3]], x.flip(1)], 1)),
    "scatter_add": (
        M,
        lambda x: torch.zeros(4, 33, dtype=x.dtype).scatter_add(0, TARGET[:, None] % 4 + 0 * x.long(), x),
    ),
    "index_add": (M, lambda x: torch.zeros(4, 33, dtype=x.dtype).index_add(0, TARGET % 4, x, alpha=0.5)),
    "gather": (M, lambda x: x.gather(1, TARGET[:, None].expand(9, 4))),
    "sum, mean": (X, lambda x: x.sum() + x.sum(1).mean((0, 2)).sum() + x.mean((0, 2))),
    "var, std": (M, lambda x: x.var(1) + x.std(1, correction=0) + x.var()),
    "norm": (M, lambda x: x.norm() + torch.linalg.vector_norm(x, dim=1) + x.norm(1)),
    "extremes": (
        M,
        lambda x: x.amax(1) + x.max(1).values + x.min(1).values - x.max() + x.topk(2, 1).values.sum(1),
    ),
    "cumsum": (M, lambda x: x.cumsum(1)),
    "logsumexp": (M, lambda x: x.logsumexp(1)),
    "softmax": (M, lambda x: x.softmax(1) * weight(33).to(x.dtype)),
    "log softmax": (M, lambda x: x.log_softmax(0) * weight(33).to(x.dtype)),
    "linear": (M, layer(nn.Linear(33, 20))),
    "einsum": (X, lambda x: torch.einsum("nchw,ncdw->nhd", x, x)),
    "vectors": (M, lambda x: x @ x[0] + torch.dot(x[0], x[1])),
    "baddbmm": (X, lambda x: torch.baddbmm(x[0], x[0, :, :, :5], x[1], beta=0.5, alpha=2.0)),
    "conv1d": (M[None], layer(nn.Conv1d(9, 4, 5, stride=2, padding=2))),
    "conv2d": (X, layer(nn.Conv2d(8, 6, 3, padding=1))),
    "conv2d strided": (
        X,
        layer(nn.Conv2d(8, 6, (3, 2), stride=2, padding=(2, 1), dilation=(1, 2), groups=2)),
    ),
    "depthwise": (X, layer(nn.Conv2d(8, 8, 3, groups=8, bias=False))),
    "max pool": (X, lambda x: F.max_pool2d(x, 3, 2, 1)),
    "average pool": (
        X,
        lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False) + F.avg_pool2d(x, 3, 2, 1),
    ),
    "adaptive pool": (
        X,
        lambda x: F.adaptive_avg_pool2d(x[:, :, :4, :6], (2, 3)).sum() + F.adaptive_avg_pool2d(x, 1),
    ),
    "pad, upsample": (X, lambda x: F.pad(x, (1, 2), mode="constant") + 1),
    "batch norm": (X, layer(nn.BatchNorm2d(8))),
    "batch norm eval": (X, layer(nn.BatchNorm2d(8).eval())),
    "batch norm 1d": (M, layer(nn.BatchNorm1d(33))),
    "layer norm": (X, layer(nn.LayerNorm([5, 7]))),
    "group norm": (X, layer(nn.GroupNorm(4, 8))),
    "instance norm": (X, layer(nn.InstanceNorm2d(8, affine=True))),
    "rms norm": (M, layer(nn.RMSNorm(33))),
    "cross-entropy": (
        M,
        lambda x: F.cross_entropy(x, TARGET, label_smoothing=0.2, ignore_index=int(TARGET[0])),
    ),
    "weighted cross-entropy": (
        M,
        lambda x: F.cross_entropy(x, TARGET, weight=P[0].to(x.dtype), reduction="sum"),
    ),
    "cross-entropy of images": (X, lambda x: F.cross_entropy(x, TARGET[:6, None, None].expand(6, 5, 7) % 8)),
    "cross-entropy of probabilities": (M, lambda x: F.cross_entropy(x, P.to(x.dtype))),
    "mse": (M, lambda x: F.mse_loss(x, P.to(x.dtype))),
    "l1, huber": (
        M,
        lambda x: (
            F.l1_loss(x, P.to(x.dtype))
            + F.huber_loss(x, P.to(x.dtype), delta=0.5)
            + F.smooth_l1_loss(x, P.to(x.dtype), beta=0.3)
        ),
    ),
    "bce": (P, lambda x: F.binary_cross_entropy(x, P.flip(0).to(x.dtype))),
    "bce of logits": (
        M,
        lambda x: F.binary_cross_entropy_with_logits(x, P.to(x.dtype), pos_weight=P[0].to(x.dtype)),
    ),
    "kl": (M, lambda x: F.kl_div(x.log_softmax(1), P.to(x.dtype), reduction="batchmean")),
    "nll none": (M, lambda x: F.nll_loss(x, TARGET, reduction="none")),
    "transposed conv": (
        X,
        layer(nn.ConvTranspose2d(8, 6, 3, stride=2, padding=1, output_padding=1, groups=2)),
    ),
    "transposed conv1d": (M[None], layer(nn.ConvTranspose1d(9, 4, 5, stride=3, dilation=2))),
    "adaptive pool, uneven": (X, lambda x: F.adaptive_avg_pool2d(x, (3, 4))),
    "linear resizing": (
        X,
        lambda x: (
            F.interpolate(x, scale_factor=2, mode="bilinear").sum(1)
            + F.interpolate(x, size=(10, 14), mode="bilinear", align_corners=True).sum(1)
            + F.interpolate(x.flatten(2), size=14, mode="linear")[:, :1]
        ),
    ),
    "nearest resizing": (
        X,
        lambda x: (
            F.interpolate(x, scale_factor=2)[..., ::2].sum(1)
            + F.interpolate(x, size=(10, 7), mode="nearest-exact").sum(1)
            + F.interpolate(x.flatten(2), size=7)[:, :1]
            + F.interpolate(x.flatten(2), scale_factor=0.2, mode="nearest-exact")[:, :1]
        ),
    ),
    "padding by copies": (
        X,
        lambda x: (
            F.pad(x, (1, 2, 3, 0), mode="reflect")
            + F.pad(x, (2, 1, 0, 3), mode="replicate")
            + F.pad(x, (3, 0, 3, 0), mode="circular")
            + F.pad(x.flatten(2), (2, 43), mode="replicate")[..., None, :10]
            + F.pad(x.flatten(2), (3, 34), mode="reflect")[..., None, -10:]
        ),
    ),
    "weight norm": (
        M,
        lambda x: torch._weight_norm_interface(x, weight(9, 1).to(x.dtype))[0] * weight(33).to(x.dtype),
    ),
    "glu, prelu, celu": (
        M,
        lambda x: F.glu(x[:, :32]) + F.prelu(x, x[0, :1])[:, :16] + F.celu(x, 0.7)[:, :16],
    ),
    "hard activations": (M * 3, lambda x: F.hardswish(x) + F.hardsigmoid(x) + F.threshold(x, 0.1, 0.5)),
    "shrinkages": (M, lambda x: F.softshrink(x) + F.hardshrink(x) + F.tanhshrink(x)),
    "exp2, log10, tan": (P, lambda x: x.exp2() + x.log10() + x.tan()),
    "sinh, cosh, erfc": (M, lambda x: x.sinh() + x.cosh() + x.erfc() + x.frac()),
    "logaddexp": (M, lambda x: torch.logaddexp(x, x.flip(0))),
    "prod, trace, nansum": (
        P + 1,
        lambda x: x[0].prod() + x.prod(1) + x.cumprod(1)[:, 9] + x[:, :9].trace() + x.nansum(1),
    ),
    "cosine similarity": (M, lambda x: F.cosine_similarity(x, P.to(x.dtype))),
}


def with_gradient(case: Case) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """The value and the gradient of a weighted sum of it."""

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.detach().requires_grad_()
        y = case(x)
        (gradient,) = torch.autograd.grad((y * weight(*y.shape).to(y.dtype)).sum(), x)
        return y.detach(), gradient

    return run


@pytest.mark.parametrize("name", CASES)
def test_an_operator_has_torchs_value_and_one_set_of_bits(name: str) -> None:
    x, case = CASES[name]
    with portable_mode():
        value, gradient = with_gradient(case)(x)
    plain = with_gradient(case)(x)
    for got, expected in zip((value, gradient), plain, strict=True):
        assert got.dtype == expected.dtype
        assert torch.allclose(got, expected, rtol=2e-5, atol=2e-5 * float(expected.abs().max()))
    check_portable(with_gradient(case), x)


def test_embeddings_add_in_the_order_of_the_tokens() -> None:
    def run(table: Tensor) -> Tensor:
        table = table.detach().requires_grad_()
        y = F.embedding(WORDS, table, padding_idx=3)
        (gradient,) = torch.autograd.grad((y * weight(*y.shape)).sum(), table)
        return gradient

    table = weight(12, 6)
    with portable_mode():
        got = run(table)
    assert torch.allclose(got, run(table), atol=1e-6)
    check_portable(run, table)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_torchs(causal: bool) -> None:
    q, k, v = (weight(2, 3, 5, 4) * s for s in (1.0, 0.7, 1.3))
    mask = None if causal else torch.ones(5, 5).tril().bool()

    def run(q: Tensor) -> tuple[Tensor, Tensor]:
        return with_gradient(lambda x: F.scaled_dot_product_attention(x, k, v, mask, is_causal=causal))(q)

    with portable_mode():
        got = run(q)
    for a, b in zip(got, run(q), strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    check_portable(run, q)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_are_torchs(kind: type[nn.Module]) -> None:
    module = kind(7, 6, 2, batch_first=True, bidirectional=True)
    run = layer(module)
    x = weight(3, 5, 7)
    with portable_mode():
        got = run(x)
    expected = run(x)
    assert torch.allclose(got[0], expected[0], atol=1e-5)
    for a, b in zip(
        torch.utils._pytree.tree_leaves(got[1]), torch.utils._pytree.tree_leaves(expected[1]), strict=True
    ):
        assert torch.allclose(a, b, atol=1e-5)
    check_portable(with_gradient(lambda x: run(x)[0]), x)


def test_an_in_place_operator_and_an_out_argument_follow_from_the_form() -> None:
    with portable_mode():
        x = P.clone()
        x.sqrt_().add_(P, alpha=0.5).addcmul_(P, P, value=0.1)
        y = torch.empty(0)
        torch.add(P.sqrt(), P, alpha=0.5, out=y)
        assert torch.equal(x, y.addcmul(P, P, value=0.1))


def test_an_ieee_operator_with_out_goes_the_way_of_the_one_without() -> None:
    a = torch.ones(3, dtype=torch.complex64)
    with portable_mode(), pytest.raises(NumericsError, match=r"arithmetic in torch\.complex64"):
        torch.mul(a, a, out=torch.empty(3, dtype=torch.complex64))
    told: list[str] = []
    found = torch.empty(3, dtype=torch.complex64)
    with portable_mode(survey=lambda name, *_: told.append(name)):
        assert torch.mul(a, 2 * torch.ones(3), out=found).tolist() == [2.0] * 3
    assert "mul" in told
    x = torch.full((4,), 1.25, dtype=torch.bfloat16)
    with portable_mode():
        y = torch.empty(0, dtype=torch.bfloat16)
        assert torch.mul(x, x, out=y) is y
        assert torch.equal(y, x * x)
        assert torch.equal(torch.neg(M, out=torch.empty(0)), -M)


INF = math.inf


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logsumexp_follows_torch_at_infinities(dtype: torch.dtype) -> None:
    rows = [[INF, 0.0], [-INF, -INF], [-INF, 3.0], [INF, -INF], [INF, INF], [math.nan, INF], [-900.0, 0.0]]
    x = torch.tensor([*rows, [math.nan, -INF], [1e4, 1e4 - 1], [INF, 1e4]], dtype=dtype)
    expected = torch.logsumexp(x, 1)
    for _ in each_engine():
        with portable_mode():
            found = torch.logsumexp(x, 1)
        assert torch.allclose(found, expected, rtol=1e-6, atol=0, equal_nan=True), (found, expected)
        assert found[1] == -INF


def test_logaddexp_follows_torch_for_every_pair_of_special_values() -> None:
    special = torch.tensor([math.nan, INF, -INF, 0.0, 2.0, -3.0])
    a, b = torch.cartesian_prod(special, special).unbind(1)
    with portable_mode():
        found = torch.logaddexp(a, b)
    assert torch.allclose(found, torch.logaddexp(a, b), rtol=1e-6, atol=0, equal_nan=True)


# ---- operators that look harmless: each fails if the plain one is put back ----


def f32(x: Tensor) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    """numpy rounds each float32 operation."""
    return x.numpy()


A, B = torch.rand(4096, generator=G), torch.rand(4096, generator=G)
ALPHA = np.float32(0.3)
HARMLESS: dict[str, tuple[Callable[[], Tensor], Callable[[], object]]] = {
    "sqrt": (lambda: A.sqrt(), lambda: np.sqrt(f32(A))),
    "add with alpha": (lambda: torch.add(A, B, alpha=0.3), lambda: f32(A) + f32(B) * ALPHA),
    "sub with alpha": (lambda: torch.sub(A, B, alpha=0.3), lambda: f32(A) - f32(B) * ALPHA),
    "addcmul": (lambda: torch.addcmul(A, A, B, value=0.3), lambda: f32(A) + (f32(A) * f32(B)) * ALPHA),
    "lerp": (lambda: torch.lerp(A, B, 0.3), lambda: f32(A) + (f32(B) - f32(A)) * ALPHA),
    "tanh_backward": (
        lambda: torch.ops.aten.tanh_backward(A, B),
        lambda: f32(A) * (np.float32(1) - f32(B) * f32(B)),
    ),
    "pow": (
        lambda: torch.pow(A, 1.7),
        lambda: np.exp(np.float64(1.7) * np.log(f32(A).astype(np.float64))).astype(np.float32),
    ),
    "maximum of zeros": (
        lambda: torch.maximum(torch.tensor([-0.0, 0.0] * 40), torch.tensor([0.0, -0.0] * 40)),
        lambda: np.zeros(80, np.float32),
    ),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_an_operator_that_looks_harmless_is_what_its_definition_says(name: str) -> None:
    run, defined = HARMLESS[name]
    expected = torch.from_numpy(defined())
    with portable_mode():
        assert torch.equal(bits(run()), bits(expected))
    if torch.backends.cpu.get_cpu_capability() != "DEFAULT":
        assert not torch.equal(bits(run()), bits(expected)), (
            "the plain operator would do here: is the test still one?"
        )


# ---- refusals ----


def test_an_operator_that_is_not_covered_is_refused_by_operator_and_module() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.svd(x)[0]

    model = nn.Sequential(nn.Linear(3, 3), Odd())
    with (
        portable_mode(models={"net": model}),
        pytest.raises(
            NumericsError, match=r"_linalg_svd.*module 'net.1' \(Odd\).*register_operator.*numerics='exact'"
        ),
    ):
        model(torch.ones(3, 3))


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (lambda: torch.ones(3, dtype=torch.complex64) * 2, "complex64"),
        (lambda: torch.ones(2, 2).double() @ torch.ones(2, 2).double(), "portable products are float32"),
        (lambda: F.conv3d(torch.ones(1, 1, 3, 3, 3), torch.ones(1, 1, 2, 2, 2)), "3 dimensions"),
        (lambda: F.max_pool2d(torch.ones(1, 4, 4), 3, ceil_mode=True), "ceil_mode"),
        (lambda: torch.ones(3).median(), r"nearest covered form is sort, then select"),
        (lambda: torch.ones(3).lgamma(), "nearest covered form is a form of your own"),
        (lambda: torch.ones(3).logcumsumexp(0), r"nearest covered form is log\(cumsum\(exp\(x - max\)\)\)"),
        (
            lambda: F.interpolate(torch.ones(1, 1, 3, 3), size=5, mode="bicubic"),
            "nearest covered form is upsample_bilinear2d",
        ),
        (lambda: torch.zeros(3).scatter_(0, torch.tensor([1, 1]), torch.tensor([1.0, 2.0])), "scatter_add"),
        (lambda: torch.rand(3, generator=torch.Generator()), "Generator"),
        (lambda: torch.multinomial(torch.ones(3), 1), "multinomial"),
        (lambda: torch.fft.fft(torch.ones(4)), "_fft"),
    ],
)
def test_what_has_no_portable_form_is_refused_with_a_reason(run: Callable[[], object], words: str) -> None:
    with portable_mode(), pytest.raises(NumericsError, match=words):
        run()


def test_a_wrong_number_of_slices_is_refused() -> None:
    with pytest.raises(NumericsError, match=r"slices is 5; .* Pass 3 or 4"), portable_mode(slices=5):
        pass


def test_the_checker_finds_a_function_whose_bits_depend_on_the_settings() -> None:
    def peek(x: Tensor) -> Tensor:
        return x + (0.0 if engine() == "reference" else 1.0)

    with pytest.raises(NumericsError, match="result 0 of peek has other bits with engine 'generic'"):
        check_portable(peek, torch.ones(3))


def test_the_checker_refuses_what_it_cannot_compare() -> None:
    with pytest.raises(NumericsError, match="returned no tensor with engine 'reference'"):
        check_portable(lambda x: float(x.sum()), torch.ones(3))

    def longer(x: Tensor) -> list[Tensor]:
        return [x] if engine() == "reference" else [x, x]

    with pytest.raises(NumericsError, match=r"longer returned 2 tensors with engine 'generic'.*, and 1 with"):
        check_portable(longer, torch.ones(3))


def test_the_checker_gives_each_run_inputs_of_its_own() -> None:
    def gradient(x: Tensor, y: Tensor) -> Tensor:
        (x * x * y).sum().backward()
        y.add_(1)
        assert x.grad is not None
        return x.grad

    x, y = torch.rand(4, 5, requires_grad=True), torch.rand(4, 5)
    before = y.clone()
    assert check_portable(gradient, x, y) > 2
    assert x.grad is None
    assert torch.equal(y, before)


def test_a_form_that_is_registered_is_used_and_a_second_one_refused() -> None:
    with portable_mode(), pytest.raises(NumericsError, match="lgamma"):
        torch.lgamma(torch.ones(3))
    register_operator("lgamma", lambda x: x * 7)
    try:
        with portable_mode():
            assert torch.lgamma(torch.ones(3)).tolist() == [7.0] * 3
        assert operator_groups()["added by register_operator"] == ("lgamma",)
        with pytest.raises(NumericsError, match="has a portable form already"):
            register_operator("lgamma", lambda x: x)
    finally:
        del _registry.FORMS["lgamma"], _registry.ADDED["lgamma"]
        _registry.RUNNERS.clear()


@pytest.mark.parametrize(
    ("name", "function", "sentence"),
    [
        ("aten::atan2", abs, "there is no operator 'aten::atan2'"),
        ("cumsumm", abs, "there is no operator 'cumsumm'.*as the refusal has it"),
        (5, abs, "was given 5 and <built-in function abs>"),
        ("atan2", 5, "was given 'atan2' and 5; it takes"),
    ],
)
def test_a_form_that_no_operator_would_ever_find_is_refused(name: Any, function: Any, sentence: str) -> None:
    with pytest.raises(NumericsError, match=sentence):
        register_operator(name, function)


def test_random_numbers_of_the_mode_depend_on_its_key_alone() -> None:
    def draw(key: int) -> list[Tensor]:
        with portable_mode(key=key):
            torch.manual_seed(3)
            x = torch.empty(5)
            return [
                torch.randn(5),
                torch.rand(5),
                torch.randint(0, 1000, (5,)).float(),
                torch.randperm(9).float(),
                x.uniform_(-1, 1).clone(),
                x.normal_(2, 3).clone(),
                x.exponential_().clone(),
                F.dropout(torch.ones(50), 0.5),
                nn.Dropout(0.3)(torch.ones(50)),
                torch.bernoulli(torch.full((40,), 0.5)),
            ]

    first = draw(1)
    assert all(torch.equal(a, b) for a, b in zip(first, draw(1), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, draw(2), strict=True))
    check_portable(lambda x: [torch.randn(5) + x, torch.randperm(9), F.dropout(x, 0.5)], torch.ones(5), key=4)


def test_defaults_of_forms_are_those_of_the_schemas() -> None:
    """torch leaves out arguments that equal the schema's default when it calls the mode."""
    wrong = []
    for name, function in _registry.FORMS.items():
        packet = getattr(torch.ops.aten, name, None)
        signature = inspect.signature(function)
        kinds = {p.kind for p in signature.parameters.values()}
        if packet is None or kinds & {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}:
            continue
        own = list(signature.parameters.values())
        for overload in packet.overloads():
            arguments = getattr(packet, overload)._schema.arguments
            for i, argument in enumerate(a for a in arguments if not a.is_out):
                if not argument.has_default_value() or argument.default_value in (None, []):
                    continue
                at = signature.parameters.get(argument.name) or (own[i] if i < len(own) else None)
                given = at.default if at is not None else None
                if at is not None and argument.default_value not in (given, [given], [given, given]):
                    wrong.append(f"{name}.{overload}: {argument.name}={argument.default_value}, here {at}")
    # bernoulli.float_out is for compilers: the mode never meets it
    assert [w for w in wrong if not w.startswith("bernoulli.float_out")] == []


def test_a_form_takes_the_arguments_of_its_operator() -> None:
    """One that has the form of another operator would fail where it is called, and be listed as covered."""

    def fits(function: Callable[..., object], overload: Any) -> bool:  # Any: torch's own
        needed = [a for a in overload._schema.arguments if not a.is_out and not a.has_default_value()]
        places = [a.name for a in needed if not a.kwarg_only]
        try:
            inspect.signature(function).bind(*places, **{a.name: None for a in needed if a.kwarg_only})
        except TypeError:
            return False
        return True

    aten = torch.ops.aten
    named = {name: function for name, function in _registry.FORMS.items() if hasattr(aten, name)}
    assert len(named) > 150
    packets = {name: getattr(aten, name) for name in named}
    assert not fits(_registry.FORMS["convolution"], aten.mkldnn_convolution.default)
    assert [
        name
        for name, packet in packets.items()
        if not any(fits(named[name], getattr(packet, overload)) for overload in packet.overloads())
    ] == []


def test_operators_of_cudnn_and_the_like_are_not_listed_and_cudnn_is_off_in_the_mode() -> None:
    libraries = ("cudnn", "mkldnn", "miopen")
    listed = [name for names in operator_groups().values() for name in names]
    assert [name for name in listed if name.strip("_").startswith(libraries) or name == "_convolution"] == []
    assert torch.backends.cudnn.enabled
    with portable_mode():
        assert not torch.backends.cudnn.enabled
        with portable_mode():
            pass
        assert not torch.backends.cudnn.enabled
    assert torch.backends.cudnn.enabled


def test_the_mode_leaves_torch_as_it_was() -> None:
    before = torch.sqrt(A)
    with pytest.raises(ZeroDivisionError), portable_mode():
        raise ZeroDivisionError
    assert torch.equal(torch.sqrt(A), before)
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # of torch's own, when dynamo is imported
def test_a_compiled_function_runs_uncompiled_and_dynamo_traces_nothing_of_the_mode() -> None:
    """Without the step aside in `__torch_dispatch__` dynamo compiled the forms themselves, for half a minute."""
    from torch._dynamo.utils import counters

    counters.clear()
    with portable_mode(key=1):
        model, x = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4)), torch.randn(5, 8)
        assert torch.equal(torch.compile(model)(x), model(x))
    assert counters["stats"]["unique_graphs"] == 0


def test_operators_that_write_to_their_argument_have_the_bits_of_the_others() -> None:
    a, b, c = (torch.randn(1000) for _ in range(3))
    pairs: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
        ("add", (b,), {"alpha": 0.3}),
        ("add", (0.7,), {}),
        ("sub", (b,), {"alpha": 0.3}),
        ("addcmul", (b, c), {"value": 0.1}),
        ("addcdiv", (b, c), {"value": -0.1}),
        ("lerp", (b, 0.1), {}),
        ("lerp", (b, 0.9), {}),
        ("lerp", (b, c), {}),
    ]
    with portable_mode():
        for name, given, more in pairs:
            x = a.clone()
            assert getattr(x, name + "_")(*given, **more) is x
            assert torch.equal(x, getattr(a, name)(*given, **more)), name
