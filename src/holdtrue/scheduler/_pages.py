"""A queue of any length in answers of bounded size. Pure."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, final, get_args

from ._records import JobRecord, JobState

Which = Literal["waiting", "running", "open", "over", "all"]
"""Jobs that wait; that run; that wait or run; that are over, the newest first; all. In order of arrival but for `over`."""
MOST_JOBS = 500
"""Of one answer: with the longest names and paths it stays below what a command reads of an answer."""
MOST_ENDING = 1000
"""Characters of the sentence on how a job ended that an answer carries."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some of the jobs."""

    jobs: tuple[JobRecord, ...]
    """In the order that was asked for."""
    next: int | None
    """Number of the job after which the next page begins; None where this is the last."""


def page_of(jobs: Iterable[JobRecord], *, which: Which, after: int, limit: int) -> Page:
    """At most `limit` jobs.

    Args:
        jobs: All of them, by number, ascending.
        which: Which of them, and in which order.
        after: Number of the last job of the page before; 0 for the first page.
        limit: At least 1.
    """
    if which == "over":
        found = [r for r in jobs if _is_one_of(r, which) and (not after or r.number < after)]
        found.reverse()
    else:
        found = [r for r in jobs if r.number > after and _is_one_of(r, which)]
    shown = tuple(found[:limit])
    return Page(jobs=shown, next=shown[-1].number if len(found) > limit else None)


def _is_one_of(record: JobRecord, which: Which) -> bool:
    if which in ("waiting", "running"):
        return record.state == which
    return which == "all" or record.is_over == (which == "over")


def count_states(jobs: Iterable[JobRecord]) -> dict[str, int]:
    """How many jobs are in each state, none left out."""
    counts = Counter(record.state for record in jobs)
    return {state: counts[state] for state in get_args(JobState)}


def shorten_ending(text: str) -> str:
    """The sentence, or its beginning with dots.

    >>> len(shorten_ending("x" * 5000)) == MOST_ENDING
    True
    """
    return text if len(text) <= MOST_ENDING else text[: MOST_ENDING - 3] + "..."
