"""The worker's end of the report pipe."""

import os
import select
import threading
import time
from typing import final

from ._reports import LogReport, Report, StepReport, encode_report


@final
class ReportSender:
    """Sends reports to the launcher; never raises and never blocks for long.

    A launcher that does not read (it is stopped) costs `step` and `log` reports, which are for the
    eye, and at most `wait_s` for each of the others. A launcher that is gone costs nothing: the
    life pipe ends the worker.
    """

    def __init__(self, report_fd: int, *, wait_s: float = 5.0) -> None:
        """Take over `report_fd`, the write end of the pipe, and keep it from processes started here."""
        os.set_inheritable(report_fd, False)
        os.set_blocking(report_fd, False)
        self._fd = report_fd
        self._wait_s = wait_s
        self._lock = threading.Lock()

    def send(self, report: Report) -> bool:
        """Send one report; False if it was dropped or the launcher is gone."""
        droppable = isinstance(report, StepReport | LogReport)
        line = encode_report(report)
        deadline_s = time.monotonic() + (0.0 if droppable else self._wait_s)
        with self._lock:
            return self._write(line, deadline_s)

    def _write(self, line: bytes, deadline_s: float) -> bool:
        rest = memoryview(line)
        while rest:
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BlockingIOError:
                # A line that is begun is finished, or the next one could not be read.
                left_s = deadline_s - time.monotonic() if len(rest) == len(line) else self._wait_s
                if left_s <= 0 or not select.select([], [self._fd], [], left_s)[1]:
                    return False
            except OSError:
                return False
        return True
