"""Builds of the kernels that tell what an ordinary one hides: fused multiply-adds, and reads of what was never written."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from holdtrue.numerics import _native

pytestmark = pytest.mark.process

KERNELS = Path(_native.__file__).parent / "_kernels.c"
SELF_TEST = """
import sys
from holdtrue.errors import NumericsError
from holdtrue.numerics import _native, _selftest
built = _native.load(sys.argv[1])
_native.library = lambda: built
for name in _native.engines():
    _native.force_engine(name)
    try:
        _selftest.check_engine()
        print(name, "passes")
    except NumericsError as error:
        print(name, error)
"""
PRODUCTS = """
import sys, torch
from holdtrue.numerics import _native, engines, force_engine, matmul
built = _native.load(sys.argv[1])
_native.library = lambda: built
for name in engines():
    force_engine(name)
    for K in (40, 1400):
        for slices in (3, 4):
            matmul(torch.rand(5, K), torch.rand(K, 7), slices=slices)
            matmul(torch.rand(5, K).exp2() ** 30, torch.rand(K, 7), slices=slices)
print("whole")
"""


def build(folder: Path, *options: str) -> Path:
    """The kernels with more options of the compiler."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no gcc here")
    library = folder / "kernels.so"
    command = [compiler, "-std=gnu11", "-shared", "-fPIC", *options, str(KERNELS), "-o", str(library), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        pytest.skip(f"this compiler has not these options: {done.stderr[-200:]}")
    return library


def run(script: str, library: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, str(library)],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.slow
def test_kernels_with_fused_multiply_adds_are_refused_by_the_self_test(tmp_path: Path) -> None:
    if "vnni" not in _native.engines():
        pytest.skip("the processor has no engine whose vector units fuse")
    lines = run(SELF_TEST, build(tmp_path, "-O2", "-ffp-contract=fast")).stdout.splitlines()
    assert lines[0] == "reference passes"
    assert "vnni' fuses multiplications with additions here" in lines[-1]
    assert "-ffp-contract=off" in lines[-1]
    lines = run(SELF_TEST, build(tmp_path, "-O2", "-ffp-contract=off")).stdout.splitlines()
    assert [line.split()[-1] for line in lines] == ["passes"] * len(_native.engines())


def test_a_product_reads_no_sum_that_was_not_written(tmp_path: Path) -> None:
    """Memory is filled with bytes whose product with 64 overflows, and an overflow ends the process."""
    checked = ("-O1", "-fsanitize=signed-integer-overflow", "-fsanitize-undefined-trap-on-error")
    done = run(PRODUCTS, build(tmp_path, *checked), MALLOC_PERTURB_="85")
    assert (done.returncode, done.stdout) == (0, "whole\n"), done.stderr
