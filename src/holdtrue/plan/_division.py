"""The one rule that divides a global batch over virtual nodes."""

from functools import lru_cache

from holdtrue.errors import PlanError


@lru_cache(maxsize=256)
def divide_batch(examples: int, virtual_nodes: int) -> tuple[tuple[int, int], ...]:
    """Half-open example range of each virtual node in one global batch.

    Args:
        examples: Examples in the global batch, 0 or more.
        virtual_nodes: V, at least 1.

    Returns:
        V pairs `(start, stop)` in examples, indexed by virtual-node id; a pair may be empty.

    Raises:
        PlanError: `virtual_nodes` is less than 1, or `examples` is negative.

    Guarantee:
        Pure: the same arguments give the same ranges on any host.

    Source:
        VirtualFlow (Or, Zhang, Freedman, MLSys 2022), virtual node processing.

    >>> divide_batch(10, 4)
    ((0, 2), (2, 5), (5, 7), (7, 10))
    """
    if virtual_nodes < 1:
        raise PlanError(
            f"virtual_nodes is {virtual_nodes}; a plan has at least 1. Pass virtual_nodes=1 or more."
        )
    if examples < 0:
        raise PlanError(
            f"examples is {examples}; a batch holds 0 or more. Pass the number of examples in the batch."
        )
    return tuple(
        (v * examples // virtual_nodes, (v + 1) * examples // virtual_nodes) for v in range(virtual_nodes)
    )
