"""What a pass exchanges of a buffer - name, object, memory - is put back, and its value counts on every mapping alike."""

import ctypes
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import holdtrue as ht
from holdtrue.engine import _buffer_rows
from holdtrue.engine._buffers import BufferBook
from holdtrue.errors import NumericsError
from holdtrue.mapping import even_mapping
from holdtrue.numerics import byte_taker
from holdtrue.reduce import AloneGroup
from holdtrue.testing import run_in_process

X = torch.randn(56, 6, generator=torch.Generator().manual_seed(0))
X[:, 0] = (torch.arange(56) % 14 < 4).float()  # the examples of virtual nodes 0 and 1 in every step
Forward = Callable[["Holder", torch.Tensor], object]


class Holder(nn.Module):
    """A linear layer, and a forward that may do anything to buffers."""

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 3)
        self.do = forward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.do(self, x)
        out: torch.Tensor = self.inner(x)
        return out


def train(make: Callable[[], Holder], rules: dict[str, str] | None = None) -> list[tuple[str, list[str]]]:
    """Digest and names of the buffers after every step."""
    run = ht.init(virtual_nodes=7, global_batch_size=14, seed=1, buffers=rules or {})
    torch.manual_seed(0)
    model = make()
    model, _ = run.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    found = []
    for step in run.steps(TensorDataset(X), shuffle=False):
        for (x,) in step:
            step.backward(model(x).square().mean())
        step.update()
        found.append((run.digest(), [f"{n}={b.tolist()}" for n, b in model.named_buffers()]))
    return found


def same_everywhere(make: Callable[[], Holder], rules: dict[str, str] | None = None) -> list[list[str]]:
    """Buffers after every step, once they were the same on mappings, one of them with a standby."""
    (alone,) = run_in_process(lambda: train(make, rules))
    for mapping in ("0-1/2-6", "2-6/0-1", "0-6/"):
        assert run_in_process(lambda: train(make, rules), mapping=mapping) == [alone, alone]
    return [buffers for _, buffers in alone]


def with_buffer(forward: Forward, **buffers: torch.Tensor | None) -> Callable[[], Holder]:
    def make() -> Holder:
        holder = Holder(forward)
        for name, value in buffers.items():
            holder.register_buffer(name, None if value is None else value.clone())
        return holder

    return make


def count(holder: Holder, x: torch.Tensor) -> None:
    holder.tokens = holder.tokens + x[:, 0].sum().to(holder.tokens.dtype)


def test_a_name_bound_anew_to_equal_bits_on_one_worker_only_is_put_back() -> None:
    found = same_everywhere(with_buffer(count, tokens=torch.zeros(())), {"tokens": "sum"})
    assert found == [[f"tokens={4.0 * k}"] for k in range(1, 5)]
    same_everywhere(with_buffer(count, tokens=torch.zeros((), dtype=torch.int64)))


def test_what_was_written_before_the_name_was_bound_to_equal_bits_is_put_back() -> None:
    def there_and_back(holder: Holder, x: torch.Tensor) -> None:
        holder.tokens.add_(1)
        holder.tokens = holder.tokens - 1

    assert same_everywhere(with_buffer(there_and_back, tokens=torch.zeros(()))) == [["tokens=0.0"]] * 4


def test_a_buffer_that_was_none_and_is_registered_in_forward_is_there_in_every_pass() -> None:
    def fill(holder: Holder, x: torch.Tensor) -> None:
        if holder.cache is None:
            holder.register_buffer("cache", torch.ones(2))
        holder.step_count += 1

    make = with_buffer(fill, cache=None, step_count=torch.zeros((), dtype=torch.int64))
    found = same_everywhere(make)
    assert found[0] == ["cache=[1.0, 1.0]", "step_count=1"]


def test_the_order_of_members_does_not_depend_on_what_was_bound_when() -> None:
    def fill(holder: Holder, x: torch.Tensor) -> None:
        if "a_late" not in holder._buffers:
            holder.register_buffer("a_late", torch.ones(()))
        holder.b = holder.b + x[:, 0].sum()

    def names(late_first: bool) -> list[str]:
        holder = Holder(fill)
        for name in ("a_late", "b") if late_first else ("b", "a_late"):
            holder.register_buffer(name, torch.zeros(()))
        book = BufferBook({"": holder}, ())
        book.begin_round()
        return [m.name for f in book._families for m in f.members]

    assert names(True) == names(False)
    same_everywhere(with_buffer(fill, b=torch.zeros(())), {"b": "sum", "a_late": "sum"})


def tied(forward: Forward, *, as_views: bool = False) -> Holder:
    holder = Holder(forward)
    holder.other = nn.Module()
    holder.register_buffer("one", torch.ones(2))
    holder.other.register_buffer("two", holder.one.detach() if as_views else holder.one)
    return holder


