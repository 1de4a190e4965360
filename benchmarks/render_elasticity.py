"""Writes the figures of docs/results/elasticity-simulated.md from the raw files; the words around them are its own.

Each part between `<!-- NAME: ... -->` and `<!-- end -->` is what this script makes of elasticity.json, mixed_loads.json,
simulator.json and simulator_crowded.json in benchmarks/raw.

python benchmarks/render_elasticity.py
"""

import re
from statistics import fmean
from typing import Any

from raw_pages import RESULTS, conditions, read, row, verdict, write

PAGE = "elasticity-simulated.md"
NAMES = {
    "priority": "static priority",
    "wfs": "WFS",
    "wfs-any": "WFS in any count",
    "fifo": "FIFO with backfill",
    "srtf": "SRTF",
    "max-min": "max-min",
    "max-min-aware": "max-min, aware",
    "max-min-mixed": "max-min, mixed types",
    "max-min-aware-mixed": "max-min, aware, mixed types",
    "finish-time": "finish-time fairness",
    "makespan": "makespan",
}
LOGGED = {
    "medium20_12jph": {"priority": (11929, 2688, 4005, 1850), "wfs": (6495, 1408, 1712, 12.8)},
    "3jobs_4gpus_v1": {"priority": (7083, 6063), "wfs": (4362, 3342)},
}
"""What the authors of the traces logged on V100s: the columns of the tables below."""
COLUMNS = {
    "medium20_12jph": ("makespan_s", "median_jct_s", "mean_jct_s", "median_queuing_s"),
    "3jobs_4gpus_v1": ("makespan_s", "heaviest_jct_s"),
}


def paper(trace: str, *heads: str) -> list[str]:
    """One trace: logged and simulated, with the changes against static priority of the same kind."""
    found = {
        r["policy"]: r for r in read("elasticity")["results"] if (r["trace"], r["costs"]) == (trace, "logged")
    }
    simulated = {name: tuple(found[name][c] for c in COLUMNS[trace]) for name in found}
    lines = [row("", *heads), row(*["---"] * (len(heads) + 1))]
    for name in ("priority", "wfs", "wfs-any", "fifo", "srtf"):
        for label, values in (("logged", LOGGED[trace]), ("simulated", simulated)):
            if name in values:
                lines.append(
                    row(f"{NAMES[name]}, {label}", *_against(values[name], values["priority"], name))
                )
    return lines


def _against(values: tuple[float, ...], base: tuple[float, ...], name: str) -> list[str]:
    cells = []
    for value, before in zip(values, base, strict=True):
        number = f"{value:.1f}" if 0 < value < 100 else f"{value:.0f}"
        cells.append(number if name == "priority" else f"{number} ({100 * (value / before - 1):+.1f} %)")
    return cells


def other_costs(_: str) -> list[str]:
    """WFS against static priority where changes cost something else."""
    lines = [row("costs", "makespan", "median JCT", "mean JCT"), row(*["---"] * 4)]
    raw = read("elasticity")
    for costs, label in (
        ("logged", "as logged"),
        ("holdtrue on CPU", "our own, on two CPU cores"),
        ("slow resizes", "slow resizes, as a checkpoint and a restart"),
    ):
        found = {
            r["policy"]: r for r in raw["results"] if (r["trace"], r["costs"]) == ("medium20_12jph", costs)
        }
        changes = [
            f"{100 * (found['wfs'][c] / found['priority'][c] - 1):+.1f} %"
            for c in COLUMNS["medium20_12jph"][:3]
        ]
        lines.append(row(label, *changes))
    return lines


