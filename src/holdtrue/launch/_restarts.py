"""Whether a process hangs, whether one that died is started again, and when. Pure: the time is an argument."""

from collections.abc import Sequence

WINDOW_S = 60.0
"""Deaths that are longer ago than this count no more."""
MOST_DEATHS = 5
"""Deaths within the window after which nothing is started again: the cause will not go away by itself."""
_FIRST_WAIT_S = 0.2
HANG_WAIT_S = 10.0
"""A service that has answered nothing for so long hangs. Five such waits are within the window: nothing hangs for ever."""


def hangs(*, started_s: float, answered_s: float | None, now_s: float) -> bool:
    """Whether a service that is asked all the time hangs.

    Args:
        started_s: When its process was started.
        answered_s: When it, or one before it, answered last; None for never.
        now_s: The time.

    >>> hangs(started_s=100.0, answered_s=None, now_s=109.0), hangs(started_s=100.0, answered_s=90.0, now_s=110.0)
    (False, True)
    >>> hangs(started_s=100.0, answered_s=105.0, now_s=114.0)
    False
    """
    return now_s - max(started_s, answered_s or started_s) >= HANG_WAIT_S


def next_start_s(deaths_s: Sequence[float]) -> float | None:
    """When to start the process again after the last of its deaths; None for never.

    Args:
        deaths_s: Times of all deaths so far, ascending, at least one.

    Returns:
        The first death of a window is mended at once, each further one after twice the wait of the one before.

    >>> next_start_s([100.0]), next_start_s([100.0, 101.0, 102.0])
    (100.0, 102.4)
    >>> next_start_s([100.0, 101.0, 102.0, 103.0, 104.0]) is None
    True
    """
    last_s = deaths_s[-1]
    recent = sum(1 for death_s in deaths_s if last_s - death_s <= WINDOW_S)
    if recent >= MOST_DEATHS:
        return None
    return last_s if recent == 1 else last_s + _FIRST_WAIT_S * 2 ** (recent - 2)
