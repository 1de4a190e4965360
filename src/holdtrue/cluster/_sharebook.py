"""What each job should have had and what it got; which jobs run in the next round."""

import heapq
from collections.abc import Mapping, Sequence

from ._jobs import Cluster, Grant, Job
from ._state import FreeDevices, JobView

Shares = Mapping[str, tuple[float, ...]]
PATIENCE_ROUNDS = 5
"""Rounds without devices after which a job goes first. Shares are computed anew at every event, which forgets
what was received; without this a wide job behind a stream of narrow ones would never find its devices free."""


class ShareBook:
    """Seconds received by job and type since shares were last computed; mutable, owned by the simulation.

    A new job starts with half a round to its name, so that the order among new jobs follows their shares.
    """

    def __init__(self, cluster: Cluster, round_s: float) -> None:
        self.kinds = cluster.kinds
        self.round_s = round_s
        self.received: dict[str, list[float]] = {}
        self.devices: dict[str, list[float]] = {}
        self.deficit: dict[str, list[float]] = {}
        self.total = [0.0] * len(self.kinds)
        self.speed = [0.0] * len(self.kinds)
        self.idle_since_s: dict[str, float] = {}
        self.reset_at_s: float | None = None

    def add(self, job: Job) -> None:
        """A job has arrived."""
        name = job.id
        self.idle_since_s[name] = job.arrival_s
        rates = [job.rates.at(kind, job.max_devices) for kind in self.kinds]
        for t, rate in enumerate(rates):
            self.speed[t] += rate / max(rates)
        self.received[name] = [self.round_s / 2] * len(self.kinds)
        self.devices[name] = [0.0] * len(self.kinds)
        self.deficit[name] = [0.0] * len(self.kinds)
        for t in range(len(self.kinds)):
            self.total[t] += self.round_s / 2

    def order_types(self, rule: str, turn: int) -> tuple[str, ...]:
        """Order in which a round fills device types: all in turn, or the fastest for the jobs so far first."""
        kinds = self.kinds
        if rule == "alike":
            return kinds[turn % len(kinds) :] + kinds[: turn % len(kinds)]
        return tuple(kinds[t] for t in sorted(range(len(kinds)), key=lambda t: -self.speed[t]))

    def remove(self, name: str) -> None:
        """A job is done."""
        received = self.received.pop(name)
        for t, seconds in enumerate(received):
            self.total[t] -= seconds
        del self.deficit[name], self.devices[name], self.idle_since_s[name]

    def waited_too_long(self, name: str, now_s: float) -> float:
        """Seconds without devices if they are more than our patience, else 0."""
        idle_s = now_s - self.idle_since_s[name]
        return idle_s if idle_s >= PATIENCE_ROUNDS * self.round_s else 0.0

    def spend(self, name: str, grant: Grant, from_s: float, seconds: float) -> None:
        """A job ran for `seconds` on the devices of `grant`."""
        self.idle_since_s[name] = from_s + seconds
        for kind, n in grant.counts:
            t = self.kinds.index(kind)
            self.received[name][t] += seconds
            self.total[t] += seconds
            self.devices[name][t] += seconds * n * grant.percent / 100

    def may_reset(self, now_s: float, every_s: float) -> bool:
        """Whether shares may be computed anew; the first two times at once, as Gavel does."""
        return not self.reset_at_s or now_s - self.reset_at_s >= every_s

    def reset(self, now_s: float, shares: Shares) -> None:
        """Carry what is owed over to new shares and start to count anew."""
        elapsed_s = now_s - (self.reset_at_s or 0.0)
        half = self.round_s / 2
        self.total = [half * len(self.received)] * len(self.kinds)
        for name, received in self.received.items():
            share = shares.get(name, (0.0,) * len(self.kinds))
            for t in range(len(self.kinds)):
                self.deficit[name][t] += share[t] * elapsed_s - (received[t] - half)
            self.received[name] = [half] * len(self.kinds)
            self.devices[name] = [0.0] * len(self.kinds)
        self.reset_at_s = now_s

    def priority(self, name: str, t: int, share: float) -> float:
        """Share over the part of the type's time that the job has had."""
        if share <= 0:
            return 0.0
        part = self.received[name][t] / self.total[t]
        return share / part if part > 0 else share * 1e9


def choose_rigid(
    cluster: Cluster,
    views: Sequence[JobView],
    shares: Shares,
    book: ShareBook,
    order: Sequence[str],
    now_s: float,
) -> dict[str, Grant]:
    """Whole demands on one type each: type after type, by priority; what is left goes to jobs without priority.

    Source:
        Gavel (Narayanan et al., OSDI 2020), algorithm 1. Gavel shuffles the types where a policy takes them for
        equal; here they take turns, so that a schedule is one answer.
    """
    free = FreeDevices(cluster, ())
    grants: dict[str, Grant] = {}
    for kind in order:
        t = cluster.kinds.index(kind)
        for view in _line(views, shares, book, t, now_s):
            job = view.job
            if job.id in grants:
                continue
            part = job.percent < 100
            grant = free.take_part(kind, job.percent) if part else free.take(kind, job.max_devices)
            if grant is not None:
                grants[job.id] = grant
    return grants


