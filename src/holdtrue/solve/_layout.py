"""Which ids each worker gets, once it is known how many: as few contributions as the numbers allow.

Every aligned block of a power of two of virtual nodes is a complete subtree of the tree of additions, and
so is the rest `[start, V)` from an aligned start (holdtrue.mapping). A worker with n virtual nodes therefore
needs one contribution for each binary one of n: placing the blocks of all workers in descending order of
size keeps each aligned, since all before it are multiples of it. One worker may save more by holding the
uneven rest at the end, its *tail*: 3 virtual nodes are one contribution there.
"""

from collections.abc import Sequence

from holdtrue.errors import MappingError
from holdtrue.mapping import Mapping


def tails_of(virtual_nodes: int) -> tuple[int, ...]:
    """Lengths of uneven rests that are one contribution: V modulo powers of two, where that saves anything.

    >>> tails_of(8), tails_of(7), tails_of(23)
    ((), (3,), (3, 7))
    """
    rests = {virtual_nodes % (1 << bit) for bit in range(1, virtual_nodes.bit_length())}
    return tuple(sorted(rest for rest in rests if rest.bit_count() > 1))


def blocks_of(ids: Sequence[int], virtual_nodes: int) -> tuple[int, ...]:
    """Lengths of the contributions of a worker that holds ascending `ids`, left to right.

    Guarantee:
        The same as `holdtrue.mapping.contributions_of`, in time logarithmic in V for each run of ids.

    >>> blocks_of((0, 1, 2, 3, 6), 7), blocks_of((4, 5, 6), 7), blocks_of((1, 2), 7)
    ((4, 1), (3,), (1, 1))
    """
    blocks: list[int] = []
    index = 0
    while index < len(ids):
        start, size = ids[index], 1
        while start % (2 * size) == 0 and size < virtual_nodes - start:
            wider = min(2 * size, virtual_nodes - start)
            last = index + wider - 1
            if last >= len(ids) or ids[last] != start + wider - 1:
                break
            size *= 2
        blocks.append(min(size, virtual_nodes - start))
        index += blocks[-1]
    return tuple(blocks)


def gradients_held(blocks: Sequence[int]) -> int:
    """Most sets of gradients that exist at once while a worker adds up contributions of these lengths.

    A block of n virtual nodes is a binary counter of `n.bit_length()` places; finished contributions wait.

    >>> gradients_held((8,)), gradients_held((4, 1)), gradients_held((1, 1, 1))
    (4, 3, 3)
    """
    return max((index + size.bit_length() for index, size in enumerate(blocks)), default=0)


def lay_out(virtual_nodes: int, counts: Sequence[int], tail: tuple[int, int] | None) -> Mapping:
    """The mapping in which rank r holds `counts[r]`, blocks in descending order of size, ties by rank.

    Args:
        virtual_nodes: V, the sum of the counts.
        counts: Virtual nodes of each rank, 0 or more.
        tail: (length, rank) of an uneven rest that this rank holds at the end, of those in `tails_of`.
    """
    length, holder = tail or (0, -1)
    pieces: list[tuple[int, int]] = []
    for rank, count in enumerate(counts):
        rest = count - length if rank == holder else count
        pieces.extend((1 << bit, rank) for bit in range(rest.bit_length()) if rest >> bit & 1)
    pieces.sort(key=lambda piece: (-piece[0], piece[1]))
    held: list[list[int]] = [[] for _ in counts]
    start = 0
    for size, rank in pieces + [(length, holder)] * (length > 0):
        held[rank].extend(range(start, start + size))
        start += size
    return Mapping(virtual_nodes, tuple(tuple(ids) for ids in held))


def aligned_mapping(virtual_nodes: int, counts: Sequence[int]) -> Mapping:
    """The mapping in which rank r holds `counts[r]`, with the fewest contributions for the worker with most.

    Args:
        virtual_nodes: V.
        counts: Virtual nodes of each rank, 0 for a standby; they add up to V.

    Raises:
        MappingError: the counts do not add up to V, or one is negative.

    >>> str(aligned_mapping(8, (3, 3, 2))), str(aligned_mapping(7, (3, 4)))
    ('0-1,6/2-3,7/4-5', '4-6/0-3')
    """
    if sum(counts) != virtual_nodes or min(counts, default=0) < 0:
        raise MappingError(
            f"the counts {list(counts)} do not add up to {virtual_nodes} virtual nodes; each virtual node "
            f"needs exactly one "
            f"worker. Pass counts of 0 or more with that sum."
        )
    ones = sorted(
        ((count.bit_count(), rank) for rank, count in enumerate(counts)), key=lambda one: (-one[0], one[1])
    )
    best: tuple[int, int, int] = (ones[0][0], 0, -1)
    for length in tails_of(virtual_nodes):
        for rank, count in enumerate(counts):
            if count >= length:
                others = (
                    ones[1][0] if ones[0][1] == rank and len(ones) > 1 else ones[0][0] * (ones[0][1] != rank)
                )
                most = max(others, (count - length).bit_count() + 1)
                best = min(best, (most, length, rank), key=lambda option: option[0])
    return lay_out(virtual_nodes, counts, (best[1], best[2]) if best[1] else None)
