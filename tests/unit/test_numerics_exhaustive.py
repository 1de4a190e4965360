"""Functions over all 2^32 float32 inputs: the hash of the results is committed, so no bit may change anywhere.

python tests/unit/test_numerics_exhaustive.py exp      computes the hashes of a function anew and prints them
"""

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from holdtrue.numerics import force_engine, function

HASHES = Path(__file__).parents[1] / "numerics_hashes.json"
NAMES = ("exp", "log", "tanh", "erf", "sigmoid", "rsqrt")
CHUNK = 2**20  # temporaries stay in the processor's caches


def results(name: str, start: int, end: int) -> Iterator[torch.Tensor]:
    """Bits of the function for inputs with the bit patterns from `start`, every NaN as one value."""
    for at in range(start, end, CHUNK):
        first, count = at - 2**32 if at >= 2**31 else at, min(CHUNK, end - at)
        pattern = torch.arange(first, first + count, dtype=torch.int32)
        y = function(name, pattern.view(torch.float32))
        yield torch.where(y.isnan(), torch.nan, y)


def hash_of(name: str, start: int = 0, end: int = 2**32) -> str:
    """SHA-256 of the results, little-endian, in the order of the bit patterns."""
    found = hashlib.sha256()
    for y in results(name, start, end):
        found.update(y.numpy().data)
    return found.hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(json.loads(HASHES.read_text())["all"]))
def test_the_results_for_every_float32_have_the_committed_hash(name: str) -> None:
    assert hash_of(name) == json.loads(HASHES.read_text())["all"][name]


@pytest.mark.parametrize("name", NAMES)
def test_the_results_for_some_float32_have_the_committed_hash(name: str) -> None:
    """Numbers from 0.5 to 0.508: a change of the arithmetic shows in the default tests too."""
    assert hash_of(name, 0x3F000000, 0x3F020000) == json.loads(HASHES.read_text())["some"][name]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_torch_operations_alone_have_the_same_results(name: str) -> None:
    """Without kernels, on every 16th block of 2^20 inputs."""
    for start in range(0, 2**32, 2**24):
        expected = hash_of(name, start, start + 2**20)
        force_engine("reference")
        try:
            assert hash_of(name, start, start + 2**20) == expected, hex(start)
        finally:
            force_engine(None)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(
            json.dumps({"name": name, "all": hash_of(name), "some": hash_of(name, 0x3F000000, 0x3F020000)}),
            flush=True,
        )
