"""Where it runs now: which worker holds which virtual nodes, and in what order their gradients are added.

    in:  a plan's virtual nodes, the number of workers (or shares, or a written mapping)
    out: Mapping; the tree of additions; the contributions and merges of each worker

Pure: no torch, no clock, no files. Nothing in the tree depends on the mapping: that is the promise.
"""

from ._mapping import (
    Mapping,
    even_mapping,
    parse_mapping,
    proportional_mapping,
    read_mapping,
    take_over_mapping,
)
from ._tree import (
    Tree,
    contributions_of,
    evaluate_tree,
    leaves_of,
    merges_after,
    order_by_tree,
    order_by_worker,
    prune_tree,
)

__all__ = [
    "Mapping",
    "Tree",
    "contributions_of",
    "evaluate_tree",
    "even_mapping",
    "leaves_of",
    "merges_after",
    "order_by_tree",
    "order_by_worker",
    "parse_mapping",
    "proportional_mapping",
    "prune_tree",
    "read_mapping",
    "take_over_mapping",
]
