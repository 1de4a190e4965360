"""What every adapter of `Group` must do, as functions of one endpoint: they run alone, in threads and in processes."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from holdtrue.mapping import Mapping, Tree, evaluate_tree, leaves_of, order_by_tree, parse_mapping, prune_tree
from holdtrue.reduce import GradientLayout, Group, OrderedReduce, SumMemory, widened_dtype

# ---- collectives ----


def gather_unequal_lengths(group: Group) -> None:
    """Payloads come back by rank, whatever their lengths; empty ones too."""
    for gather in (group.gather_bytes, group.gather_calls):
        own = bytes([65 + group.rank]) * (3 * group.rank)
        expected = [bytes([65 + r]) * (3 * r) for r in range(group.world_size)]
        assert gather(own, what="unequal") == expected
        assert gather(b"", what="nothing") == [b""] * group.world_size
        long = bytes([group.rank]) * 70_000
        assert [len(p) for p in gather(long if group.rank == 0 else b"x", what="long")] == [70_000] + [1] * (
            group.world_size - 1
        )
    fixed = group.gather_fixed(bytes([group.rank, 7]), what="fixed")
    assert fixed == [bytes([r, 7]) for r in range(group.world_size)]


def _letter(sender: int, receiver: int, elements: int, dtype: torch.dtype) -> Tensor:
    return torch.arange(elements, dtype=dtype) + 100 * sender + 10_000 * receiver


def exchange_sizes(group: Group, size_of: Callable[[int, int], int], dtype: torch.dtype) -> None:
    """An all-to-all in which `size_of(sender, receiver)` elements go from one to the other."""
    W, me = group.world_size, group.rank
    sent, received = [size_of(me, r) for r in range(W)], [size_of(r, me) for r in range(W)]
    source = torch.cat([_letter(me, r, n, dtype) for r, n in enumerate(sent)])
    target = torch.full((sum(received),), -1, dtype=dtype)
    pending = group.exchange(target, source, received, sent, what="letters")
    pending.wait()
    assert pending.is_complete()
    expected = torch.cat([_letter(r, me, n, dtype) for r, n in enumerate(received)])
    assert torch.equal(target, expected)


def exchange_with_zero_sizes(group: Group) -> None:
    """Some send nothing to some; one sends nothing at all; nobody sends anything."""
    for dtype in (torch.float32, torch.float64):
        exchange_sizes(group, lambda a, b: (a + 2 * b) % 3, dtype)
        exchange_sizes(group, lambda a, b: 0 if a == 0 else 5 * b + 1, dtype)
        exchange_sizes(group, lambda a, b: 4 if b == 0 else 0, dtype)
        exchange_sizes(group, lambda a, b: 0, dtype)


def spread_with_empty_slices(group: Group) -> None:
    """Every worker ends with all slices, whoever owned none."""
    W = group.world_size
    for bounds in (
        [0, *(7 * (r + 1) for r in range(W))],
        [0] * W + [11],
        [0] + [11] * W,
        [0, *(min(9, 5 * (r // 2 + 1)) for r in range(W))],
        [0] * (W + 1),
    ):
        whole = torch.arange(bounds[-1], dtype=torch.float32) + 0.5
        flat = torch.full_like(whole, torch.nan)
        mine = slice(bounds[group.rank], bounds[group.rank + 1])
        flat[mine] = whole[mine]
        group.spread(flat, bounds, what="slices").wait()
        assert torch.equal(flat, whole) or W == 1


def streams_overlap(group: Group) -> None:
    """Collectives of different streams may be under way together, and be waited for in any order."""
    W, me = group.world_size, group.rank
    targets = [torch.empty(W) for _ in range(3)]
    flat = torch.full((W,), float(me))
    first = [
        group.exchange(t, torch.full((W,), float(10 * i + me)), [1] * W, [1] * W, what=f"exchange {i}")
        for i, t in enumerate(targets)
    ]
    spread = group.spread(flat, list(range(W + 1)), what="the spread")
    calls = group.gather_calls(b"c", what="calls")
    parts = group.gather_bytes(bytes([me]), what="bytes")
    assert (calls, parts) == ([b"c"] * W, [bytes([r]) for r in range(W)])
    spread.wait()
    for pending in reversed(first):
        pending.wait()
    for i, target in enumerate(targets):
        assert target.tolist() == [10.0 * i + r for r in range(W)]
    assert flat.tolist() == [float(r) for r in range(W)]


COLLECTIVES = (gather_unequal_lengths, exchange_with_zero_sizes, spread_with_empty_slices, streams_overlap)


# ---- the ordered reduction of random tensors ----

SHAPES = ((), (1,), (3,), (17,), (2, 3), (5, 16), (4, 1, 3, 3), (0,), (64,))
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.complex64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """One reduction to check: everything follows from it on every worker."""

    mapping: str
    virtual_nodes: int
    active: frozenset[int]
    """Virtual nodes with examples; at least one."""
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[torch.dtype, ...]
    bucket_bytes: int
    is_eager: bool
    offered: int
    """Buckets offered one by one before the rest comes at once."""
    seed: int


def random_sum(world_size: int, seed: int) -> Sum:
    """A reduction drawn from a seed."""
    draw = random.Random(seed)
    V = draw.choice((1, 2, 3, 5, 7, 8, 11, 12, 16, 19))
    held: list[list[int]] = [[] for _ in range(world_size)]
    owner, run = 0, draw.choice((0.0, 0.5, 0.9))
    for v in range(
        V
    ):  # anything from dice to long blocks: a worker that ends a subtree of 8 adds three times at once
        owner = owner if draw.random() < run else draw.randrange(world_size)
        held[owner].append(v)
    count = draw.randint(1, 6)
    dtypes = DTYPES if draw.random() < 0.3 else DTYPES[:1]
    return Sum(
        mapping=str(Mapping(V, tuple(map(tuple, held)))),
        virtual_nodes=V,
        active=frozenset(v for v in range(V) if draw.random() < 0.8) or frozenset({draw.randrange(V)}),
        shapes=tuple(draw.choice(SHAPES) for _ in range(count)),
        dtypes=tuple(draw.choice(dtypes) for _ in range(count)),
        bucket_bytes=draw.choice((64, 300, 2**23)),
        is_eager=draw.random() < 0.7,
        offered=draw.randrange(7),
        seed=seed,
    )


def parameters_of(case: Sum) -> list[Tensor]:
    """Parameters of the case; those with four axes in the channels-last format."""
    found = [torch.zeros(shape, dtype=d) for shape, d in zip(case.shapes, case.dtypes, strict=True)]
    return [p.to(memory_format=torch.channels_last) if p.dim() == 4 else p for p in found]


def leaf_of(case: Sum, step: int, virtual_node: int) -> list[Tensor | None]:
    """Gradients of one pass in widened dtypes, of sizes that round differently in every order; some are absent."""
    g = torch.Generator().manual_seed(case.seed * 1_000_003 + step * 101 + virtual_node)
    absent_everywhere = case.seed % len(case.shapes)
    leaf: list[Tensor | None] = []
    for i, p in enumerate(parameters_of(case)):
        real = torch.view_as_real(p) if p.is_complex() else p
        value = torch.randn(real.shape, generator=g, dtype=torch.float64) * 10.0 ** float(
            torch.randint(-3, 4, (), generator=g)
        )
        value[torch.rand(value.shape, generator=g) < 0.2] = -0.0  # what an absent leaf must leave as it is
        is_absent = float(torch.rand((), generator=g)) < 0.25 or (
            i == absent_everywhere and case.seed % 3 == 0
        )
        leaf.append(None if is_absent else value.to(widened_dtype(p.dtype)))
    return leaf


def expected_sum(case: Sum, step: int) -> list[Tensor | None]:
    """The value of the tree's expression, parameter by parameter; None where every leaf is absent."""
    tree = prune_tree(order_by_tree(parse_mapping(case.mapping, case.virtual_nodes)), case.active)
    assert tree is not None
    return [value_of(case, step, tree, i) for i in range(len(case.shapes))]


