"""Rows of what passes left in buffers: one compiled call, and NumPy where the kernels were not built."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from holdtrue.engine import _buffer_rows as buffer_rows
from holdtrue.engine._buffers import BufferBook
from holdtrue.numerics import byte_taker

Taker = Callable[..., Callable[[int], None] | None]


def model() -> nn.Module:
    """Statistics of two layers, a counter each, and a buffer that is empty."""
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 5), nn.BatchNorm1d(5))
    net.register_buffer("nothing", torch.empty(0))
    return net


def left_by_passes(make_taker: Taker, monkeypatch: pytest.MonkeyPatch) -> tuple[list[torch.Tensor], ...]:
    """What passes add to the sums, and what the buffers hold when they are over."""
    monkeypatch.setattr(buffer_rows, "byte_taker", make_taker)
    torch.manual_seed(0)
    net = model()
    book = BufferBook({"": net}, ())
    book.begin_round()
    assert book._rows is not None
    for v in range(9):  # more than the rows that are made at first
        net(torch.randn(6, 3))
        assert book.close_pass(v, 1.0) == []
    sums = [leaf for _, leaves in book.work_off() for leaf in leaves if leaf is not None]
    return sums, [buffer.clone() for buffer in net.buffers()]


def test_compiled_and_plain_copies_leave_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    if byte_taker([], []) is None:
        pytest.skip("the kernels were not built here")
    compiled = left_by_passes(byte_taker, monkeypatch)
    plain = left_by_passes(lambda *_: None, monkeypatch)
    for one, other in zip(compiled, plain, strict=True):
        assert len(one) == len(other) > 0
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    start = [buffer.clone() for buffer in model().buffers()]
    assert all(torch.equal(a, b) for a, b in zip(compiled[1], start, strict=True)), "every pass begins anew"
    assert not torch.equal(compiled[0][0], compiled[0][1]), "the passes left unlike values"


def test_a_copy_that_puts_nothing_back_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(pieces: list[torch.Tensor], starts: list[torch.Tensor]) -> Callable[[int], None] | None:
        return byte_taker(pieces, pieces)

    if byte_taker([], []) is None:
        pytest.skip("the kernels were not built here")
    _, left = left_by_passes(forgetful, monkeypatch)
    assert not all(torch.equal(a, b) for a, b in zip(left, model().buffers(), strict=True))
