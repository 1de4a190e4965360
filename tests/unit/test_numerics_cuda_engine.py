"""Which engine multiplies on CUDA, decided on a machine without any: what is refused, what falls back, and in which words."""

import importlib.util
import sys
import warnings
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from holdtrue.errors import NumericsError
from holdtrue.numerics import CUDA_ENGINES, ENGINES, _cuda, cuda_engine, engine, force_engine

CUDA = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def a_device_that_is_not_here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One of capability 9.0, with Triton whose kernels are exact, unless a test says otherwise."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    triton = SimpleNamespace(errors=SimpleNamespace(TritonError=type("TritonError", (Exception,), {})))
    monkeypatch.setitem(sys.modules, "triton", triton)
    monkeypatch.setitem(sys.modules, "triton.errors", triton.errors)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(_cuda, "check_products", lambda *a, **k: None)
    monkeypatch.delenv("HOLDTRUE_NUMERICS_ENGINE", raising=False)
    _cuda._why_not.cache_clear()
    yield
    force_engine(None)
    _cuda._why_not.cache_clear()


def fail_with(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(_cuda, "check_products", fail)


def test_by_default_the_kernels_multiply_where_they_are_exact() -> None:
    assert cuda_engine(CUDA) == CUDA_ENGINES[-1] == "triton"
    assert cuda_engine(torch.device("cuda")) == "triton"


@pytest.mark.parametrize("name", ENGINES)
def test_a_name_counts_on_the_devices_that_have_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDTRUE_NUMERICS_ENGINE", name)
    assert cuda_engine(CUDA) == ("reference" if name == "reference" else "triton")


def test_the_name_of_the_kernels_leaves_the_cpu_its_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    before = engine()
    monkeypatch.setenv("HOLDTRUE_NUMERICS_ENGINE", "triton")
    assert engine() == before
    assert cuda_engine(CUDA) == "triton"


def test_without_triton_torch_operations_multiply_and_a_wish_for_it_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert cuda_engine(CUDA) == "reference"
    force_engine("triton")
    with pytest.raises(
        NumericsError, match=r"cannot be used on cuda:0: Triton is not installed\. Name 'reference'"
    ):
        cuda_engine(CUDA)


def test_an_older_device_has_torch_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (7, 5))
    assert cuda_engine(CUDA) == "reference"
    force_engine("triton")
    with pytest.raises(NumericsError, match=r"compute capability is 7\.5, and the kernels need 8\.0"):
        cuda_engine(CUDA)


def test_kernels_that_cannot_be_built_are_named_once_and_torch_operations_multiply(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fail_with(RuntimeError("Failed to find C compiler.\nMore."), monkeypatch)
    with pytest.warns(
        RuntimeWarning, match=r"torch operations, with the same bits and slower: .*Failed to find C compiler"
    ):
        assert cuda_engine(CUDA) == "reference"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cuda_engine(CUDA) == "reference"
    force_engine("triton")
    with pytest.raises(NumericsError, match="cannot be built"):
        cuda_engine(CUDA)


@pytest.mark.parametrize("words", ["libcuda.so cannot found!\nPossible files are located at [].", ""])
def test_where_triton_finds_no_driver_or_has_no_words_torch_operations_multiply(
    words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton asserts that it finds libcuda, in `ldconfig -p` or `LD_LIBRARY_PATH`."""
    fail_with(AssertionError(words), monkeypatch)
    with pytest.warns(RuntimeWarning, match=r"AssertionError: (libcuda\.so cannot found!|no message)\)"):
        assert cuda_engine(CUDA) == "reference"


def test_a_layout_that_cannot_be_built_leaves_its_products_alone_to_torch_operations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The larger tile asks for more than the device has: a small product goes on with the kernels."""
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda index: SimpleNamespace(multi_processor_count=1)
    )

    error = sys.modules["triton.errors"].TritonError("out of resource: shared memory")

    def build_small_ones(index: int, slices: int, *, is_long: bool, is_small: bool) -> None:
        if not is_small:
            raise error

    monkeypatch.setattr(_cuda, "check_products", build_small_ones)
    assert cuda_engine(CUDA) == "triton"
    a = SimpleNamespace(dim=lambda: 3, shape=(1, 200, 64), device=CUDA)
    with pytest.warns(RuntimeWarning, match="out of resource"):
        assert not _cuda.multiply(a, a, a, 4)  # type: ignore[arg-type]  # what is asked before anything is computed
    assert cuda_engine(CUDA) == "triton"


def test_kernels_that_are_not_exact_are_refused_and_nothing_else_is_used_in_their_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fail_with(_cuda._refusal(CUDA, "4 digits of 64 gave 1, not 2"), monkeypatch)
    for _ in range(2):
        with pytest.raises(
            NumericsError, match=r"not exact on cuda:0: .* such as 'reference', or pass numerics='exact'"
        ):
            cuda_engine(CUDA)
    force_engine("reference")
    assert cuda_engine(CUDA) == "reference"
