"""What all tests share: the pool of living gloo workers."""

import os
import sys
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


@pytest.fixture(autouse=True)
def torch_as_it_was() -> Iterator[None]:
    """Tests of portable numerics leave a choice in torch's own functions, which a compiled model would trace."""
    yield
    composites = sys.modules.get("holdtrue.numerics._composites")
    if composites is not None:
        composites.give_back()


@pytest.fixture(scope="session")
def gloo_pool() -> Iterator[Pool]:
    """Four living worker processes, started at their first case: one pool for each session, or xdist worker."""
    with Pool(size=4) as pool:
        yield pool