@pytest.mark.parametrize("as_views", [False, True])
def test_a_tensor_that_hangs_in_two_modules_stays_in_both(as_views: bool) -> None:
    def forward(holder: Holder, x: torch.Tensor) -> None:
        holder.one.add_(1)
        if "late" not in holder._buffers:
            holder.register_buffer("late", torch.zeros(()))

    holder = tied(forward, as_views=as_views)
    book = BufferBook({"": holder}, ())
    two = holder.other.two
    book.begin_round()
    assert [m.name for f in book._families for m in f.members] == ["one"]
    for v in range(2):
        holder(X[:2])
        book.close_pass(v, 1.0)
        assert holder.other.two is two
        assert two.tolist() == [1.0, 1.0]
    same_everywhere(lambda: tied(forward, as_views=as_views))


@pytest.mark.parametrize("few", [0, 8])
@pytest.mark.parametrize("compiled", [True, False])
def test_one_memory_under_two_tensors_leaves_the_same_bits_with_and_without_kernels(
    few: int, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_buffer_rows, "FEW_PIECES", few)
    if not compiled:
        monkeypatch.setattr(_buffer_rows, "byte_taker", lambda *_: None)
    holder = tied(lambda holder, x: holder.one.add_(1), as_views=True)
    book = BufferBook({"": holder}, (("*", "mean"),))
    book.begin_round()
    for v in range(2):
        holder(X[:2])
        book.close_pass(v, 1.0)
    sums = [leaf.tolist() for _, leaves in book.work_off() for leaf in leaves if leaf is not None]
    assert sums == [[2.0, 2.0], [2.0, 2.0]]
    assert holder.one.tolist() == [1.0, 1.0]


def test_the_compiled_copy_reads_all_pieces_before_it_writes_one() -> None:
    memory, start = torch.full((3,), 2.0), torch.zeros(3)
    take = byte_taker([memory, memory], [start, start])
    if take is None:
        pytest.skip("the kernels were not built here")
    row = torch.empty(6)
    take(row.data_ptr())
    assert row.tolist() == [2.0] * 6
    assert memory.tolist() == [0.0] * 3


