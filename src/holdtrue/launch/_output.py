"""Output of the workers: what to show now, what to keep back, what to show of a log."""

import re
from pathlib import Path
from typing import final

from holdtrue.wire import escape_text

_TRACEBACK = re.compile(rb"^Traceback \(most recent call last\):", re.MULTILINE)
_CHAIN = (
    "The above exception was the direct cause of the following exception:",
    "During handling of the above exception, another exception occurred:",
)
HOLD_S = 2.0
"""A traceback of a worker that lives on is shown after this time."""
_TAIL_BYTES = 32_768
_TAIL_LINES = 60
_PLAIN_TAIL_LINES = 12


@final
class StderrHold:
    """Keeps back the traceback with which the main worker ends: it is shown once, at the end.

    Everything else passes. Mutable, owned by the launcher's loop; the time is an argument.
    """

    def __init__(self) -> None:
        self._held = b""
        self._since_s = 0.0

    def pass_through(self, data: bytes, *, now_s: float, has_failed: bool) -> bytes:
        """What to show of `data`; once the worker reported its failure, nothing."""
        if self._held or has_failed:
            self._held += data
            return b""
        start = _TRACEBACK.search(data)
        if start is None:
            return data
        self._held, self._since_s = data[start.start() :], now_s
        return data[: start.start()]

    def release_after(self, now_s: float) -> float | None:
        """Seconds until what is held should be released; None if nothing is."""
        return max(0.0, self._since_s + HOLD_S - now_s) if self._held else None

    def release(self) -> bytes:
        """What is held; it was no ending."""
        held, self._held = self._held, b""
        return held


def read_tail(log: Path, start: int) -> tuple[str, ...]:
    """The last traceback in a log, or else its last lines; safe to show.

    Args:
        log: The log file.
        start: Byte at which this run's part of it begins.
    """
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(start, size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ()
    return last_words(text)


def last_words(text: str) -> tuple[str, ...]:
    r"""The last traceback in `text` with the exceptions chained to it, or else the last lines.

    >>> last_words("step 1\nTraceback (most recent call last):\n  File ...\nValueError: boom\n")
    ('Traceback (most recent call last):', '  File ...', 'ValueError: boom')
    """
    lines = [escape_text(line) for line in text.replace("\r\n", "\n").splitlines()]
    while lines and not lines[-1].strip():
        lines.pop()
    starts = [i for i, line in enumerate(lines) if line.startswith("Traceback (most recent call last):")]
    if not starts:
        return tuple(lines[-_PLAIN_TAIL_LINES:])
    first = len(starts) - 1
    while first and any(line in _CHAIN for line in lines[starts[first - 1] : starts[first]]):
        first -= 1
    found = lines[starts[first] :]
    if len(found) <= _TAIL_LINES:
        return tuple(found)
    return (*found[: _TAIL_LINES // 3], "    ...", *found[-(2 * _TAIL_LINES) // 3 :])
