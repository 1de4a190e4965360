"""Another version of torch, in an environment of its own, gives the digests of this one. `make test-torch` runs it."""

import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest

OTHER = os.environ.get("HOLDTRUE_OTHER_PYTHON")
"""The interpreter of an environment that has holdtrue with another torch."""

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(OTHER is None, reason="HOLDTRUE_OTHER_PYTHON names no environment: make test-torch"),
]
SCRIPT = Path(__file__).parents[1] / "numerics_models.py"


def said_by(python: str, *arguments: str) -> list[str]:
    """Lines that a program prints on one thread."""
    done = subprocess.run(
        [python, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@lru_cache(maxsize=1)
def versions() -> tuple[str, str]:
    """Versions of torch here and there."""
    assert OTHER is not None
    here, there = (
        said_by(p, "-c", "import torch; print(torch.__version__)")[0] for p in (sys.executable, OTHER)
    )
    return here, there


def test_portable_training_has_one_digest_under_two_versions_of_torch() -> None:
    assert OTHER is not None
    here, there = versions()
    assert here != there, "the other environment has the same torch: nothing would be shown"
    digests = said_by(sys.executable, str(SCRIPT), "portable")
    assert len(digests) == 4
    assert said_by(OTHER, str(SCRIPT), "portable") == digests, f"torch {there} differs from {here}"


def test_ordinary_training_differs_between_the_two_versions() -> None:
    """The control: between versions whose ordinary arithmetic is alike the test above would show nothing."""
    assert OTHER is not None
    ours, ours_again, theirs, theirs_again = (
        said_by(python, str(SCRIPT), "plain") for python in (sys.executable, sys.executable, OTHER, OTHER)
    )
    assert (ours, theirs) == (ours_again, theirs_again), "a version differs from itself: no control"
    assert ours != theirs, (
        f"ordinary arithmetic of torch {' and '.join(versions())} has the same bits: name another"
    )
