"""What `holdtrue plot` draws: the curves, pure, and the picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import final

from holdtrue.errors import UsageError
from holdtrue.record import RunRecord


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """What one run has to draw."""

    name: str
    """Its folder."""
    steps: tuple[int, ...]
    """Steps that have records, ascending."""
    losses: tuple[float, ...]
    """Loss of each; NaN where there was none."""
    examples_per_s: tuple[float, ...]
    """Full global batches over the median of the seconds around each step."""
    changes: tuple[int, ...]
    """Steps that another membership computed than the step before."""


def curves_of(run: RunRecord, smooth: int) -> Curves:
    """The curves of a run.

    Args:
        run: Its record.
        smooth: Steps around each whose median of seconds counts, at least 1.
    """
    steps = tuple(sorted(run.steps))
    records = [run.steps[s] for s in steps]
    seconds = [r.seconds for r in records]
    half = smooth // 2
    middle = [median(seconds[max(0, i - half) : i + half + 1]) for i in range(len(seconds))]
    return Curves(
        name=run.name,
        steps=steps,
        losses=tuple(float("nan") if r.loss is None else r.loss for r in records),
        examples_per_s=tuple(run.plan.global_batch_size / s if s else float("nan") for s in middle),
        changes=tuple(b.step for a, b in pairwise(records) if a.generation != b.generation),
    )


def draw_runs(curves: Sequence[Curves], path: Path) -> None:
    """Draw loss and throughput over steps as PNG or SVG, by the file's ending; needs matplotlib.

    Raises:
        UsageError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as problem:
        raise UsageError(
            "matplotlib is not installed and pictures are drawn with it. Install holdtrue[cluster]."
        ) from problem
    figure = Figure(figsize=(8, 6), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True)
    for run in curves:
        above.plot(run.steps, run.losses, linewidth=1.2, label=run.name)
        below.plot(run.steps, run.examples_per_s, linewidth=1.2)
        for axis in (above, below):
            for step in run.changes:
                axis.axvline(step, color="0.7", linewidth=0.8, zorder=0)
    above.set_ylabel("loss")
    below.set_ylabel("examples/s")
    below.set_xlabel("step")
    below.set_ylim(bottom=0)
    above.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=120, metadata={"Date": None} if path.suffix == ".svg" else None)
