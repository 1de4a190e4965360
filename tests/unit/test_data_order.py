"""The order of an epoch: one answer everywhere."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdtrue.data import epoch_order
from holdtrue.errors import DataError
from holdtrue.plan import stream_key

seeds = st.integers(0, 2**63 - 1)
M = 2**64 - 1


def order_in_plain_python(examples: int, seed: int, epoch: int) -> list[int]:
    """The definition, in integers without a size."""
    start = stream_key(seed, "order", epoch)

    def key(index: int) -> int:
        z = (start + (index + 1) * 0x9E3779B97F4A7C15) & M
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & M
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & M
        return z ^ (z >> 31)

    return sorted(range(examples), key=key)


@settings(deadline=None)
@given(examples=st.integers(0, 300), seed=seeds, epoch=st.integers(0, 10**6), shuffle=st.booleans())
def test_every_example_is_in_an_epoch_exactly_once(
    examples: int, seed: int, epoch: int, shuffle: bool
) -> None:
    order = epoch_order(examples, seed=seed, epoch=epoch, shuffle=shuffle)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(examples))


@settings(deadline=None)
@given(examples=st.integers(0, 300), seed=seeds, epoch=st.integers(0, 10**6))
def test_the_order_is_the_one_of_plain_integer_arithmetic(examples: int, seed: int, epoch: int) -> None:
    order = epoch_order(examples, seed=seed, epoch=epoch, shuffle=True)
    assert order.tolist() == order_in_plain_python(examples, seed, epoch)


def test_the_order_is_the_one_that_was_written_down() -> None:
    golden = {
        (0, 0): [3, 5, 7, 11, 1, 8, 2, 6, 4, 0, 9, 10],
        (0, 1): [3, 6, 8, 1, 4, 7, 11, 0, 5, 2, 10, 9],
        (2**63 - 1, 7): [3, 5, 4, 6, 11, 0, 2, 1, 7, 8, 9, 10],
    }
    for (seed, epoch), expected in golden.items():
        assert epoch_order(12, seed=seed, epoch=epoch, shuffle=True).tolist() == expected
    large = epoch_order(100_000, seed=5, epoch=2, shuffle=True).astype("<i8").tobytes()
    assert hashlib.sha256(large).hexdigest() == (
        "f0520ee0a76bbdeb0d2e58bbd063781f093d79d8d127b04e0ad15034ed838603"
    )


def test_orders_of_different_seeds_and_epochs_differ() -> None:
    orders = {
        tuple(epoch_order(50, seed=s, epoch=e, shuffle=True).tolist()) for s in range(20) for e in range(20)
    }
    assert len(orders) == 400


def test_every_example_is_about_equally_often_first() -> None:
    firsts = [int(epoch_order(10, seed=0, epoch=e, shuffle=True)[0]) for e in range(5000)]
    counts = np.bincount(firsts, minlength=10)
    assert ((counts - 500) ** 2 / 500).sum() < 27.9  # chi-square, 9 degrees, p = 0.001


def test_without_shuffle_the_order_is_that_of_the_dataset() -> None:
    assert epoch_order(4, seed=3, epoch=9, shuffle=False).tolist() == [0, 1, 2, 3]


def test_a_negative_length_is_refused() -> None:
    with pytest.raises(DataError, match="examples is -1; a dataset holds 0 or more"):
        epoch_order(-1, seed=0, epoch=0, shuffle=True)