def left_and_upper(base: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two parts that have four elements in common, neither of them in one piece."""
    return base[:, :2], base[:2, 1:3]


Parts = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
VIEWS: dict[str, Parts] = {
    "a part": lambda base: (base, base[:2]),
    "a part, the other way round": lambda base: (base[2:], base),
    "interleaved": lambda base: (base[:, :2], base[:, 1:3]),
    "crossing": left_and_upper,
    "other dtype": lambda base: (base, base.view(torch.int32)),
}


def overlapping(forward: Forward, parts: Parts) -> Callable[[], Holder]:
    def make() -> Holder:
        holder = Holder(forward)
        base = torch.arange(16.0).reshape(4, 4)
        for name, part in zip(("first", "second"), parts(base), strict=True):
            holder.register_buffer(name, part)
        holder.register_buffer("count", torch.zeros(()))
        return holder

    return make


@pytest.mark.parametrize("views", VIEWS)
def test_buffers_that_share_a_part_of_their_memory_may_do_so_as_long_as_no_pass_changes_them(
    views: str,
) -> None:
    def look(holder: Holder, x: torch.Tensor) -> None:
        holder.count += holder.first.sum() + holder.second.sum()

    model = overlapping(look, VIEWS[views])()
    parts = [f"{name}={getattr(model, name).tolist()}" for name in ("first", "second")]
    for rules in ({}, {"*": "sum"}):
        found = same_everywhere(overlapping(look, VIEWS[views]), rules)
        assert [buffers[:2] for buffers in found] == [parts] * 4
        assert found[0][2] != found[1][2], "a buffer beside them changed"


@pytest.mark.parametrize("views", VIEWS)
@pytest.mark.parametrize("name", ["first", "second"])
@pytest.mark.parametrize("mapping", ["0-6", "0-1/2-6", "2-6/0-1", "0-6/"])
def test_a_pass_that_changes_memory_which_two_buffers_share_is_refused_by_their_names(
    views: str, name: str, mapping: str
) -> None:
    def write(holder: Holder, x: torch.Tensor) -> None:
        if x[0, 0] > 0:  # in two of the passes
            getattr(holder, name).add_(1)

    sentence = r"'first' and 'second' share a part of their memory, and in step 0 a pass changed it.*clone"
    with pytest.raises(NumericsError, match=sentence):
        run_in_process(lambda: train(overlapping(write, VIEWS[views]), {"*": "mean"}), mapping=mapping)


def test_buffers_side_by_side_in_one_memory_are_buffers_like_others() -> None:
    def write(holder: Holder, x: torch.Tensor) -> None:
        holder.first.add_(1)
        holder.second.add_(2)

    for parts in (lambda base: (base[:, :2], base[:, 2:]), lambda base: (base[:2], base[2:])):
        found = same_everywhere(overlapping(write, parts))
        start = torch.arange(16.0).reshape(4, 4)
        for name, value, part in zip(("first", "second"), (4, 8), parts(start), strict=True):
            assert f"{name}={(part + value).tolist()}" in found[3]


def ema(how: str) -> Forward:
    def forward(holder: Holder, x: torch.Tensor) -> None:
        new = holder.ema * 0.5 + x[:, 0].sum()
        if how == "data":
            holder.ema.data = new
        elif how == "set_":
            holder.ema.set_(new)
        else:
            holder.ema = new

    return forward


@pytest.mark.parametrize("how", ["data", "set_"])
def test_memory_exchanged_under_a_tensor_counts_and_is_put_back(how: str) -> None:
    rules = {"ema": "mean"}
    expected = same_everywhere(with_buffer(ema("name"), ema=torch.zeros(())), rules)
    assert same_everywhere(with_buffer(ema(how), ema=torch.zeros(())), rules) == expected
    assert expected[0] != expected[1]


def test_another_shape_set_under_a_tensor_is_a_buffer_that_changed_its_shape() -> None:
    def grow(holder: Holder, x: torch.Tensor) -> None:
        holder.cache.set_(torch.ones(len(holder.cache) + 1))

    found = same_everywhere(with_buffer(grow, cache=torch.ones(1)))
    assert [b[0].count("1.0") for b in found] == [2, 3, 4, 5]


def test_another_layout_in_memory_is_seen_between_rounds() -> None:
    holder = with_buffer(lambda holder, x: None, square=torch.zeros(2, 2))()
    book = BufferBook({"": holder}, ())
    book.begin_round()
    holder.square.t_()
    holder.square[0, 1] = 1.0
    assert not book._is_known()


@pytest.mark.parametrize("few", [0, 8])
@pytest.mark.parametrize("rule", ["alike", "sum"])
def test_a_constant_in_read_only_memory_is_not_written(
    few: int, rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_buffer_rows, "FEW_PIECES", few)
    np.arange(1024, dtype=np.float32).tofile(tmp_path / "table")
    table = np.memmap(tmp_path / "table", dtype=np.float32, mode="c")  # the pages belong to this process
    holder = with_buffer(lambda holder, x: holder.count.add_(1), count=torch.zeros(()), more=torch.ones(3))()
    holder.register_buffer("table", torch.from_numpy(table))
    book = BufferBook({"": holder}, (("*", rule),))
    book.begin_round()
    assert make_read_only(table, True)
    try:
        sums: dict[int, list[torch.Tensor | None]] = {}
        for v in range(3):
            holder(X[:2])
            if v == 2:
                holder.more = holder.more + 0
            sums |= dict(book.close_pass(v, 1.0))
            assert holder.count.item() == 0
        sums |= dict(book.work_off())
        added = [a + b + c for a, b, c in zip(sums[0], sums[1], sums[2], strict=True)]
        book.settle(book.swap(AloneGroup(), even_mapping(3, 1), 0, 0), added, 3.0)
        assert holder.count.item() == 1  # changed alike
        book.undo()
    finally:
        make_read_only(table, False)
    assert holder.count.item() == 0


def make_read_only(table: npt.NDArray[np.float32], on: bool) -> bool:
    """Make pages read-only, so that a write ends the process by SIGSEGV."""
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    protect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return protect(table.ctypes.data, 4096, 1 if on else 3) == 0


def test_what_a_pass_takes_away_is_refused_by_name() -> None:
    def take(holder: Holder, x: torch.Tensor) -> None:
        holder.cache = None

    def delete(holder: Holder, x: torch.Tensor) -> None:
        del holder.cache

    for forward in (take, delete):
        with pytest.raises(NumericsError, match=r"set the buffer 'cache' to None or deleted it"):
            run_in_process(lambda forward=forward: train(with_buffer(forward, cache=torch.ones(1))))


def test_complex128_is_refused_by_name_and_complex64_is_not() -> None:
    with pytest.raises(NumericsError, match=r"'wide' is complex128.*view_as_real"):
        run_in_process(
            lambda: train(with_buffer(lambda h, x: None, wide=torch.ones(2, dtype=torch.complex128)))
        )
    run_in_process(lambda: train(with_buffer(lambda h, x: None, wide=torch.ones(2, dtype=torch.complex64))))


@pytest.mark.parametrize("rule", ["max", "min"])
def test_of_two_zeros_a_fold_keeps_one_whoever_had_it(rule: str) -> None:
    def zero(holder: Holder, x: torch.Tensor) -> None:
        holder.peak.copy_(torch.where(x[0, 0] > 0, torch.full((), -0.0), torch.zeros(())))

    found = same_everywhere(with_buffer(zero, peak=torch.ones(())), {"peak": rule})
    assert found == [["peak=0.0"]] * 4
