"""Charts of who held how many devices, and when."""

from collections.abc import Sequence
from pathlib import Path

from holdtrue.errors import UsageError

from ._outcome import Outcome

_MOST_BANDS = 40
_MOST_NAMES = 24
"""Jobs that a picture names; the page names all of them."""


def stack_devices(outcome: Outcome) -> tuple[list[float], list[tuple[str, list[float]]]]:
    """Times, and for each job the devices that it held from each time to the next.

    Beyond 40 jobs, those that held the least device time are one band, `others`.
    """
    order = sorted(outcome.jobs, key=lambda job: -job.held_device_s)
    own = {job.job.id for job in order[: _MOST_BANDS if len(order) > _MOST_BANDS else len(order)]}
    times = sorted({t for job in outcome.jobs for s in job.segments for t in (s.start_s, s.end_s)})
    place = {t: i for i, t in enumerate(times)}
    bands: dict[str, list[float]] = {}
    for job in outcome.jobs:
        name = job.job.id if job.job.id in own else "others"
        band = bands.setdefault(name, [0.0] * len(times))
        for segment in job.segments:
            held = segment.grant.devices * segment.grant.percent / 100
            for i in range(place[segment.start_s], place[segment.end_s]):
                band[i] += held
    return times, list(bands.items())


def write_png(outcomes: Sequence[Outcome], path: Path) -> None:
    """Allocation chart, one panel a policy, as PNG; needs matplotlib.

    Raises:
        UsageError: matplotlib is not installed.
    """
    try:
        from matplotlib import colormaps
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as problem:
        raise UsageError(
            "matplotlib is not installed and charts are drawn with it. Install holdtrue[cluster], or leave out --chart."
        ) from problem
    figure = Figure(figsize=(9, 2.4 * len(outcomes) + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(outcomes), 1, sharex=True, squeeze=False)[:, 0]
    colours = colormaps["tab20"]
    for axis, outcome in zip(axes, outcomes, strict=True):
        times, bands = stack_devices(outcome)
        hours = [t / 3600 for t in times]
        drawn = axis.stackplot(hours, *[band for _, band in bands], step="post")
        for i, area in enumerate(drawn):
            area.set_facecolor(colours(i % 20))
        axis.set_ylim(0, outcome.cluster.total)
        axis.set_title(outcome.policy, loc="left", fontsize=9)
        axis.set_ylabel("devices")
        if axis is axes[0] and len(bands) <= _MOST_NAMES:
            names = [name if len(name) <= 20 else f"{name[:19]}…" for name, _ in bands]
            figure.legend(list(drawn), names, title="jobs", loc="outside right upper", fontsize=7)
    axes[-1].set_xlabel("hours")
    figure.savefig(path, dpi=120)


def write_html(outcomes: Sequence[Outcome], path: Path) -> bool:
    """The same chart, to zoom and point at, as one HTML file; False, and nothing written, without plotly."""
    try:
        import plotly.graph_objects as go
        from plotly.subplots import make_subplots
    except ImportError:
        return False
    figure = make_subplots(
        rows=len(outcomes), cols=1, shared_xaxes=True, subplot_titles=[o.policy for o in outcomes]
    )
    for row, outcome in enumerate(outcomes, start=1):
        times, bands = stack_devices(outcome)
        for name, band in bands:
            trace = go.Scatter(
                x=[t / 3600 for t in times],
                y=band,
                name=f"job {name}",
                legendgroup=name,
                stackgroup=outcome.policy,
                line={"shape": "hv", "width": 0.5},
                showlegend=row == 1,
            )
            figure.add_trace(trace, row=row, col=1)
        figure.update_yaxes(title_text="devices", range=[0, outcome.cluster.total], row=row, col=1)
    figure.update_xaxes(title_text="hours", row=len(outcomes), col=1)
    figure.write_html(str(path), include_plotlyjs=True)
    return True
