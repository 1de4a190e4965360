"""Sums wait in memory taken before the first pass: the bits are the tree's, and what is given away never lies there."""

import functools
from collections.abc import Sequence
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import holdtrue as ht
from group_checks import same_bits
from holdtrue.mapping import contributions_of, evaluate_tree, order_by_tree, parse_mapping
from holdtrue.reduce import Accumulator, GradientLayout, SumMemory
from holdtrue.reduce._ordered import _BucketExchange
from holdtrue.testing import run_in_process

SHAPES = ((3, 5), (7,), (2, 4, 3, 3))

Gradients = list[Tensor | None]


def parameters() -> list[Tensor]:
    """A matrix, a vector and a filter in channels-last strides."""
    a, b, c = (torch.zeros(shape) for shape in SHAPES)
    return [a, b, c.to(memory_format=torch.channels_last)]


def gradients_of(virtual_node: int) -> Gradients:
    """Numbers whose sum depends on the order; now and then one is absent."""
    generator = torch.Generator().manual_seed(virtual_node)
    spread = [torch.randn(s, generator=generator) * 10.0 ** (virtual_node % 5) for s in SHAPES]
    return [None if (virtual_node + i) % 7 == 6 else g for i, g in enumerate(spread)]


def memory_of(tensors: Sequence[Tensor]) -> SumMemory:
    return SumMemory(GradientLayout.build(tensors), tensors)


def expected_of(tree: object, parameter: int) -> Tensor | None:
    """The expression, with fresh tensors."""

    def add(a: Tensor | None, b: Tensor | None) -> Tensor | None:
        return a + b if a is not None and b is not None else b if a is None else a

    leaves = {v: gradients_of(v)[parameter] for v in range(64)}
    return evaluate_tree(tree, leaves, add)  # type: ignore[arg-type]  # a tree of ids


def push_all(accumulator: Accumulator, nodes: Sequence[int], lends: bool) -> int:
    """Push all passes, added in place by hand where that is allowed; how often it was."""
    lent = 0
    for v in nodes:
        leaf = gradients_of(v)
        if lends and accumulator.merges_after(v) and accumulator.may_lend(v):
            entry = accumulator.stack.pop()
            leaf = [
                g if a is None else a if g is None else a.add_(g) for a, g in zip(entry, leaf, strict=True)
            ]
            lent += 1
            accumulator.push(v, leaf, merged=1)
        else:
            accumulator.push(v, leaf)
    return lent


@pytest.mark.parametrize("lends", [False, True])
@pytest.mark.parametrize(
    ("virtual_nodes", "mapping"),
    [(64, "0-63"), (37, "0-36"), (5, "0-4"), (23, "0-10/11-22"), (16, "0,2-9,13/1,10-12,14,15"), (1, "0")],
)
def test_sums_have_the_bits_of_the_tree_and_contributions_lie_in_memory_of_their_own(
    virtual_nodes: int, mapping: str, lends: bool
) -> None:
    parsed = parse_mapping(mapping, virtual_nodes)
    tree = order_by_tree(parsed)
    memory = memory_of(parameters())
    for held in parsed.held:
        contributions = contributions_of(tree, set(held))
        accumulator = Accumulator(contributions, memory=memory)
        for _ in range(2):
            accumulator.begin_anew()
            push_all(accumulator, held, lends)
            for tree_of, entry in zip(contributions, accumulator.stack, strict=True):
                for i, found in enumerate(entry):
                    expected = expected_of(tree_of, i)
                    assert (found is None) == (expected is None)
                    if found is not None and expected is not None:
                        assert same_bits(found, expected), f"{mapping}, {tree_of}, parameter {i}"
                        assert not memory.holds(found)


def test_another_order_has_other_bits() -> None:
    tree = order_by_tree(parse_mapping("0-63", 64))
    in_turn: object = 0
    for v in range(1, 64):
        in_turn = (in_turn, v)
    right, wrong = expected_of(tree, 0), expected_of(in_turn, 0)
    assert right is not None
    assert wrong is not None
    assert not same_bits(right, wrong)


@pytest.mark.parametrize("lends", [False, True])
def test_each_waiting_sum_of_four_passes_lies_there_and_no_more_than_the_design_allows(
    lends: bool,
) -> None:
    memory = memory_of(parameters())
    tree = order_by_tree(parse_mapping("0-63", 64))
    accumulator = Accumulator([tree], memory=memory)
    assert {len(made) for made in memory._made.values()} == {4}
    peak = 0
    for v in range(64):
        push_all(accumulator, [v], lends)
        there = [any(g is not None and memory.holds(g) for g in entry) for entry in accumulator.stack]
        sizes = [2**b for b in reversed(range(7)) if (v + 1) & 2**b]  # passes in each entry: a binary counter
        is_end = v == 63
        assert there == [not is_end and n >= 4 for n in sizes], f"after pass {v}"
        assert 4 + sizes.count(1) + sizes.count(2) <= 7
        peak = max(peak, sum(there))
    assert peak == 4


