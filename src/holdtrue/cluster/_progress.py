"""One job while it is simulated: its devices, its pauses, the steps that it has done."""

import math
from collections.abc import Mapping

from ._jobs import Grant, Job
from ._outcome import Costs, JobOutcome, Segment
from ._state import JobView


class Progress:
    """Mutable account of one job; owned by the simulator.

    Steps accrue at `rate` from `as_of_s`, which lies in the future while the job starts or pauses. While new
    devices get ready, the job goes on with those that it keeps, until `grows_at_s`.
    """

    __slots__ = (
        "_since_s",
        "_used",
        "_view",
        "arrived_area",
        "as_of_s",
        "done",
        "grant",
        "grows_at_s",
        "isolated_s",
        "job",
        "rate",
        "resizes",
        "segments",
        "started_s",
        "stops",
        "useful_device_s",
        "version",
    )

    def __init__(self, job: Job, arrived_area: float = 0.0) -> None:
        self.job = job
        self.grant: Grant | None = None
        self.done = self.rate = self.useful_device_s = self.isolated_s = 0.0
        self.as_of_s = job.arrival_s
        self.started_s = self.grows_at_s = float("inf")
        self.resizes = self.stops = self.version = 0
        self.segments: list[Segment] = []
        self.arrived_area = arrived_area
        self._since_s = 0.0
        self._used: Mapping[str, int] = {}
        self._view: JobView | None = None

    @property
    def next_event_s(self) -> float:
        """When it ends or its new devices are ready, whichever comes first, if nothing else happens."""
        if self.rate <= 0:
            return self.grows_at_s
        return min(self.grows_at_s, self.as_of_s + max(0.0, self.job.work - self.done) / self.rate)

    @property
    def is_done(self) -> bool:
        """Whether all steps are done, up to rounding of steps or of the clock."""
        left = self.job.work - self.done
        if left <= 1e-9 * self.job.work:
            return True
        return self.rate > 0 and self.as_of_s + left / self.rate <= self.as_of_s

    def view(self) -> JobView:
        """What policies see; the same object until something changes."""
        if self._view is None:
            self._view = JobView(
                job=self.job,
                grant=self.grant,
                started=self.started_s < float("inf"),
                done=self.done,
                as_of_s=self.as_of_s,
                rate=self.rate,
                isolated_s=self.isolated_s,
            )
        return self._view

    def advance(self, now_s: float) -> None:
        """Credit the steps made until `now_s`, and start to use devices that are ready by then."""
        if now_s > self.as_of_s:
            elapsed = now_s - self.as_of_s
            self.done += elapsed * self.rate
            if self.grant is not None:
                self.useful_device_s += elapsed * sum(self._used.values()) * self.grant.percent / 100
            self.as_of_s = now_s
        if now_s >= self.grows_at_s:
            assert self.grant is not None
            self._use(dict(self.grant.counts))
            self.grows_at_s = float("inf")
        self.version += 1
        self._view = None

    def run_until(self, from_s: float, until_s: float, *, whole_steps: bool) -> float:
        """Make steps in a round and return when the last of them was done; the clock stays there.

        Only whole steps are made if asked for, unless not even one fits.
        """
        finish_s = self.as_of_s + (self.job.work - self.done) / self.rate
        if max(self.grows_at_s, from_s) < min(until_s, finish_s):
            self.advance(self.grows_at_s)
        seconds = (until_s - from_s) - (self.as_of_s - from_s)
        if seconds <= 0:
            return until_s
        steps = self.rate * seconds
        if whole_steps and steps >= 1:
            steps = float(math.floor(steps))
        steps = min(steps, self.job.work - self.done)
        end_s = self.as_of_s + steps / self.rate
        self.advance(min(end_s, max(self.grows_at_s, self.as_of_s)))
        return end_s

    def change(self, grant: Grant | None, now_s: float, costs: Costs) -> None:
        """Give the job other devices, or none, at `now_s`; charges what the change costs."""
        self.advance(now_s)
        old = self.grant
        self._close_segment(now_s)
        self.grant = grant
        self._since_s = now_s
        if grant is None:
            self.stops += 1
            self.rate, self.grows_at_s = 0.0, float("inf")
            self.as_of_s = now_s
        elif old is None:
            self._start(now_s, costs)
        else:
            self.resizes += 1
            self._resize(dict(grant.counts), now_s, costs)

    def finish(self, now_s: float) -> None:
        """Close the books of a job whose steps are done."""
        self._close_segment(now_s)
        self.grant = None

    def outcome(self, finished_s: float, area: float) -> JobOutcome:
        """The job's result; `area` is the integral of the number of jobs up to its end."""
        there_s = finished_s - self.job.arrival_s
        return JobOutcome(
            job=self.job,
            started_s=self.started_s,
            finished_s=finished_s,
            done=self.done,
            useful_device_s=self.useful_device_s,
            segments=tuple(self.segments),
            resizes=self.resizes,
            stops=self.stops,
            neighbours=max(1.0, (area - self.arrived_area) / there_s) if there_s > 0 else 1.0,
        )

    def _close_segment(self, now_s: float) -> None:
        if self.grant is not None and now_s > self._since_s:
            self.segments.append(Segment(start_s=self._since_s, end_s=now_s, grant=self.grant))

    def _start(self, now_s: float, costs: Costs) -> None:
        assert self.grant is not None
        first = self.started_s == float("inf")
        self.started_s = min(self.started_s, now_s)
        self.as_of_s = now_s + (costs.start_s if first else costs.checkpoint_s + costs.resume_s)
        self._use(dict(self.grant.counts))

    def _resize(self, new: Mapping[str, int], now_s: float, costs: Costs) -> None:
        kept = {kind: min(n, new.get(kind, 0)) for kind, n in self._used.items() if new.get(kind)}
        if kept != dict(self._used):
            self.as_of_s = max(self.as_of_s, now_s + costs.shrink_s)
        self.grows_at_s = float("inf")
        if kept == new:
            self._use(new)
        elif kept and costs.grow_s > 0:
            self._use(kept)
            self.grows_at_s = max(self.as_of_s, now_s + costs.grow_s)
        else:
            self.as_of_s = max(self.as_of_s, now_s + costs.grow_s)
            self._use(new)

    def _use(self, counts: Mapping[str, int]) -> None:
        assert self.grant is not None
        self._used = counts
        self.rate = self.job.rates.mixed(tuple(counts.items())) * self.grant.percent / 100
