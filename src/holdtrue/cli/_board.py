"""The table of `holdtrue verify`, live on a terminal while the runs go on."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal, final

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from holdtrue.launch import Stream
from holdtrue.wire import Report, StepReport

from ._progress import format_value
from ._trials import Row, Trial

_REFRESH_S = 0.1
_PLAIN_COLUMNS = 110
"""Width of the table where there is no terminal."""
_OTHER_COLUMNS = 64
"""What all columns but the mappings need."""
_LEAST_MAPPING, _MOST_MAPPING = 12, 40
_HEADINGS: tuple[tuple[str, Literal["left", "right"]], ...] = (
    ("workers", "left"),
    ("virtual nodes", "left"),
    ("steps", "right"),
    ("loss", "right"),
    ("digest", "left"),
    ("seconds", "right"),
    ("", "left"),
)
_LOOKS = {
    "waiting": ("", ""),
    "running": ("running", "cyan"),
    "reference": ("reference", "bold"),
    "equal": ("equal", "green"),
    "different": ("different", "bold red"),
    "failed": ("failed", "bold red"),
}


@contextmanager
def open_board() -> Iterator["Board"]:
    """A board that is drawn on stderr while it is open, if that is a terminal."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal or console.is_dumb_terminal:
        yield Board(live=None)
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield Board(live=live)


@final
class Board:
    """The rows of the table; a `JobObserver` of the run that is going on."""

    def __init__(self, *, live: Live | None) -> None:
        self._live = live
        self._drawn_s = 0.0
        self._spinner = Spinner("dots", style="cyan")
        self.rows: tuple[Row, ...] = ()

    def show(self, rows: tuple[Row, ...]) -> None:
        """Replace the rows."""
        self.rows = rows

    def begin(self, trial: Trial) -> None:
        """Mark the row of `trial` as running."""
        self._put(Row(trial=trial, verdict="running"))

    def finish(self, row: Row) -> None:
        """Replace the row of the same trial."""
        self._put(row)

    def _put(self, row: Row) -> None:
        self.rows = tuple(row if old.trial == row.trial else old for old in self.rows)

    def show_report(self, worker: int, report: Report) -> None:
        """Count the steps of the running row."""
        if isinstance(report, StepReport):
            self.rows = tuple(
                replace(row, steps=report.step + 1, loss=report.loss) if row.verdict == "running" else row
                for row in self.rows
            )

    def show_output(self, stream: Stream, data: bytes) -> None:
        """The script's output stays in the logs."""

    def show_note(self, text: str) -> None:
        """Print above the table."""
        if self._live is not None:
            self._live.console.print(Text(text, style="dim"))

    def show_group(self, workers: int, generation: int) -> None:
        """What changes is in the row's name."""

    def tick(self, now_s: float) -> None:
        """Draw the table anew, at most ten times a second."""
        if self._live is not None and now_s - self._drawn_s >= _REFRESH_S:
            self._drawn_s = now_s
            self._live.update(self._draw(), refresh=True)

    def _draw(self) -> Table:
        columns = self._live.console.width if self._live is not None else _PLAIN_COLUMNS
        return draw_table(self.rows, columns=columns, spinner=self._spinner)

    def print_table(self) -> None:
        """Print the table to stdout, for good."""
        console = Console(highlight=False)
        width = console.width if console.is_terminal else _PLAIN_COLUMNS
        Console(highlight=False, width=width).print(draw_table(self.rows, columns=width))


def draw_table(rows: tuple[Row, ...], *, columns: int, spinner: Spinner | None = None) -> Table:
    """The rows as a table; only the mappings give way where `columns` are few."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for heading, justify in _HEADINGS:
        table.add_column(heading, justify=justify, no_wrap=True)
    room = max(_LEAST_MAPPING, min(_MOST_MAPPING, columns - _OTHER_COLUMNS))
    for row in rows:
        word, style = _LOOKS[row.verdict]
        table.add_row(
            row.trial.label,
            shorten(row.trial.what, room),
            "" if row.steps is None else str(row.steps),
            "" if row.loss is None else format_value(row.loss),
            "" if row.digest is None else row.digest[:12],
            "" if row.seconds is None else f"{row.seconds:.1f}",
            spinner if row.verdict == "running" and spinner is not None else Text(word, style=style),
            style="dim" if row.verdict == "waiting" else "",
        )
    return table


def shorten(text: str, columns: int) -> str:
    """`text`, cut to so many columns.

    >>> shorten("0,3,6/1,4/2,5", 8)
    '0,3,6/1…'
    """
    return text if len(text) <= columns else text[: columns - 1] + "…"
