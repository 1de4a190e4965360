"""What `holdtrue run` shows while a job runs: a live line on a terminal, now and then a line elsewhere.

All that holdtrue itself says goes to stderr, so that stdout is the script's alone.
"""

import codecs
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO, final

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from holdtrue.launch import JobObserver, Stream
from holdtrue.wire import LogReport, MessageReport, PredictedReport, Report, StartedReport, StepReport

from ._progress import Progress, describe_log, describe_progress

_REFRESH_S = 0.1
_PLAIN_EVERY_S = 10.0
_BAR_COLUMNS = 24
_NARROW_COLUMNS = 88
"""Below this width there is no bar."""


@contextmanager
def open_screen(*, workers: int) -> Iterator[JobObserver]:
    """The screen of one job: live where stderr is a terminal, plain lines elsewhere."""
    progress = Progress(workers=workers, started_s=time.monotonic())
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if not console.is_terminal or console.is_dumb_terminal:
        yield PlainScreen(progress)
        return
    with Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False) as live:
        screen = LiveScreen(progress, console, live, stdout_is_terminal=sys.stdout.isatty())
        yield screen
        screen.close()


@final
class _Notes:
    """Sentences of the workers, each said once although several say it."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def take(self, report: Report) -> str | None:
        """What to print for a report, if anything."""
        match report:
            case StartedReport():
                return self._once(report.line)
            case MessageReport():
                return self._once(report.text, "note: ")
            case LogReport():
                return describe_log(report.step, report.values)
            case _:
                return None

    def _once(self, text: str, before: str = "") -> str | None:
        if text in self._said:
            return None
        self._said.add(text)
        return before + text


@final
class PlainScreen:
    """Lines for a file or a pipe; a progress line every ten seconds."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._notes = _Notes()
        self._shown_s = -_PLAIN_EVERY_S

    def show_report(self, worker: int, report: Report) -> None:
        """Print what is to be read."""
        if isinstance(report, StepReport | PredictedReport):
            self._progress = self._progress.after(report, time.monotonic())
        elif (line := self._notes.take(report)) is not None:
            self.show_note(line)

    def show_output(self, stream: Stream, data: bytes) -> None:
        """Pass the bytes on as they are."""
        _write_raw(sys.stdout if stream == "stdout" else sys.stderr, data)

    def show_note(self, text: str) -> None:
        """Print to stderr."""
        print(text, file=sys.stderr, flush=True)

    def show_group(self, workers: int, generation: int) -> None:
        """Say how the membership changed."""
        self._progress, line = self._progress.with_group(workers, generation)
        if line is not None:
            self.show_note(line)

    def tick(self, now_s: float) -> None:
        """Print the progress line, if it is time."""
        if self._progress.has_begun and now_s - self._shown_s >= _PLAIN_EVERY_S:
            self._shown_s = now_s
            self.show_note(" · ".join(describe_progress(self._progress, now_s)))


@final
class LiveScreen:
    """A live line at the bottom; the script's output and notes scroll above it."""

    def __init__(self, progress: Progress, console: Console, live: Live, *, stdout_is_terminal: bool) -> None:
        self._progress = progress
        self._console = console
        self._live = live
        self._stdout_is_terminal = stdout_is_terminal
        self._notes = _Notes()
        self._lines = {"stdout": _Lines(), "stderr": _Lines()}
        self._spinner = Spinner("dots", style="cyan")
        self._shown_s = 0.0

    def show_report(self, worker: int, report: Report) -> None:
        """Print what is to be read; steps move the live line."""
        if isinstance(report, StepReport | PredictedReport):
            self._progress = self._progress.after(report, time.monotonic())
        elif (line := self._notes.take(report)) is not None:
            self.show_note(line)

    def show_output(self, stream: Stream, data: bytes) -> None:
        """Print whole lines above the live line; an unfinished one is shown in the live part."""
        if stream == "stdout" and not self._stdout_is_terminal:
            _write_raw(sys.stdout, data)
        elif text := self._lines[stream].take(data):
            self._console.print(_Raw(text), end="")

    def show_note(self, text: str) -> None:
        """Print above the live line."""
        self._console.print(Text(text))

    def show_group(self, workers: int, generation: int) -> None:
        """Say how the membership changed; the live line has it too."""
        self._progress, line = self._progress.with_group(workers, generation)
        if line is not None:
            self.show_note(line)

    def tick(self, now_s: float) -> None:
        """Draw the live line anew, at most ten times a second."""
        if now_s - self._shown_s >= _REFRESH_S:
            self._shown_s = now_s
            self._live.update(self._draw(now_s), refresh=True)

    def close(self) -> None:
        """Print lines that were never finished."""
        for lines in self._lines.values():
            if lines.partial:
                self._console.print(_Raw(lines.partial + "\n"), end="")

    def _draw(self, now_s: float) -> RenderableType:
        unfinished = [Text.from_ansi(lines.partial) for lines in self._lines.values() if lines.partial]
        return Group(*unfinished, self._draw_progress(now_s))

    def _draw_progress(self, now_s: float) -> RenderableType:
        head, *rest = describe_progress(self._progress, now_s)
        line = Text.assemble((head, "bold"), *((f"  {part}", "default") for part in rest))
        grid = Table.grid(padding=(0, 1))
        part = self._progress.part
        if part is None:
            grid.add_row(self._spinner, line)
        elif self._console.width < _NARROW_COLUMNS:
            grid.add_row(line)
        else:
            done, total = part
            bar = ProgressBar(total=max(1, total), completed=done, width=_BAR_COLUMNS)
            grid.add_row(bar, line)
        return grid


@final
class _Lines:
    """Bytes in, whole lines of text out."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._rest = ""

    @property
    def partial(self) -> str:
        """The line that is not finished; of what a carriage return overwrites, the last version."""
        return self._rest.rstrip("\r")

    def take(self, data: bytes) -> str:
        """The lines that `data` completes, with their newlines."""
        whole, newline, rest = (self._rest + self._decoder.decode(data)).rpartition("\n")
        # A trailing return waits for what comes: the text before it is still on the screen.
        visible = rest.rstrip("\r")
        self._rest = visible.rpartition("\r")[2] + rest[len(visible) :][:1]
        return whole + newline


@final
class _Raw:
    """Text for the console as it is: its own escapes and width, no markup, no wrapping."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Segment(self._text)


def _write_raw(target: TextIO, data: bytes) -> None:
    buffer = getattr(target, "buffer", None)
    if buffer is None:  # replaced by something without bytes below, such as a test's capture
        target.write(data.decode(errors="replace"))
    else:
        target.flush()
        buffer.write(data)
    target.flush()
