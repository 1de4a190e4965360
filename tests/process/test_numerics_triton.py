"""Matrix products by Triton: bits of the kernels in its interpreter, and the code that they become for GPUs that are not here."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parents[1]
FOLDER = os.environ.get("HOLDTRUE_TRITON")
"""A folder in which Triton was installed aside: it takes a gigabyte (`make test-slow`)."""
TREE = ast.parse((TESTS / "triton_cases.py").read_text())
CASES = [
    node.name
    for node in TREE.body
    if isinstance(node, ast.FunctionDef) and any(ast.unparse(d) == "case" for d in node.decorator_list)
]
CAPABILITIES = (90, 89)


def run_script(name: str, *words: str, **variables: str) -> Any:  # Any: JSON
    """What a script beside the tests prints, with Triton in reach."""
    paths = [
        str(Path(__file__).parents[2] / "src"),
        *([FOLDER] if FOLDER else []),
        os.environ.get("PYTHONPATH", ""),
    ]
    env = os.environ | variables | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    if subprocess.run(
        [sys.executable, "-c", "import triton"], env=env, capture_output=True, check=False
    ).returncode:
        pytest.skip(
            "Triton is not installed; make test-slow installs it, and names its folder in HOLDTRUE_TRITON"
        )
    done = subprocess.run(
        [sys.executable, str(TESTS / name), *words],
        env=env,
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def interpreted() -> dict[str, str | None]:
    """What went wrong with each case, all run in one process."""
    found = run_script("triton_cases.py", TRITON_INTERPRET="1")
    assert list(found) == CASES
    return dict(found)


# guarantee G17, on the part of CUDA that can be shown without a device
@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize("case", CASES)
def test_in_the_interpreter(case: str, interpreted: dict[str, str | None]) -> None:
    assert interpreted[case] is None, interpreted[case]


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_the_machine_code_fuses_nothing_flushes_nothing_and_multiplies_bytes(
    capability: int, tmp_path: Path
) -> None:
    found = run_script("triton_code.py", str(capability), TRITON_CACHE_DIR=str(tmp_path))
    *kernels, control = found
    for kernel in kernels:
        assert (kernel["fused"], kernel["flushes"], kernel["other_products"]) == (0, 0, 0), kernel
        # beyond that a program does not start on the device
        assert kernel["shared_bytes"] <= (160 if capability == 90 else 96) * 1024, kernel
    products = [kernel for kernel in kernels if kernel["kernel"].startswith("_multiply")]
    assert len(products) == 4
    for kernel in products:
        # one layout: with two, sums move between them and are made twice
        assert kernel["byte_products"] > 0, kernel
        assert kernel["layouts"] == 1, kernel
    assert control["fused"] > 0, "what is looked for would not be found"
