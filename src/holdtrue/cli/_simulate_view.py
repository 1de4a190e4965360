"""What `holdtrue simulate` shows: a bar while it works, one table at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # numpy loads with the cluster package; other commands need not wait for it
    from holdtrue.cluster import Summary


@contextmanager
def show_progress(total: int) -> Iterator[Callable[[str], None]]:
    """A bar on stderr that goes away when it is done; nothing where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=total)
        yield lambda name: progress.update(task, advance=1, description=name)


_ROWS: tuple[tuple[str, str, str], ...] = (
    ("mean JCT", "mean_jct_s", "time"),
    ("median JCT", "median_jct_s", "time"),
    ("p95 JCT", "p95_jct_s", "time"),
    ("p99 JCT", "p99_jct_s", "time"),
    ("mean queuing", "mean_queuing_s", "time"),
    ("median queuing", "median_queuing_s", "time"),
    ("makespan", "makespan_s", "time"),
    ("allocated", "allocated", "part"),
    ("useful", "useful", "part"),
    ("fairness, mean", "mean_fairness", "number"),
    ("fairness, worst", "worst_fairness", "number"),
    ("Jain index", "jain", "number"),
    ("resizes", "resizes", "count"),
    ("stops", "stops", "count"),
)


def show_table(summaries: Sequence[Summary], title: str) -> None:
    """Print the numbers of all policies, with their changes against the first."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("")
    for summary in summaries:
        table.add_column(summary.policy, justify="right")
    for label, field, form in _ROWS:
        table.add_row(label, *(format_cell(summary, summaries[0], field, form) for summary in summaries))
    console = Console()
    if not console.is_terminal:
        console.width = 24 + 24 * len(summaries)
    console.print(table)
    console.print(
        "times in seconds; JCT: arrival to last step; fairness: JCT over JCT on an equal share; "
        f"changes against {summaries[0].policy}",
        style="dim",
    )


def format_cell(summary: Summary, base: Summary, field: str, form: str) -> str:
    """One number with its change against the first policy; changes of parts are in points. Pure."""
    value, before = getattr(summary, field), getattr(base, field)
    text = {
        "time": f"{value:,.0f}",
        "part": f"{value:.1%}",
        "number": f"{value:.3f}",
        "count": f"{value:,d}" if form == "count" else "",
    }[form]
    if summary is base or form == "count":
        return text
    if form == "part":
        return f"{text} ({100 * (value - before):+.1f})"
    return f"{text} ({value / before - 1:+.1%})" if before else text
