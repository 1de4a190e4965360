"""Rows of what passes left in buffers: one compiled call, and NumPy where the kernels were not built."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import nn

from holdtrue.engine import _buffer_rows as buffer_rows
from holdtrue.engine._buffers import BufferBook
from holdtrue.mapping import Tree, evaluate_tree, even_mapping, order_by_tree
from holdtrue.numerics import byte_taker
from holdtrue.reduce import AloneGroup

Taker = Callable[..., Callable[[int], None] | None]


def model() -> nn.Module:
    """Statistics of two layers, a counter each, and a buffer that is empty."""
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 5), nn.BatchNorm1d(5))
    net.register_buffer("nothing", torch.empty(0))
    return net


def left_by_passes(make_taker: Taker, monkeypatch: pytest.MonkeyPatch) -> tuple[list[torch.Tensor], ...]:
    """What passes add to the sums, and what the buffers hold when they are over."""
    monkeypatch.setattr(buffer_rows, "byte_taker", make_taker)
    monkeypatch.setattr(buffer_rows, "FEW_PIECES", 0)
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


def round_of(passes: int, weights: Sequence[float], *, rows: bool, adds: bool) -> list[torch.Tensor]:
    """The buffers after a round of one worker: with rows or pass by pass, added up at once or one by one."""
    torch.manual_seed(0)
    net = model()
    book = BufferBook({"": net}, ())
    tree = order_by_tree(even_mapping(passes, 1))
    for _ in range(2):
        book.begin_round()
        if not rows:
            book._rows = None
        pushed: dict[Tree, list[torch.Tensor | None]] = {}
        for v in range(passes):
            net(torch.randn(6, 3) * 3**v)
            pushed |= dict(book.close_pass(v, weights[v]))
        totals = book.add_up((tree,), passes) if adds else None
        sums = None if totals is None else totals[0]
        assert (sums is not None) == (rows and adds)
        if sums is None:
            pushed |= dict(book.work_off())
            sums = evaluate_tree(tree, pushed, lambda a, b: [x + y for x, y in zip(a, b, strict=True)])
        settlement = book.swap(AloneGroup(), even_mapping(passes, 1), 0, 0)
        book.settle(settlement, sums, sum(weights))
    return [buffer.clone() for buffer in net.buffers()]


@pytest.mark.parametrize("weights", [(1.0,) * 7, (3.0, 4.0, 3.0, 4.0, 3.0, 4.0, 4.0), (1.0,)])
def test_rows_added_up_at_once_are_the_passes_added_one_by_one(weights: tuple[float, ...]) -> None:
    passes = len(weights)
    expected = round_of(passes, weights, rows=False, adds=False)
    for adds in (False, True):
        found = round_of(passes, weights, rows=True, adds=adds)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    other = round_of(passes, weights[::-1], rows=True, adds=True)
    is_same = all(torch.equal(a, b) for a, b in zip(other, expected, strict=True))
    assert is_same == (weights == weights[::-1])