@pytest.mark.parametrize("virtual_nodes", range(1, 40))
def test_with_what_waits_elsewhere_it_is_the_binary_counter_that_the_solver_charges(
    virtual_nodes: int,
) -> None:
    memory = memory_of(parameters())
    accumulator = Accumulator(
        [order_by_tree(parse_mapping(f"0-{virtual_nodes - 1}", virtual_nodes))], memory=memory
    )
    own = len(memory._made[0])
    for v in range(virtual_nodes):
        elsewhere = [
            entry for entry in accumulator.stack if not any(g is not None and memory.holds(g) for g in entry)
        ]
        lent = bool(accumulator.merges_after(v) and accumulator.may_lend(v))
        assert own + len(elsewhere) + (not lent) <= virtual_nodes.bit_length(), f"pass {v}"
        push_all(accumulator, [v], lends=True)


def test_a_round_that_was_left_half_way_leaves_all_of_it_free() -> None:
    memory = memory_of(parameters())
    accumulator = Accumulator([order_by_tree(parse_mapping("0-63", 64))], memory=memory)
    push_all(accumulator, range(63), lends=False)
    assert all(len(free) < 2 for free in memory._free.values())  # one where a gradient was absent
    accumulator.begin_anew()
    assert {len(free) for free in memory._free.values()} == {4}


def test_gradients_of_another_kind_wait_where_they_are() -> None:
    memory = memory_of(parameters()[:1])
    memory.reserve(1)
    kinds = [torch.zeros(3, 5, dtype=torch.float64), torch.zeros(5, 3), torch.zeros(3, 5, device="meta")]
    for odd in [*kinds, nn.Parameter(torch.zeros(3, 5))]:
        assert memory.take(0, odd, odd) is None
    assert memory.take(0, torch.zeros(3, 5), torch.zeros(3, 5)) is not None
    assert memory.take(0, torch.zeros(3, 5), torch.zeros(3, 5)) is None  # all of it is taken


def test_nothing_is_taken_for_parameters_on_a_device() -> None:
    on_device = [torch.zeros(3, 5, device="meta")]
    memory = memory_of(on_device)
    memory.reserve(3)
    assert memory._made == {}


class KeepsGradients(torch.optim.SGD):
    """An optimizer that keeps each step's gradient itself, and not a copy of it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model.parameters(), lr=0.1)
        self.kept: list[tuple[Tensor, Tensor]] = []

    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no loss
        for group in self.param_groups:
            self.kept += [(p.grad, p.grad.clone()) for p in group["params"]]
        super().step(closure)


def train(virtual_nodes: int) -> tuple[list[str], KeepsGradients]:
    run = ht.init(virtual_nodes=virtual_nodes, global_batch_size=2 * virtual_nodes, seed=0)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    optimizer = KeepsGradients(model)
    run.prepare(model, optimizer)
    x = torch.randn(2 * virtual_nodes, 5, generator=torch.Generator().manual_seed(1))
    digests = []
    for step in run.steps(TensorDataset(x, x[:, :3].argmax(1)), epochs=3):
        for inputs, targets in step:
            step.backward(F.cross_entropy(model(inputs), targets))
        step.update()
        digests.append(run.digest("weights"))
    return digests, optimizer


@pytest.mark.parametrize("virtual_nodes", [5, 8, 17])
def test_a_gradient_that_an_optimizer_keeps_is_not_written_over(virtual_nodes: int) -> None:
    for mapping in (None, f"0-2/3-{virtual_nodes - 1}", f"0/1/2-{virtual_nodes - 1}"):
        for _, optimizer in run_in_process(functools.partial(train, virtual_nodes), mapping=mapping):
            assert len(optimizer.kept) == 4 * 3
            assert all(torch.equal(kept, copy) for kept, copy in optimizer.kept), mapping


class KeepsViews(KeepsGradients):
    """Keeps a view of the gradient, which is another tensor in the same memory."""

    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no loss
        super().step(closure)
        self.kept[-4:] = [(grad.detach(), copy) for grad, copy in self.kept[-4:]]


def test_a_view_of_a_gradient_is_kept_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "KeepsGradients", KeepsViews)
    for _, optimizer in run_in_process(functools.partial(train, 5), mapping="0-2/3-4"):
        assert all(torch.equal(kept, copy) for kept, copy in optimizer.kept)


@pytest.mark.parametrize("mapping", ["0-2/3-4", "0/1/2-4"])
def test_the_next_step_has_the_memory_of_the_last_where_nobody_keeps_it(
    mapping: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(KeepsGradients, "step", torch.optim.SGD.step)
    taken = []
    take = _BucketExchange._take_result
    monkeypatch.setattr(_BucketExchange, "_take_result", lambda self: (take(self), taken.append(self)))
    run_in_process(functools.partial(train, 5), mapping=mapping)
    assert taken
    assert len(taken) == len(set(map(id, taken)))


def test_it_would_be_if_backward_added_the_last_pass_in_that_memory() -> None:
    with mock.patch.object(Accumulator, "may_lend", return_value=True):
        _, optimizer = train(5)
    assert not all(torch.equal(kept, copy) for kept, copy in optimizer.kept)


@pytest.mark.parametrize("virtual_nodes", [8, 21])
def test_weights_are_bit_identical_after_every_step_with_sums_that_wait_elsewhere(virtual_nodes: int) -> None:
    with_memory = train(virtual_nodes)[0]
    with mock.patch.object(SumMemory, "take", return_value=None) as take:
        assert train(virtual_nodes)[0] == with_memory
    assert take.called
