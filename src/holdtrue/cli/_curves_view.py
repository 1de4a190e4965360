"""Loss, throughput and mapping for a terminal: what `holdtrue status --watch` adds. Pure."""

from collections.abc import Sequence

from holdtrue.dashboard import Facts
from holdtrue.units import format_ids

from ._progress import format_value

_BLOCKS = "▁▂▃▄▅▆▇█"
_LABEL_COLUMNS = 14
_VALUE_COLUMNS = 26
_LEAST_COLUMNS = 10


def describe_curves(view: Facts, *, columns: int) -> list[str]:
    """The curves of a job, and who runs which virtual nodes, in lines of so many columns.

    Args:
        view: What `Observatory.view` gives.
        columns: Of the terminal.
    """
    curve = view["curve"]
    room = max(_LEAST_COLUMNS, columns - _LABEL_COLUMNS - _VALUE_COLUMNS)
    lines: list[str] = []
    for label, values, unit in (
        ("loss", curve["losses"], ""),
        ("throughput", curve["examples_per_s"], " examples/s"),
    ):
        known = [value for value in values if value is not None]
        if known:
            lines.append(
                f"  {label:<{_LABEL_COLUMNS - 2}}{draw_line(values, room)} {format_value(known[-1])}{unit}"
            )
    for row in view["mapping"]:
        ids = format_ids(row["virtual_nodes"]) if row["virtual_nodes"] else "standby"
        seconds = (
            ""
            if row["pass_s"] is None
            else f"{'' if row['is_measured'] else 'at most '}{row['pass_s']:.3g} s a pass"
        )
        lines.append(
            f"  worker {row['worker']:<5}{row['device']:<8} virtual nodes {ids:<16} {seconds}".rstrip()
        )
    for step, generation in view["changes"][-3:]:
        reason = next((e["reason"] for e in reversed(view["events"]) if e["generation"] == generation), "")
        lines.append(f"  step {step}: generation {generation} {reason}".rstrip()[:columns])
    return lines


def draw_line(values: Sequence[float | None], columns: int) -> str:
    """A curve in blocks, as many as there are columns, from the lowest to the highest value.

    >>> draw_line([0.0, 1.0, None, 2.0], 4)
    '▁▄ █'
    """
    count = min(columns, len(values))
    picked = [values[(k + 1) * len(values) // count - 1] for k in range(count)]
    known = [value for value in picked if value is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    span = (high - low) or 1.0
    return "".join(
        " " if value is None else _BLOCKS[int((value - low) / span * (len(_BLOCKS) - 1))] for value in picked
    )
