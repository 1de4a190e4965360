"""Mappings that the conformance tests cover, and which orders of additions are really different."""

from functools import lru_cache
from itertools import product

from holdtrue.mapping import (
    Mapping,
    Tree,
    even_mapping,
    order_by_worker,
    parse_mapping,
    prune_tree,
)

VIRTUAL_NODES = (1, 2, 5, 7, 8, 12)


@lru_cache
def mappings(virtual_nodes: int) -> tuple[str, ...]:
    """Every worker count from 2 to 4: even, uneven, interleaved, reversed, with standbys. One worker is the base."""
    V, last = virtual_nodes, virtual_nodes - 1
    even = [str(even_mapping(V, w)) for w in (2, 3, 4)]
    standby = [f"none/0-{last}" if last else "none/0", f"0-{last}/none/none" if last else "0/none/none"]
    if V == 1:
        return tuple(dict.fromkeys([*even, *standby]))
    ids = range(V)
    by_stride = [
        Mapping(V, tuple(tuple(v for v in ids if v % w == r) for r in range(w))) for w in (2, 3, 4) if w <= V
    ]
    turned = Mapping(V, even_mapping(V, min(3, V)).held[::-1])
    uneven = [Mapping(V, ((0,), tuple(ids[1:]))), Mapping(V, (tuple(ids[:-1]), (last,)))]
    halves = even_mapping(V, 2).held
    between = Mapping(V, (halves[1], (), halves[0]))
    ragged = [Mapping(V, ((1, 2, V - 1), (0,), (), tuple(ids[3:-1])))] if V > 4 else []
    found = [*map(str, by_stride), str(turned), *map(str, uneven), str(between), *map(str, ragged)]
    return tuple(dict.fromkeys([*even, *found, *standby]))


@lru_cache
def covering_mappings(virtual_nodes: int, turn: int, count: int) -> tuple[str, ...]:
    """`count` of the mappings; over successive turns all of them come round."""
    every = mappings(virtual_nodes)
    picked = [every[(turn * count + i) % len(every)] for i in range(count)]
    return tuple(dict.fromkeys(picked))


def expression(tree: Tree | None) -> object:
    """The tree up to the order of two operands: addition of floats commutes, and does not associate.

    >>> expression((0, (1, 2))) == expression(((2, 1), 0)), expression((0, (1, 2))) == expression(((0, 1), 2))
    (True, False)
    """
    if tree is None or isinstance(tree, int):
        return tree
    return frozenset((expression(tree[0]), expression(tree[1])))


def parts_from_one_worker(mapping: str, virtual_nodes: int, present: frozenset[int] | None = None) -> bool:
    """Whether adding worker by worker is another expression on this mapping than on one worker."""
    present = frozenset(range(virtual_nodes)) if present is None else present
    alone, here = (
        expression(prune_tree(order_by_worker(m), present))
        for m in (even_mapping(virtual_nodes, 1), parse_mapping(mapping, virtual_nodes))
    )
    return alone != here


def pairwise(*axes: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Rows in which every pair of values of two axes comes together at least once, greedily few.

    >>> rows = pairwise(("a", "b"), ("x", "y"), ("1", "2"))
    >>> len(rows) <= 6 and {(r[0], r[2]) for r in rows} == {("a", "1"), ("a", "2"), ("b", "1"), ("b", "2")}
    True
    """
    pairs = [(i, j) for i in range(len(axes)) for j in range(i)]
    missing = {(i, a, j, b) for i, j in pairs for a in axes[i] for b in axes[j]}

    def gain(row: tuple[str, ...]) -> int:
        return sum((i, row[i], j, row[j]) in missing for i, j in pairs)

    rows: list[tuple[str, ...]] = []
    every = list(product(*axes))
    while missing:
        best = max(every, key=gain)
        rows.append(best)
        missing -= {(i, best[i], j, best[j]) for i, j in pairs}
    return rows
