"""How far a job is, in numbers and in words. Pure: the time is an argument."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import final

from holdtrue.wire import PredictedReport, StepReport

_RATE_WINDOW_S = 10.0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a job is."""

    workers: int
    started_s: float
    """When the launcher began; seconds of the clock that gives the other times."""
    generation: int | None = None
    """Number of the membership; None in a fixed group, and before the first."""
    newest: StepReport | None = None
    predicted: PredictedReport | None = None
    """How far a prediction to disk is, where that was told after the newest step."""
    recent: tuple[tuple[float, int], ...] = ()
    """(time, step) of the reports of the last seconds, oldest first."""

    def after(self, report: StepReport | PredictedReport, now_s: float) -> "Progress":
        """The progress once `report` has arrived."""
        if isinstance(report, PredictedReport):
            return replace(self, predicted=report)
        recent = tuple(pair for pair in self.recent if now_s - pair[0] <= _RATE_WINDOW_S)
        return replace(self, newest=report, predicted=None, recent=(*recent[-200:], (now_s, report.step)))

    def with_group(self, workers: int, generation: int) -> tuple["Progress", str | None]:
        """The progress of a job with another membership, and what to say of the change.

        >>> first, line = Progress(workers=2, started_s=0.0).with_group(2, 1)
        >>> line is None, first.with_group(3, 2)[1], first.with_group(1, 4)[1]
        (True, 'generation 2: 3 workers, 1 more', 'generation 4: 1 worker, 1 fewer')
        >>> first.with_group(2, 3)[1]
        'generation 3: 2 workers, virtual nodes moved'
        """
        changed = replace(self, workers=workers, generation=generation)
        if self.generation is None:
            return changed, None
        by = workers - self.workers
        size = "virtual nodes moved" if by == 0 else f"{abs(by)} {'more' if by > 0 else 'fewer'}"
        return changed, f"generation {generation}: {workers} worker{'s' if workers != 1 else ''}, {size}"

    @property
    def has_begun(self) -> bool:
        """Whether something was told."""
        return self.newest is not None or self.predicted is not None

    @property
    def part(self) -> tuple[int, int] | None:
        """How much is done of how much, in steps or examples; None where nobody knows."""
        if self.predicted is not None:
            return self.predicted.done, self.predicted.examples
        if self.newest is None or self.newest.total_steps is None:
            return None
        return self.newest.step + 1, self.newest.total_steps

    @property
    def steps_per_s(self) -> float | None:
        """Steps a second of late; None until it can be told."""
        if len(self.recent) < 2:
            return None
        (first_s, first), (last_s, last) = self.recent[0], self.recent[-1]
        return (last - first) / (last_s - first_s) if last_s > first_s else None


def describe_progress(progress: Progress, now_s: float) -> tuple[str, ...]:
    """The parts of a progress line.

    >>> step = StepReport(step=119, epoch=2, loss=0.31234, total_steps=500)
    >>> at_start = Progress(workers=2, started_s=0.0)
    >>> describe_progress(at_start.after(step, 11.0), now_s=12.0)
    ('step 120/500', 'epoch 2', 'loss 0.3123', '2 workers', '0:12')
    >>> describe_progress(at_start, now_s=1.0)
    ('starting', '2 workers', '0:01')
    >>> describe_progress(at_start.after(PredictedReport(done=64, examples=500), 2.0), now_s=3.0)
    ('predicted 64/500', '2 workers', '0:03')
    """
    parts = ["starting"]
    if progress.predicted is not None:
        parts = [f"predicted {progress.predicted.done}/{progress.predicted.examples}"]
    elif progress.newest is not None:
        step = progress.newest
        total = "" if step.total_steps is None else f"/{step.total_steps}"
        parts = [f"step {step.step + 1}{total}", f"epoch {step.epoch}"]
        if step.loss is not None:
            parts.append(f"loss {format_value(step.loss)}")
        if (rate := progress.steps_per_s) is not None:
            parts.append(f"{rate:.3g} steps/s" if rate < 100 else f"{rate:.0f} steps/s")
    workers = f"{progress.workers} worker{'s' if progress.workers != 1 else ''}"
    if progress.generation is not None and progress.generation > 1:
        workers += f", generation {progress.generation}"
    return (*parts, workers, format_elapsed(now_s - progress.started_s))


def describe_log(step: int, values: Mapping[str, float]) -> str:
    """One line for what the script logged.

    >>> describe_log(100, {"loss": 0.25, "accuracy": 0.9})
    'step 101: loss 0.25 · accuracy 0.9'
    """
    return f"step {step + 1}: " + " · ".join(
        f"{name} {format_value(value)}" for name, value in values.items()
    )


def format_value(value: float) -> str:
    """A number in four figures.

    >>> format_value(0.31234), format_value(12), format_value(float("nan"))
    ('0.3123', '12', 'nan')
    """
    return f"{value:.4g}" if math.isfinite(value) else str(value)


def format_elapsed(seconds: float) -> str:
    """A length of time on a clock's face.

    >>> format_elapsed(72.9), format_elapsed(3600)
    ('1:12', '1:00:00')
    """
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
