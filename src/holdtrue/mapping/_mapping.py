"""Mappings of virtual nodes onto workers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from holdtrue.errors import MappingError
from holdtrue.units import format_ids, parse_ids


@dataclass(frozen=True, slots=True)
class Mapping:
    """Virtual nodes of each worker: every virtual node has exactly one worker.

    Raises:
        MappingError: a virtual node has no worker or two, or there is no worker.

    >>> Mapping(4, ((0, 1, 3), (2,))).worker_of(2)
    1
    """

    virtual_nodes: int
    """V of the plan."""
    held: tuple[tuple[int, ...], ...]
    """Ascending ids of the virtual nodes of each worker, by rank; empty for a standby."""

    def __post_init__(self) -> None:
        if not self.held:
            raise MappingError(
                "the mapping has no worker; it needs at least one. Give every virtual node a worker."
            )
        seen = sorted(v for ids in self.held for v in ids)
        expected = list(range(self.virtual_nodes))
        if seen != expected:
            missing = tuple(sorted(set(expected) - set(seen)))
            strangers = tuple(sorted(set(seen) - set(expected)))
            doubled = tuple(sorted({v for v in seen if seen.count(v) > 1} - set(strangers)))
            found = [
                f"virtual nodes {format_ids(ids)} {what}"
                for ids, what in (
                    (missing, "have no worker"),
                    (doubled, "have more than one worker"),
                    (strangers, "are not in the plan"),
                )
                if ids
            ]
            raise MappingError(
                f"{'; '.join(found)}; the plan has {self.virtual_nodes} virtual nodes (0 to {self.virtual_nodes - 1}) "
                f"and each needs exactly one worker. "
                f"Build the mapping with holdtrue.even_mapping({self.virtual_nodes}, {len(self.held)})."
            )
        if any(list(ids) != sorted(ids) for ids in self.held):
            object.__setattr__(self, "held", tuple(tuple(sorted(ids)) for ids in self.held))

    @property
    def world_size(self) -> int:
        """Number of workers, standbys included."""
        return len(self.held)

    def worker_of(self, virtual_node: int) -> int:
        """Rank of the worker that holds `virtual_node`."""
        for rank, ids in enumerate(self.held):
            if virtual_node in ids:
                return rank
        raise MappingError(
            f"virtual node {virtual_node} is not in the mapping; it has 0 to {self.virtual_nodes - 1}. Ask for one of these."
        )

    def __str__(self) -> str:
        return "/".join(format_ids(ids) for ids in self.held)


def even_mapping(virtual_nodes: int, world_size: int) -> Mapping:
    """Contiguous blocks of near-equal size, in rank order, the larger ones first; workers beyond V are standbys.

    The tree of additions has its larger part first too: so two workers send one sum each, whatever V is, where it can be.

    >>> str(even_mapping(7, 2)), str(even_mapping(2, 3))
    ('0-3/4-6', '0/1/none')
    """
    workers = min(virtual_nodes, world_size)
    if workers < 1:
        raise MappingError(
            f"world_size is {world_size}; a mapping needs at least 1 worker. Pass world_size=1 or more."
        )
    return proportional_mapping(virtual_nodes, (1,) * workers + (0,) * (world_size - workers))


def proportional_mapping(virtual_nodes: int, shares: Sequence[int]) -> Mapping:
    """Contiguous blocks whose sizes are in proportion to `shares`, by largest remainder; ties to the lower rank.

    Args:
        virtual_nodes: V.
        shares: One number of 0 or more for each worker; at least one is positive.

    >>> str(proportional_mapping(8, (2, 1, 1))), str(proportional_mapping(7, (1, 1)))
    ('0-3/4-5/6-7', '0-3/4-6')
    """
    total = sum(shares)
    if total < 1 or min(shares) < 0:
        raise MappingError(
            f"the shares {list(shares)} are not numbers of 0 or more with a positive one; a mapping divides the virtual "
            f"nodes in their proportion. Pass one share for each worker."
        )
    counts = [virtual_nodes * share // total for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda r: (-(virtual_nodes * shares[r] % total), r))
    for rank in by_remainder[: virtual_nodes - sum(counts)]:
        counts[rank] += 1
    starts = [sum(counts[:rank]) for rank in range(len(counts))]
    return Mapping(virtual_nodes, tuple(tuple(range(a, a + n)) for a, n in zip(starts, counts, strict=True)))


def take_over_mapping(
    mapping: Mapping,
    former_ranks: Sequence[int | None],
    *,
    has_room: Callable[[int, Sequence[int]], bool] = lambda rank, ids: True,
) -> Mapping:
    """The mapping of those who are left: everyone keeps what it held, and the rest is dealt out.

    Args:
        mapping: The former mapping.
        former_ranks: For each rank of the new group, its rank in the former one; None for a newcomer.
        has_room: Whether the worker of a rank of the new group can hold these virtual nodes (ascending).

    Returns:
        Virtual nodes without a worker go, in ascending order, to whoever has fewest of those that have room; ties to the
        lower rank. Where nobody has room for one, to a worker that can hold a virtual node at all, else to any.

    >>> str(take_over_mapping(Mapping(7, ((0, 1, 2), (3, 4), (5, 6))), [1, 2]))
    '0,2-4/1,5-6'
    >>> str(take_over_mapping(Mapping(3, ((0, 1), (2,), ())), [1, 2], has_room=lambda rank, ids: rank == 0))
    '0-2/none'
    """
    held = [list(mapping.held[former]) if former is not None else [] for former in former_ranks]
    taken = {v for ids in held for v in ids}
    for v in range(mapping.virtual_nodes):
        if v not in taken:
            fewest = sorted(range(len(held)), key=lambda rank: len(held[rank]))
            room = (rank for rank in fewest if has_room(rank, sorted([*held[rank], v])))
            able = (rank for rank in fewest if held[rank] or has_room(rank, [v]))
            held[next(room, next(able, fewest[0]))].append(v)
    return Mapping(mapping.virtual_nodes, tuple(tuple(sorted(ids)) for ids in held))


def read_mapping(text: str) -> tuple[tuple[int, ...], ...]:
    """The ids of each worker that `text` names, whatever the number of virtual nodes.

    Raises:
        MappingError: the text cannot be read.
    """
    try:
        return tuple(parse_ids(part) for part in text.split("/"))
    except ValueError:
        raise MappingError(
            f"the mapping {text!r} cannot be read; workers are parted by '/' and each has ids or runs of ids, "
            f"such as 0-3,6/4-5. Write it so."
        ) from None


def parse_mapping(text: str, virtual_nodes: int) -> Mapping:
    """The mapping that `str(mapping)` wrote: workers parted by `/`, ids as runs.

    Raises:
        MappingError: the text is not a mapping of `virtual_nodes` virtual nodes.

    >>> parse_mapping("0-3,6/4-5", 7).held
    ((0, 1, 2, 3, 6), (4, 5))
    """
    return Mapping(virtual_nodes, read_mapping(text))
