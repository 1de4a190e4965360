"""Who watches a job: a terminal, a file, a notebook."""

import sys
from typing import Literal, Protocol, final

from holdtrue.wire import MessageReport, Report, StartedReport

Stream = Literal["stdout", "stderr"]


class JobObserver(Protocol):
    """Receives what happens in a job, in the launcher's thread, in order."""

    def show_report(self, worker: int, report: Report) -> None:
        """A worker reported something; its texts are safe to show."""

    def show_output(self, stream: Stream, data: bytes) -> None:
        """The main worker wrote something, raw and in pieces of any size."""

    def show_note(self, text: str) -> None:
        """The launcher has something to say."""

    def show_group(self, workers: int, generation: int) -> None:
        """The job has so many members now, in a new generation."""

    def tick(self, now_s: float) -> None:
        """Called at least every quarter of a second while the job runs."""


@final
class PlainObserver:
    """Passes output on and prints notes: for notebooks, where streams have no file behind them."""

    def __init__(self) -> None:
        self._notes: set[str] = set()

    def show_report(self, worker: int, report: Report) -> None:
        """Print the start-up line and messages, each once."""
        if isinstance(report, StartedReport):
            self.show_note(report.line)
        elif isinstance(report, MessageReport) and report.text not in self._notes:
            self._notes.add(report.text)
            self.show_note(report.text)

    def show_output(self, stream: Stream, data: bytes) -> None:
        """Write to this process's stream of the same name."""
        target = sys.stdout if stream == "stdout" else sys.stderr
        target.write(data.decode(errors="replace"))
        target.flush()

    def show_note(self, text: str) -> None:
        """Print to stderr."""
        print(text, file=sys.stderr, flush=True)

    def show_group(self, workers: int, generation: int) -> None:
        """A fixed group has one membership."""

    def tick(self, now_s: float) -> None:
        """Nothing to refresh."""


@final
class SilentObserver:
    """Shows nothing: where what the job says is not what was asked for, and failures are said at the end."""

    def show_report(self, worker: int, report: Report) -> None:
        """Nothing."""

    def show_output(self, stream: Stream, data: bytes) -> None:
        """Nothing."""

    def show_note(self, text: str) -> None:
        """Nothing."""

    def show_group(self, workers: int, generation: int) -> None:
        """Nothing."""

    def tick(self, now_s: float) -> None:
        """Nothing to refresh."""
