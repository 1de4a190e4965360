"""The order of additions: one fixed binary tree over virtual nodes.

A tree is a leaf (a virtual-node id) or a pair of trees. It is an expression: `((0, 1), 2)` says
add 0 and 1, then add 2. Floating-point addition is not associative, so the expression is the result.

    V = 7            ((0,1),(2,3)) + ((4,5),6)

A *contribution* of a worker is a largest subtree whose leaves it holds all: the worker can add it up
alone without changing the expression. What is left of the tree above the contributions is added
between workers.
"""

from collections.abc import Callable, Collection
from collections.abc import Mapping as Dictionary
from functools import lru_cache
from typing import TypeVar

from ._mapping import Mapping

Tree = int | tuple["Tree", "Tree"]
T = TypeVar("T")


@lru_cache(maxsize=64)
def _range_tree(start: int, stop: int) -> Tree:
    if stop - start == 1:
        return start
    middle = start + (1 << (stop - start - 1).bit_length() - 1)
    return _range_tree(start, middle), _range_tree(middle, stop)


def order_by_tree(mapping: Mapping) -> Tree:
    """The tree of levels `exact` and `portable`: a range splits at the largest power of two below its length.

    Guarantee:
        Depends on V alone, never on who holds what.   # guarantee G1

    >>> order_by_tree(Mapping(7, ((0, 1, 2), (3, 4, 5, 6))))
    (((0, 1), (2, 3)), ((4, 5), 6))
    """
    return _range_tree(0, mapping.virtual_nodes)


def order_by_worker(mapping: Mapping) -> Tree:
    """The order of level `fast`: each worker adds its own virtual nodes first, then workers are added by rank.

    This is what ordinary data parallelism does, and the negative control of the tests: its result
    depends on the mapping.

    >>> order_by_worker(Mapping(5, ((0, 1, 2), (3, 4))))
    (((0, 1), 2), (3, 4))
    """

    def fold(trees: list[Tree]) -> Tree:
        result = trees[0]
        for tree in trees[1:]:
            result = (result, tree)
        return result

    return fold([fold(list(ids)) for ids in mapping.held if ids])


def leaves_of(tree: Tree) -> tuple[int, ...]:
    """Virtual nodes of the tree, left to right.

    >>> leaves_of(((0, 1), 2))
    (0, 1, 2)
    """
    return (tree,) if isinstance(tree, int) else leaves_of(tree[0]) + leaves_of(tree[1])


def prune_tree(tree: Tree, present: Collection[int]) -> Tree | None:
    """The tree without absent leaves: their sibling takes the place of the pair. None if no leaf is present.

    >>> prune_tree(((0, 1), (2, 3)), {0, 2, 3})
    (0, (2, 3))
    """
    if isinstance(tree, int):
        return tree if tree in present else None
    left, right = prune_tree(tree[0], present), prune_tree(tree[1], present)
    if left is None or right is None:
        return right if left is None else left
    return left, right


def contributions_of(tree: Tree, held: Collection[int]) -> tuple[Tree, ...]:
    """Largest subtrees whose leaves are all in `held`, left to right.

    >>> contributions_of((((0, 1), (2, 3)), ((4, 5), 6)), {0, 1, 2, 3, 4})
    (((0, 1), (2, 3)), 4)
    """
    found: list[Tree] = []

    def visit(subtree: Tree) -> bool:
        if isinstance(subtree, int):
            return subtree in held
        mark = len(found)
        left = visit(subtree[0])
        middle = len(found)
        right = visit(subtree[1])
        if left and right:
            return True
        if left:
            found.insert(middle, subtree[0])
        if right:
            found.append(subtree[1])
        assert mark <= middle
        return False

    if visit(tree):
        return (tree,)
    return tuple(found)


def merges_after(contributions: Collection[Tree], kept: Collection[Tree] = ()) -> dict[Tree, int]:
    """For each virtual node in pass order, how many pairs of the stack are added after its pass.

    The contributions of one worker, worked off leaf by leaf, are a stack machine: a pass pushes its
    gradients, then the two topmost entries are added this many times. What is on the stack at the
    end are the contributions, in order.

    Args:
        contributions: Subtrees, left to right.
        kept: Subtrees of them whose sums are there already: each is pushed whole, like a leaf.

    >>> merges_after([((0, 1), (2, 3)), 4])
    {0: 0, 1: 1, 2: 0, 3: 2, 4: 0}
    >>> merges_after([((0, 1), (2, 3))], kept=[(0, 1)])
    {(0, 1): 0, 2: 0, 3: 2}
    """
    merges: dict[Tree, int] = {}

    def visit(subtree: Tree) -> Tree:
        if isinstance(subtree, int) or subtree in kept:
            merges[subtree] = 0
            return subtree
        visit(subtree[0])
        last = visit(subtree[1])
        merges[last] += 1
        return last

    for contribution in contributions:
        visit(contribution)
    return merges


def evaluate_tree(tree: Tree, values: Dictionary[Tree, T], add: Callable[[T, T], T]) -> T:
    """Add `values` up in the order of `tree`.

    Args:
        tree: The expression.
        values: A value for each leaf, or for subtrees above which to start (contributions).
        add: Addition of two values; it may reuse its left argument.

    >>> evaluate_tree(((0, 1), 2), {(0, 1): "ab", 2: "c"}, lambda a, b: f"({a}+{b})")
    '(ab+c)'
    """
    if tree in values:
        return values[tree]
    assert not isinstance(tree, int), f"no value for virtual node {tree}"
    return add(evaluate_tree(tree[0], values, add), evaluate_tree(tree[1], values, add))