def value_of(case: Sum, step: int, tree: Tree, parameter: int) -> Tensor | None:
    """The value of one expression for one parameter; None where every leaf is absent."""

    def add(a: Tensor | None, b: Tensor | None) -> Tensor | None:
        if a is None or b is None:
            return b if a is None else a
        return a + b

    return evaluate_tree(tree, {v: leaf_of(case, step, v)[parameter] for v in leaves_of(tree)}, add)


def reduce_once(reduce: OrderedReduce, case: Sum, step: int, own: list[int]) -> list[Tensor | None]:
    """One worker's part of one step, with buckets leaving one by one where the case says so."""
    reduce.begin()
    if not case.is_eager:
        for v in own:
            reduce.push(v, leaf_of(case, step, v))
        reduce.push_rest()
        return reduce.finish()
    for v in own[:-1]:
        reduce.push(v, leaf_of(case, step, v))
    reduce.open_last(own[-1] if own else None)
    last: list[Tensor | None] = leaf_of(case, step, own[-1]) if own else [None] * len(case.shapes)
    if own:
        for b, bucket in enumerate(reduce.buckets[: case.offered]):
            indices = [s.parameter for s in bucket.segments]
            reduce.offer(b, {i: last[i] for i in indices})
            for i in indices:
                last[i] = None
    reduce.push_last(last)
    return reduce.finish()


