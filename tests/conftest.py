"""What all tests share: the pool of living gloo workers."""

import os
import tempfile
from collections.abc import Iterator

import pytest

from pool import Pool


@pytest.fixture(scope="session", autouse=True)
def jobs_of_the_tests() -> Iterator[None]:
    """A folder of jobs of the tests' own: they must neither meet the user's jobs nor leave theirs."""
    with tempfile.TemporaryDirectory(prefix="holdtrue-test-") as folder:
        os.environ["XDG_RUNTIME_DIR"] = folder
        yield


@pytest.fixture(scope="session")
def gloo_pool() -> Iterator[Pool]:
    """Four living worker processes, started at their first case: one pool for each session, or xdist worker."""
    with Pool(size=4) as pool:
        yield pool
