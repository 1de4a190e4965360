"""A shared cluster as the page shows it: its queue, and its allocation over time."""

import math
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, final

from holdtrue.errors import GroupError, UsageError
from holdtrue.scheduler import ClusterClient

from ._allocation import Allocations, window_to_values

MOST_OPEN = 200
"""Jobs shown of those that wait, and as many of those that run; the others are counted."""
MOST_OVER = 50
"""Newest jobs shown of those that are over; the others are counted."""
MOST_ENDING = 200
"""Characters shown of how a job ended."""
FRESH_S = 0.9
"""However many pages are open, the scheduler is asked about this often."""
_ASK_TIMEOUT_S = 5.0
_SHOWN = (
    *("number", "name", "state", "devices", "workers", "min_devices", "max_devices", "percent", "queue"),
    *("step", "total", "attempt", "purpose", "submitted_s", "started_s", "ended_s"),
)  # fmt: skip

Facts = dict[str, Any]  # Any: JSON values


@final
class ClusterSight:
    """A cluster as far as it was seen. Mutable: it keeps what it read of the log; used from several threads."""

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Look at the cluster of a folder; nothing is asked yet."""
        self._folder, self._clock = folder, clock
        self._asking, self._guard = threading.Lock(), threading.Lock()
        self._asked_s = -math.inf
        self._trouble: UsageError | GroupError | None = None
        """Why the scheduler did not answer when it was last asked."""
        self._epoch_s: float | None = None
        self._read = Allocations()
        self._queue: Facts = {}
        self._charts: dict[float, tuple[int, Facts]] = {}
        """By the end of their window, charts and the newest record that they know."""

    def look(self, until_s: float | None, run_dirs: Mapping[str, str]) -> Facts:
        """Queue and chart.

        Args:
            until_s: End of the chart, in seconds from the log's beginning; None for the present.
            run_dirs: Keys of jobs by run directory, to link to their pages.

        Raises:
            UsageError: no cluster is running in the folder.
            GroupError: its scheduler does not answer.

        Blocks:
            Until the scheduler answers, at most 5 s a question; not while another thread waits for it, once something is known.
        """
        self._refresh()
        with self._guard:
            if self._trouble is not None:
                raise self._trouble
            if not self._queue:
                raise GroupError("the scheduler is being asked, and does not answer yet. Wait a moment.")
            jobs = [job | {"id": run_dirs.get(job["run_dir"])} for job in self._queue["jobs"]]
            for job in jobs:
                del job["run_dir"]
            return {"queue": self._queue | {"jobs": jobs}, "chart": self._chart(until_s)}

    def _refresh(self) -> None:
        """Ask, unless it was asked just now. While one thread asks, others have what is known: they may wait for nothing."""
        is_new = self._trouble is None and not self._queue
        if not self._asking.acquire(timeout=3 * _ASK_TIMEOUT_S if is_new else 0):
            return
        try:
            if self._clock() - self._asked_s < FRESH_S:
                return
            try:
                self._ask()
                self._trouble = None
            except (UsageError, GroupError) as error:
                self._trouble = error.with_traceback(None)
            self._asked_s = self._clock()
        finally:
            self._asking.release()

    def _ask(self) -> None:
        client = ClusterClient(self._folder, timeout_s=_ASK_TIMEOUT_S, scope="read")
        waiting = client.queue("waiting", most=MOST_OPEN)
        running = client.queue("running", most=MOST_OPEN)
        over = client.queue("over", most=MOST_OVER)
        if self._epoch_s != over["epoch_s"] or over["newest"] < self._read.newest:
            with self._guard:  # another cluster than before
                self._epoch_s, self._read = over["epoch_s"], Allocations()
                self._charts.clear()
        if over["newest"] > self._read.newest:
            for page in client.log_pages(after=self._read.newest):
                with self._guard:
                    self._read.take(page)
        found = {job["number"]: job for job in (*waiting["jobs"], *running["jobs"])}
        for job in over["jobs"]:
            found.pop(job["number"], None)  # it began or ended between two questions: the later answer holds
        jobs = [found[number] for number in sorted(found)] + over["jobs"]
        with self._guard:
            self._queue = {
                **{
                    name: over[name]
                    for name in ("policy", "devices", "queues", "counts", "epoch_s", "trouble")
                },
                "reason": _shorten(over["reason"]),
                "jobs": [_shown(job) for job in jobs],
            }

    def _chart(self, until_s: float | None) -> Facts:
        end_s = math.inf if until_s is None else until_s
        newest, chart = self._charts.get(end_s, (-1, {}))
        if newest != self._read.newest:
            window = self._read.window(end_s)
            chart = {
                "newest": self._read.newest,
                "devices": [list(pair) for pair in self._read.devices],
                **window_to_values(window, self._read.rows),
            }
            if len(self._charts) >= 32:
                self._charts.clear()
            self._charts[end_s] = self._read.newest, chart
        return chart


def _shown(job: Facts) -> Facts:
    return {name: job[name] for name in (*_SHOWN, "run_dir")} | {"ending": _shorten(job["ending"])}


def _shorten(text: str) -> str:
    return text if len(text) <= MOST_ENDING else text[: MOST_ENDING - 3] + "..."


def look_or_say(sight: ClusterSight, until_s: float | None, run_dirs: Mapping[str, str]) -> Facts:
    """As `ClusterSight.look`, and what troubles the scheduler; where it does not answer, a sentence in the place of both."""
    try:
        found = sight.look(until_s, run_dirs)
        return {"trouble": found["queue"]["trouble"], **found}
    except (UsageError, GroupError) as error:
        return {"trouble": str(error), "queue": None, "chart": None}