def mixed(_: str) -> list[str]:
    """Mixed types against one type, by load."""
    raw = read("mixed_loads")
    lines = [
        row(
            "jobs/h",
            "mean JCT s, one type",
            "mean JCT s, mixed",
            "change, by seed %",
            "mean change",
            "useful, one type / mixed",
        ),
        row(*["---"] * 6),
    ]
    one, many = "max-min-aware", "max-min-aware-mixed"
    for load in sorted({r["jobs_per_hour"] for r in raw["results"]}):
        these = sorted((r for r in raw["results"] if r["jobs_per_hour"] == load), key=lambda r: r["seed"])
        mean = {key: fmean(r[key] for r in these) for key in these[0]}
        lines.append(
            row(
                load,
                f"{mean[f'{one} mean_jct_s']:.0f}",
                f"{mean[f'{many} mean_jct_s']:.0f}",
                ", ".join(f"{100 * r['mean_jct_change']:.1f}" for r in these),
                f"{100 * mean['mean_jct_change']:.1f} %",
                f"{mean[f'{one} useful']:.2f} / {mean[f'{many} useful']:.2f}",
            )
        )
    change = raw["mean_jct_change"]
    percent = {key: f"{100 * change[key]:.1f}" for key in ("mean", "least", "most")}
    said = f"Over all loads the mean change is **{percent['mean']} %** (from {percent['least']} to {percent['most']} %)."
    return [*lines, "", said]


def philly(_: str) -> list[str]:
    """Jobs a second on Philly's jobs."""
    raw = read("simulator")
    labels = list(dict.fromkeys(key.split(", ")[1] for key in raw["philly"]))
    lines = [
        row("policy", *(f"Philly {label}" for label in labels), "target: 1,000 as logged"),
        row(*["---"] * (len(labels) + 2)),
    ]
    for name in ("fifo", "priority", "wfs", "wfs-any", "srtf"):
        rates = [raw["philly"].get(f"{name}, {label}") for label in labels]
        target = verdict(rates[0]["jobs_per_s"] >= 1000) if name in ("fifo", "wfs") else ""
        lines.append(row(NAMES[name], *(_rate(r) for r in rates), target))
    return [conditions(raw), "", *lines]


def sharing(_: str) -> list[str]:
    """Jobs a second of policies that share time, with few and with many jobs."""
    few, many = read("simulator")["time-sharing"], read("simulator_crowded")["crowded"]
    names = list(dict.fromkeys(key.split(", decisions")[0] for key in many))
    heads = (
        "few, at every event",
        "few, every 1920 s",
        "target: 100",
        "512, at every event",
        "512, every 1920 s",
        "target: 10",
    )
    lines = [row("policy", *heads), row(*["---"] * (len(heads) + 1))]
    for name in names:
        at = [f"{name}, decisions at most every {gate} s" for gate in (0, 1920)]
        own = [few.get(key) for key in at]
        lines.append(
            row(
                NAMES[name],
                *map(_rate, own),
                verdict(own[0]["jobs_per_s"] >= 100) if own[0] else "",
                *(_rate(many[key]) for key in at),
                verdict(many[at[0]]["jobs_per_s"] >= 10),
            )
        )
    return lines


def decisions(_: str) -> list[str]:
    """Milliseconds of one decision."""
    raw = read("simulator")
    found = {n: raw[f"decisions of {n} running jobs, ms"] for n in (20, 512)}
    lines = [row("policy", "20 running jobs", "512 running jobs", "target: 100 ms"), row(*["---"] * 4)]
    for name in found[512]:
        most = {n: max(found[n][name]) for n in found}
        cells = (f"{most[20]:.2f} ms", f"{most[512]:.1f} ms", verdict(most[512] < 100))
        lines.append(row(f"`{name}`", *cells))
    return lines


def _rate(found: dict[str, Any] | None) -> str:
    return "" if found is None else f"{found['jobs_per_s']:.0f}"


PARTS = {
    "12jph": lambda _: paper(
        "medium20_12jph", "makespan s", "median JCT s", "mean JCT s", "median queuing s"
    ),
    "3jobs": lambda _: paper("3jobs_4gpus_v1", "makespan s", "JCT of the high-priority job s"),
    "other-costs": other_costs,
    "mixed": mixed,
    "philly": philly,
    "sharing": sharing,
    "decisions": decisions,
}


def page() -> str:
    """The page, its parts made anew."""
    text = (RESULTS / PAGE).read_text()
    for name, part in PARTS.items():
        pattern = re.compile(rf"(<!-- {name}: [^\n]*-->\n)(.*?)(<!-- end -->)", re.DOTALL)
        assert len(pattern.findall(text)) == 1, f"{PAGE} has one part {name}"
        body = "\n".join(part(name))
        text = pattern.sub(lambda m, body=body: f"{m[1]}{body}\n\n{m[3]}", text)
    return text


if __name__ == "__main__":
    write(PAGE, page())
