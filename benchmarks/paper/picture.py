"""The page's picture as SVG text: accuracy by workers, and peak memory by global batch. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from section_batches import holdtrue_peaks
from tables import Raw, Scores, scores_by

OURS, OTHER, GREY = "#1f6fb4", "#c8553d", "#888888"
WIDTH, HEIGHT, LEFT, TOP = 300, 200, 50, 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A plot with a logarithmic axis of base 2 to the right and a linear one upwards."""

    left: int
    """Place of the panel in pixels."""
    ticks: tuple[int, ...]
    """Values marked on the axis to the right, ascending."""
    low: float
    high: float
    """Ends of the axis upwards."""

    def x(self, value: float) -> float:
        """Pixels from the left."""
        first, last = math.log2(self.ticks[0]), math.log2(self.ticks[-1])
        return round(self.left + LEFT + (math.log2(value) - first) / (last - first) * (WIDTH - 20) + 10, 1)

    def y(self, value: float) -> float:
        """Pixels from the top."""
        return round(TOP + HEIGHT * (self.high - value) / (self.high - self.low), 1)

    def frame(self, title: str, below: str) -> list[str]:
        """Title, axes and their marks."""
        x0, x1, y0, y1 = self.left + LEFT, self.left + LEFT + WIDTH, TOP + HEIGHT, TOP
        parts = [
            f'<text x="{x0}" y="{TOP - 18}" font-weight="bold">{title}</text>',
            f'<path d="M{x0} {y1}V{y0}H{x1}" fill="none" stroke="{GREY}"/>',
            f'<text x="{(x0 + x1) // 2}" y="{y0 + 36}" text-anchor="middle">{below}</text>',
        ]
        for tick in self.ticks:
            parts.append(f'<text x="{self.x(tick)}" y="{y0 + 17}" text-anchor="middle">{tick}</text>')
        for i in range(5):
            value = self.low + (self.high - self.low) * i / 4
            parts.append(f'<text x="{x0 - 6}" y="{self.y(value) + 4}" text-anchor="end">{value:.4g}</text>')
        return parts

    def line(self, points: Mapping[int, float], colour: str, name: str, name_at: int) -> list[str]:
        """A line with its points and, left above a chosen one, its name."""
        path = " ".join(f"{self.x(value)},{self.y(height)}" for value, height in points.items())
        dots = [
            f'<circle cx="{self.x(v)}" cy="{self.y(h)}" r="3" fill="{colour}"/>' for v, h in points.items()
        ]
        text = (
            f'<text x="{self.x(name_at) - 8:.1f}" y="{self.y(points[name_at]) - 9:.1f}" fill="{colour}" '
            f'text-anchor="end">{name}</text>'
        )
        return [f'<polyline points="{path}" fill="none" stroke="{colour}"/>', *dots, text]

    def ranges(self, scores: Mapping[int, Scores], colour: str) -> list[str]:
        """Upright bars from the lowest to the highest seed."""
        return [
            f'<path d="M{self.x(v)} {self.y(100 * min(s.values))}V{self.y(100 * max(s.values))}" stroke="{colour}" '
            f'stroke-width="5" stroke-opacity="0.3"/>'
            for v, s in scores.items()
        ]


def draw_picture(hardware: Raw, batches: Raw) -> str:
    """Both panels as an SVG document."""
    body = [*_accuracy_panel(hardware), *_memory_panel(batches)]
    size = f'width="{2 * (LEFT + WIDTH) + 60}" height="{TOP + HEIGHT + 50}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *body, "</svg>"]) + "\n"


def _bounds(values: Sequence[float], step: float) -> tuple[float, float]:
    return math.floor(min(values) / step) * step, math.ceil(max(values) / step) * step


def _accuracy_panel(raw: Raw) -> list[str]:
    ways = {}
    for way in ("ours", "naive"):
        runs = [run for run in raw["results"] if run["way"] == way]
        ways[way] = scores_by(runs, "stands_for_workers")
    low, high = _bounds([100 * v for scores in ways.values() for s in scores.values() for v in s.values], 1)
    panel = Panel(left=0, ticks=tuple(ways["ours"]), low=low, high=high)
    parts = panel.frame("accuracy %: mean and range of the seeds", "workers")
    for way, colour, name_at in (("ours", OURS, 4), ("naive", OTHER, 2)):
        means = {w: 100 * scores.mean for w, scores in ways[way].items()}
        parts += panel.ranges(ways[way], colour) + panel.line(means, colour, way, name_at)
    return parts


def _memory_panel(raw: Raw) -> list[str]:
    ours = {batch: peak / 2**20 for batch, peak in holdtrue_peaks(raw).items()}
    plain = {batch: raw["plain_peak_bytes"][str(batch)] / 2**20 for batch in ours}
    limit = raw["limit_bytes"] / 2**20
    low, high = _bounds([*ours.values(), *plain.values(), limit], 100)
    panel = Panel(left=LEFT + WIDTH + 30, ticks=tuple(ours), low=low, high=high)
    start, end = panel.left + LEFT, panel.left + LEFT + WIDTH
    return [
        *panel.frame("peak resident memory, MiB", "global batch"),
        f'<path d="M{start} {panel.y(limit)}H{end}" stroke="{GREY}" stroke-dasharray="4"/>',
        f'<text x="{start + 6}" y="{panel.y(limit) - 5}" fill="{GREY}">limit</text>',
        *panel.line(plain, OTHER, "plain", 1024),
        *panel.line(ours, OURS, "holdtrue", 1024),
    ]
