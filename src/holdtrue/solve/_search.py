"""The exact search: for one plan, who gets how many virtual nodes.

The step time is T + E: T the slowest worker's seconds, E the exchange, which depends on the number of
workers W, on the most contributions c of any worker and on the slowest link. The search looks at every
(c, links); for each, T ranges over the seconds that some worker can have, and W is the smallest number of
workers that can hold V virtual nodes within T. What makes this exact, over all mappings and not only over
the regular ones, is the count of what fits (docs/design/0010-solver.md has the argument): a worker of at
most N virtual nodes and c contributions holds at most the c highest binary ones of N, or, for one worker,
an uneven tail s of V and the c-1 highest ones of N - s; and whenever these add up to V, `lay_out` finds ids.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ._cost import Costs, KindCost
from ._layout import tails_of

Counts = npt.NDArray[np.int64]
_IMPOSSIBLE = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The best choice of the search."""

    step_s: float
    """Predicted seconds of a step."""
    contributions: int
    """c: the most contributions of any worker."""
    workers: int
    """W: workers with virtual nodes."""
    counts: tuple[int, ...]
    """Virtual nodes of each rank."""
    tail: tuple[int, int] | None
    """(length, rank) of the uneven rest that one worker holds at the end, if any."""


def keep_high_ones(counts: Counts, ones: int) -> Counts:
    """Each count with only its highest binary ones kept, at most `ones` of them.

    >>> keep_high_ones(np.array([7, 8, 5, 0]), 2).tolist()
    [6, 8, 5, 0]
    """
    kept = np.zeros_like(counts)
    for _ in range(ones):
        rest = counts - kept
        if not rest.any():
            break
        _, exponent = np.frexp(rest)
        kept = kept + np.where(rest > 0, np.int64(1) << np.maximum(exponent - 1, 0).astype(np.int64), 0)
    return kept


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Case:
    """The search with fixed links and a fixed bound on contributions."""

    costs: Costs
    kinds: tuple[KindCost, ...]
    contributions: int

    @property
    def devices(self) -> Counts:
        return np.array([len(kind.ranks) for kind in self.kinds])

    def exchange_s(self, workers: int) -> float:
        return self.costs.exchange_s(self.kinds, workers, self.contributions)

    def most(self, times_s: npt.NDArray[np.float64]) -> Counts:
        """Most virtual nodes of each kind within each time; axes: times, kinds."""
        columns = [
            np.searchsorted(kind.seconds[1 : kind.cap + 1], times_s, side="right") for kind in self.kinds
        ]
        return np.stack(columns, axis=1).astype(np.int64)

    def tails(self) -> Iterator[tuple[int, int, int]]:
        """(length, kind, other contributions) of each uneven rest and kind that could hold it."""
        for length in () if self.costs.fuses else tails_of(self.costs.virtual_nodes):
            for index, kind in enumerate(self.kinds):
                others = min(self.contributions - 1, kind.gradients - length.bit_length())
                if others >= 0:
                    yield length, index, others

    def options(self, most: Counts) -> Iterator[tuple[tuple[int, int, int] | None, Counts]]:
        """(tail, workers needed within each time) of the search without a tail, then with each."""
        virtual_nodes = self.costs.virtual_nodes
        held = keep_high_ones(most, self.contributions)
        yield None, _workers_for(held, self.devices, np.full(len(most), virtual_nodes))
        for tail in self.tails():
            length, index, others = tail
            room = most[:, index] - length
            devices = self.devices
            devices[index] -= 1
            needed = virtual_nodes - length - keep_high_ones(np.maximum(room, 0), others)
            workers = _workers_for(held, devices, needed)
            possible = (room >= 0) & (workers < _IMPOSSIBLE)
            yield tail, np.where(possible, np.where(possible, workers, 0) + 1, _IMPOSSIBLE)


