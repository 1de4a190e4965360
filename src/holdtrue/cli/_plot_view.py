"""What `holdtrue plot` draws: the curves, pure, and the picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import final

from holdtrue.errors import UsageError
from holdtrue.record import RunRecord, workers_over_steps


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
    workers: tuple[tuple[int, int], ...]
    """Steps from which on there were so many workers."""
    moves: tuple[int, ...]
    """Steps before which virtual nodes moved while the workers stayed."""


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
        workers=workers_over_steps(
            {"kind": e.kind, "step": e.step, "details": e.details} for e in run.events
        ),
        moves=tuple(e.step for e in run.events if e.kind == "remap" and e.step is not None),
    )


def draw_runs(curves: Sequence[Curves], path: Path) -> None:
    """Draw loss, throughput and workers over steps as PNG or SVG, by the file's ending; needs matplotlib.

    Raises:
        UsageError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as problem:
        raise UsageError(
            "matplotlib is not installed and pictures are drawn with it. Install holdtrue[dashboard]."
        ) from problem
    figure = Figure(figsize=(8, 7), layout="constrained")
    FigureCanvasAgg(figure)
    above, below, least = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1.3))
    for run in curves:
        above.plot(run.steps, run.losses, linewidth=1.2, label=run.name)
        below.plot(run.steps, run.examples_per_s, linewidth=1.2)
        if run.workers and run.steps:
            counts = [*run.workers, (run.steps[-1], run.workers[-1][1])]
            least.step([s for s, _ in counts], [n for _, n in counts], where="post", linewidth=1.2)
        for axis in (above, below, least):
            for step in run.changes:
                axis.axvline(
                    step, color="0.7", linewidth=0.8, zorder=0, linestyle=":" if step in run.moves else "-"
                )
    above.set_ylabel("loss")
    below.set_ylabel("examples/s")
    below.set_ylim(bottom=0)
    least.set_ylabel("workers")
    least.set_xlabel("step")
    least.set_ylim(bottom=0)
    least.yaxis.get_major_locator().set_params(integer=True)
    above.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=120, metadata={"Date": None} if path.suffix == ".svg" else None)
