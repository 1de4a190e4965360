"""One training, unlike settings in processes of their own: portable numerics gives one digest, ordinary torch several."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from holdtrue.numerics import engines
from holdtrue.numerics._check import unlike_settings

pytestmark = pytest.mark.process

SCRIPT = Path(__file__).parents[1] / "numerics_models.py"
ORDINARY = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
UNLIKE: dict[str, dict[str, str]] = {
    "as it is": {},
    **{" ".join(f"{n}={v}" for n, v in variables.items()): variables for variables in unlike_settings()},
}
MORE: dict[str, dict[str, str]] = {
    "AVX-512, two threads": {
        "ATEN_CPU_CAPABILITY": "avx512",
        "OMP_NUM_THREADS": "2",
        "MKL_NUM_THREADS": "2",
    },
    "AVX2 kernels, MKL on AVX2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "HOLDTRUE_NUMERICS_ENGINE": "avx2",
        "MKL_CBWR": "AVX2,STRICT",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
    },
}


def digests(kind: str, settings: dict[str, str]) -> list[str]:
    """What the script prints under settings."""
    wanted = settings.get("HOLDTRUE_NUMERICS_ENGINE", "reference")
    if wanted not in engines():
        pytest.skip(f"engine {wanted} is not on this machine")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), kind],
        env={**os.environ, **ORDINARY, **settings},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1]


@pytest.fixture(scope="module")
def portable_digests() -> dict[str, list[str]]:
    return {name: digests("portable", settings) for name, settings in UNLIKE.items()}


def test_portable_training_has_one_digest_under_unlike_settings(
    portable_digests: dict[str, list[str]],
) -> None:
    first, *others = portable_digests.values()
    assert len(first) == 4
    assert [other for other in others if other != first] == []


def test_ordinary_training_differs_in_every_task_under_the_same_settings() -> None:
    found = [digests("plain", settings) for settings in UNLIKE.values()]
    assert all(len(set(task)) > 1 for task in zip(*found, strict=True)), found


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE)
def test_portable_training_has_the_same_digest_under_more_settings(
    name: str, portable_digests: dict[str, list[str]]
) -> None:
    assert digests("portable", MORE[name]) == portable_digests["as it is"]