def _workers_for(held: Counts, devices: Counts, needed: Counts) -> Counts:
    """Fewest workers that hold `needed` together, largest first; `_IMPOSSIBLE` where all do not."""
    order = np.argsort(-held, axis=1, kind="stable")
    size, number = np.take_along_axis(held, order, axis=1), devices[order]
    reach = np.cumsum(size * number, axis=1)
    enough = reach >= needed[:, None]
    at = np.argmax(enough, axis=1)[:, None]
    last_size, last_number = np.take_along_axis(size, at, axis=1), np.take_along_axis(number, at, axis=1)
    before = np.take_along_axis(reach, at, axis=1) - last_size * last_number
    workers = np.take_along_axis(np.cumsum(number, axis=1), at, axis=1) - last_number
    workers = workers + -(-np.maximum(needed[:, None] - before, 0) // np.maximum(last_size, 1))
    return np.where(enough.any(axis=1), workers[:, 0], _IMPOSSIBLE).astype(np.int64)


def _fewest(case: _Case, times_s: npt.NDArray[np.float64]) -> Counts:
    fewest: Counts = np.min(np.stack([needed for _, needed in case.options(case.most(times_s))]), axis=0)
    return fewest


def _fits_within(case: _Case, time_s: float) -> bool:
    """Whether all devices together hold the virtual nodes within `time_s`."""
    most = case.most(np.array([time_s]))
    held = keep_high_ones(most, case.contributions)[0]
    total = int(held @ case.devices)
    if total >= case.costs.virtual_nodes:
        return True
    return any(
        room >= 0
        and total - int(held[index]) + length + int(keep_high_ones(np.array([room]), others)[0])
        >= case.costs.virtual_nodes
        for length, index, others in case.tails()
        for room in (int(most[0, index]) - length,)
        # A holder never has more than the tail and what it would have held without it.
        if total + length >= case.costs.virtual_nodes
    )


def _first_time(case: _Case, times_s: npt.NDArray[np.float64]) -> int:
    """Index of the least time within which all virtual nodes fit (monotone), or the number of times."""
    low, high = 0, len(times_s)
    while low < high:
        middle = (low + high) // 2
        if _fits_within(case, float(times_s[middle])):
            high = middle
        else:
            low = middle + 1
    return low


def _times_of(kinds: Sequence[KindCost]) -> npt.NDArray[np.float64]:
    """Every time that a worker of these kinds can take, ascending."""
    return np.unique(np.concatenate([kind.seconds[1 : kind.cap + 1] for kind in kinds]))


def _search_case(
    case: _Case, times_s: npt.NDArray[np.float64], bound_s: float
) -> tuple[float, int, float, tuple[int, int, int] | None] | None:
    """(step time, workers, T, tail) of the best choice of this case; None if it cannot come to `bound_s`."""
    first = _first_time(case, times_s)
    least_exchange_s = case.exchange_s(2)
    if first == len(times_s) or times_s[first] + least_exchange_s > bound_s:
        return None
    # A later T can only pay by fewer workers, and by no more than the exchange between these and two.
    workers = int(_fewest(case, times_s[first : first + 1])[0])
    spare_s = max(0.0, case.exchange_s(workers) - least_exchange_s)
    last = int(np.searchsorted(times_s, min(times_s[first] + spare_s, bound_s), side="right"))
    window_s = times_s[first : max(last, first + 1)]
    best: tuple[float, int, float, tuple[int, int, int] | None] | None = None
    for tail, needed in case.options(case.most(window_s)):
        distinct, inverse = np.unique(needed, return_inverse=True)
        exchange_s = np.array([case.exchange_s(int(w)) if w < _IMPOSSIBLE else np.inf for w in distinct])
        steps_s = window_s + exchange_s[inverse]
        at = int(np.lexsort((needed, steps_s))[0])
        option = (float(steps_s[at]), int(needed[at]), float(window_s[at]), tail)
        if needed[at] < _IMPOSSIBLE and (best is None or option[:2] < best[:2]):
            best = option
    return best


def _count_out(case: _Case, time_s: float, workers: int, tail: tuple[int, int, int] | None) -> Found:
    """Deals blocks to the workers with most room, largest first, until all virtual nodes have a worker."""
    most = case.most(np.array([time_s]))
    held = keep_high_ones(most, case.contributions)[0].tolist()
    counts = [0] * case.costs.world_size
    length, index, others = tail or (0, -1, 0)
    pieces: list[tuple[int, int]] = []
    holder = case.kinds[index].ranks[0] if tail else -1
    if tail:
        room = keep_high_ones(most[:, index] - length, others).tolist()[0]
        pieces += [(1 << bit, holder) for bit in range(room.bit_length()) if room >> bit & 1]
    order = sorted(range(len(case.kinds)), key=lambda i: -held[i])
    chosen = [(r, held[i]) for i in order for r in case.kinds[i].ranks if r != holder][: workers - bool(tail)]
    pieces += [
        (1 << bit, rank) for rank, room in chosen for bit in range(room.bit_length()) if room >> bit & 1
    ]
    pieces.sort(key=lambda piece: (-piece[0], piece[1]))
    left = case.costs.virtual_nodes - length
    for size, rank in pieces:
        counts[rank] += min(size, left)
        left -= min(size, left)
    if tail:
        counts[holder] += length
    return Found(
        step_s=time_s + case.exchange_s(workers),
        contributions=case.contributions,
        workers=workers,
        counts=tuple(counts),
        tail=(length, holder) if tail else None,
    )


def _link_sets(kinds: Sequence[KindCost]) -> tuple[tuple[KindCost, ...], ...]:
    """Sets of kinds whose links are no slower than some bound; the whole set comes first."""
    bounds = sorted({(k.bytes_per_s, -o.latency_s) for k in kinds for o in kinds})
    sets = [
        tuple(kind for kind in kinds if kind.bytes_per_s >= speed and -kind.latency_s >= latency)
        for speed, latency in bounds
    ]
    return tuple(dict.fromkeys(found for found in sets if found))


def _alone(costs: Costs) -> Iterator[Found]:
    """One device that does everything."""
    for kind in costs.kinds:
        if kind.fits_alone:
            counts = [0] * costs.world_size
            counts[kind.ranks[0]] = costs.virtual_nodes
            step_s = kind.alone_s(costs.virtual_nodes)
            yield Found(step_s=step_s, contributions=1, workers=1, counts=tuple(counts), tail=None)


def search_counts(costs: Costs) -> Found | None:
    """The choice of least step time; None if the devices cannot hold the virtual nodes.

    Guarantee:
        Optimal over all mappings under the cost model. Ties go to fewer contributions (aligned blocks),
        then to fewer workers, then to devices listed first.
    """
    best = min(_alone(costs), key=lambda found: found.step_s, default=None)
    most = costs.virtual_nodes.bit_length()
    links: list[tuple[tuple[KindCost, ...], npt.NDArray[np.float64]]] = []
    for kinds in _link_sets(tuple(kind for kind in costs.kinds if kind.cap)):
        # Without a bound on contributions a set of kinds is fastest: what comes earlier need not be looked at.
        times_s = _times_of(kinds)
        first = _first_time(_Case(costs=costs, kinds=kinds, contributions=most), times_s)
        links.append((kinds, times_s[first:]))
    for contributions in range(1, most + 1):
        for kinds, times_s in links:
            case = _Case(costs=costs, kinds=kinds, contributions=contributions)
            if not len(times_s) or (best and not _may_win(case, float(times_s[0]), best)):
                continue
            option = _search_case(case, times_s, best.step_s if best else np.inf)
            if option is None:
                continue
            step_s, workers, time_s, tail = option
            if best is None or (step_s, contributions, workers) < (
                best.step_s,
                best.contributions,
                best.workers,
            ):
                best = _count_out(case, time_s, workers, tail)
    return best


def _may_win(case: _Case, time_s: float, best: Found) -> bool:
    """Whether a step of this case, of `time_s` and an exchange between two, would be better than the best."""
    return (time_s + case.exchange_s(2), case.contributions, 2) < (
        best.step_s,
        best.contributions,
        best.workers,
    )