def _line(views: Sequence[JobView], shares: Shares, book: ShareBook, t: int, now_s: float) -> list[JobView]:
    """Jobs that may run on type `kind`, furthest behind first; ties by arrival."""
    ranked = []
    for place, view in enumerate(views):
        job = view.job
        if job.id in shares and job.rates.at(book.kinds[t], job.max_devices) > 0:
            share = shares[job.id][t] / (job.max_devices * job.percent / 100)
            late_s = book.waited_too_long(job.id, now_s)
            rank = (-late_s, -book.priority(job.id, t, share), -book.deficit[job.id][t], -share, place)
            ranked.append((rank, view))
    ranked.sort(key=lambda pair: pair[0])
    return [view for _, view in ranked]


def choose_mixed(
    cluster: Cluster, views: Sequence[JobView], shares: Shares, book: ShareBook, now_s: float
) -> dict[str, Grant]:
    """Devices of several types for each job, to those furthest behind their shares; then the rest to any job.

    A device is given only if it makes the job faster, so a job that scales badly is left as it is.
    """
    deal = _Deal(cluster, views)
    late = [(-book.waited_too_long(view.job.id, now_s), place) for place, view in enumerate(views)]
    for _, place in sorted(pair for pair in late if pair[0] < 0):
        deal.fill(place, views[place].job.min_devices)
    elapsed_s = now_s - (book.reset_at_s or 0.0) + book.round_s
    heap = []
    for place, view in enumerate(views):
        for t, share in enumerate(shares.get(view.job.id, ())):
            owed = share * elapsed_s - book.devices[view.job.id][t]
            if owed > 0:
                heap.append((-owed, place, t))
    heapq.heapify(heap)
    while heap:
        owed, place, t = heapq.heappop(heap)
        if deal.give(place, t) and owed + book.round_s < 0:
            heapq.heappush(heap, (owed + book.round_s, place, t))
    deal.give_the_rest()
    return deal.grants()


class _Deal:
    """Counts by job and type while one round is dealt."""

    def __init__(self, cluster: Cluster, views: Sequence[JobView]) -> None:
        self.kinds, self.views = cluster.kinds, views
        self.free = FreeDevices(cluster, ())
        self.counts = [[0] * len(self.kinds) for _ in views]
        self.rate = [0.0] * len(views)
        self.parts: dict[str, Grant] = {}

    def give(self, place: int, t: int) -> bool:
        """Give one device if it is free and makes the job faster."""
        job, counts = self.views[place].job, self.counts[place]
        if job.percent < 100:
            return self._give_part(place, t)
        if self.free.free[self.kinds[t]] < 1 or sum(counts) >= job.max_devices:
            return False
        counts[t] += 1
        rate = job.rates.mixed(tuple((k, n) for k, n in zip(self.kinds, counts, strict=True) if n))
        if rate <= self.rate[place] * (1 + 1e-9):
            counts[t] -= 1
            return False
        self.rate[place] = rate
        self.free.free[self.kinds[t]] -= 1
        return True

    def _give_part(self, place: int, t: int) -> bool:
        job = self.views[place].job
        if job.id in self.parts or job.rates.at(self.kinds[t], 1) <= 0:
            return False
        grant = self.free.take_part(self.kinds[t], job.percent)
        if grant is not None:
            self.parts[job.id] = grant
        return False

    def give_the_rest(self) -> None:
        """Bring jobs to their minima or take their devices back; then share what is free, one device at a time."""
        for place, view in enumerate(self.views):
            self.fill(place, view.job.min_devices)
        for place, view in enumerate(self.views):
            if 0 < sum(self.counts[place]) < view.job.min_devices:
                self._take_back(place)
        for place, view in enumerate(self.views):
            if sum(self.counts[place]) == 0 and not self.fill(place, view.job.min_devices):
                self._take_back(place)
        given = True
        while given and self.free.total:
            order = sorted(range(len(self.views)), key=lambda place: sum(self.counts[place]))
            # Not any(): each job is to be asked in each turn.
            given = sum(self._give_one(place) for place in order if sum(self.counts[place])) > 0

    def _give_one(self, place: int) -> bool:
        job = self.views[place].job
        order = sorted(range(len(self.kinds)), key=lambda t: -job.rates.at(self.kinds[t], 1))
        return any(self.give(place, t) for t in order)

    def fill(self, place: int, least: int) -> bool:
        """Give devices until the job has `least`; whether it has."""
        while sum(self.counts[place]) < least:
            if not self._give_one(place):
                return False
        return True

    def _take_back(self, place: int) -> None:
        for t, kind in enumerate(self.kinds):
            self.free.free[kind] += self.counts[place][t]
        self.counts[place] = [0] * len(self.kinds)
        self.rate[place] = 0.0

    def grants(self) -> dict[str, Grant]:
        """Grants by job id; those that stay are the same objects."""
        grants = dict(self.parts)
        for view, counts in zip(self.views, self.counts, strict=True):
            pairs = tuple((k, n) for k, n in zip(self.kinds, counts, strict=True) if n)
            if pairs:
                grants[view.job.id] = Grant(counts=pairs)
        return grants