def check_sum(group: Group, case: Sum) -> list[bool]:
    """Reduce two steps with one object and compare with the expression, in every bit; returns presence bits."""
    mapping = parse_mapping(case.mapping, case.virtual_nodes)
    tree = prune_tree(order_by_tree(mapping), case.active)
    assert tree is not None
    parameters = parameters_of(case)
    layout = GradientLayout.build(parameters, bucket_bytes=case.bucket_bytes)
    reduce = OrderedReduce(
        group=group,
        layout=layout,
        tree=tree,
        mapping=mapping,
        eager=case.is_eager,
        memory=SumMemory(layout, parameters),
    )
    own = [v for v in mapping.held[group.rank] if v in case.active]
    for step in range(2):
        found = reduce_once(reduce, case, step, own)
        expected = expected_sum(case, step)
        check_contributions_are_kept(reduce, case, step)
        present = reduce.present()
        for i, (value, right) in enumerate(zip(found, expected, strict=True)):
            here = [leaf_of(case, step, v)[i] is not None for v in own]
            if group.world_size > 1:
                assert present[i] == any(here), f"{case}, step {step}, parameter {i}: presence"
            if right is None:
                assert value is None or is_all_absent(value), f"{case}, step {step}, parameter {i}"
            else:
                assert value is not None, f"{case}, step {step}, parameter {i}"
                assert same_bits(value, right), f"{case}, step {step}, parameter {i}"
    return present


def check_contributions_are_kept(reduce: OrderedReduce, case: Sum, step: int) -> None:
    """After the reduction each contribution still holds its own subtree's value: it may have to be sent again."""
    for exchange in reduce._exchanges:
        for contribution, views in zip(reduce._own, exchange.views, strict=True):
            for p, view in views.items():
                right = value_of(case, step, contribution, p)
                kept = is_all_absent(view) if right is None else same_bits(view, right)
                assert kept, f"{case}, step {step}, contribution {contribution}, parameter {p}"


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equal in dtype, shape and every bit; -0.0 and 0.0 are not."""
    kind = torch.int64 if a.dtype == torch.float64 else torch.int32
    return a.dtype == b.dtype and torch.equal(a.contiguous().view(kind), b.contiguous().view(kind))


def is_all_absent(value: Tensor) -> bool:
    """Whether every element is -0.0, the identity of addition."""
    return same_bits(value, torch.full_like(value, -0.0))


def check_many(group: Group, cases: list[Sum]) -> int:
    """`check_sum` of each case; how many there were."""
    for case in cases:
        check_sum(group, case)
    return len(cases)


def run_check(seat: Any, check: Callable[..., Any]) -> Any:  # Any: a pool.Seat; what the check returns
    """A check on a gloo group of the pool."""
    return check(seat.group())
