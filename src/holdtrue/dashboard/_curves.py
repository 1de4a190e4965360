"""Long columns made short enough to draw. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import final

POINTS = 500
"""Of a curve: about as many as a screen has columns for it."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Points of a curve, each for a run of neighbouring steps."""

    steps: tuple[int, ...]
    """Last step of each point."""
    losses: tuple[float | None, ...]
    """Mean of the finite losses; None where there is none."""
    lowest: tuple[float | None, ...]
    """Smallest of them."""
    highest: tuple[float | None, ...]
    """Largest of them: a spike of a single step is seen."""
    examples_per_s: tuple[float | None, ...]
    """Global batch over the median of the seconds."""


def downsample(
    steps: Sequence[int],
    losses: Sequence[float],
    seconds: Sequence[float],
    *,
    batch: int,
    points: int = POINTS,
) -> Curve:
    """At most so many points of a run.

    Args:
        steps: Ascending.
        losses: One for each step; NaN for none.
        seconds: One for each step.
        batch: Examples in a step.
        points: Most points, at least 1.

    >>> downsample([0, 1, 2, 3], [4.0, 2.0, 1.0, 3.0], [1.0, 1.0, 2.0, 2.0], batch=8, points=2).losses
    (3.0, 2.0)
    """
    count = len(steps)
    parts = min(points, count)
    bounds = [count * k // parts for k in range(parts + 1)] if parts else [0]
    found: list[tuple[int, float | None, float | None, float | None, float | None]] = []
    for start, stop in pairwise(bounds):
        finite = [x for x in losses[start:stop] if math.isfinite(x)]
        middle = median(seconds[start:stop])
        found.append(
            (
                steps[stop - 1],
                math.fsum(finite) / len(finite) if finite else None,
                min(finite, default=None),
                max(finite, default=None),
                batch / middle if middle > 0 else None,
            )
        )
    columns = list(zip(*found, strict=True)) if found else [(), (), (), (), ()]
    return Curve(
        steps=columns[0], losses=columns[1], lowest=columns[2], highest=columns[3], examples_per_s=columns[4]
    )
