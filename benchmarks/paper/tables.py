"""Figures of the raw files as the page shows them: rows, spreads, Markdown. Pure."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Raw = dict[str, Any]  # Any: JSON values of a raw file


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Accuracies of the seeds of one setting, from 0 to 1."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Their mean."""
        return statistics.fmean(self.values)

    def text(self) -> str:
        """Mean and range in percent.

        >>> Scores(values=(0.9, 0.92)).text()
        '91.00 (90.00..92.00)'
        """
        return f"{100 * self.mean:.2f} ({100 * min(self.values):.2f}..{100 * max(self.values):.2f})"


def scores_by(runs: Iterable[Raw], key: str) -> dict[int, Scores]:
    """Accuracies by the value that the runs have under `key`, ascending."""
    found: dict[int, list[float]] = {}
    for run in runs:
        found.setdefault(run[key], []).append(run["accuracy"])
    return {value: Scores(values=tuple(found[value])) for value in sorted(found)}


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table.

    >>> table(["a"], [["1"]])
    '| a |\\n|---|\\n| 1 |'
    """
    lines = [head, *rows]
    text = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([text[0], "|" + "---|" * len(head), *text[1:]])


def mib(size: float) -> str:
    """Bytes as whole MiB.

    >>> mib(3 * 2**20)
    '3'
    """
    return f"{size / 2**20:.0f}"


def listed(values: Iterable[object]) -> str:
    """Values as a sentence lists them.

    >>> listed([1, 2, 4])
    '1, 2 and 4'
    """
    words = [str(value) for value in values]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
