"""What all tests share: the pool of living gloo workers."""

from collections.abc import Iterator

import pytest

from pool import Pool


@pytest.fixture(scope="session")
def gloo_pool() -> Iterator[Pool]:
    """Four living worker processes, started at their first case: one pool for each session, or xdist worker."""
    with Pool(size=4) as pool:
        yield pool
