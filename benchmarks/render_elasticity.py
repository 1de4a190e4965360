"""Writes the figures of docs/results/elasticity-simulated.md from the raw files; the words around them are its own.

Each part between `<!-- NAME: ... -->` and `<!-- end -->`, a table or a paragraph, is what this script makes of elasticity.json,
mixed_loads.json, simulator.json and simulator_crowded.json in benchmarks/raw, beside what others published.

python benchmarks/render_elasticity.py
"""

import math
import re
import textwrap
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
BEST_OF_PAPER, MEAN_OF_PAPER, CORRECTED = -29.2, -19.4, -17
"""Change of the mean JCT in per cent by mixed types: of the paper's best load, over its loads, and over them where progress
counts from the start."""
COLUMNS = {
    "medium20_12jph": ("makespan_s", "median_jct_s", "mean_jct_s", "median_queuing_s"),
    "3jobs_4gpus_v1": ("makespan_s", "heaviest_jct_s"),
}


def paper(trace: str, *heads: str) -> list[str]:
    """One trace: logged and simulated, with the changes against static priority of the same kind."""
    found = _found(trace, "logged")
    simulated = {name: tuple(found[name][c] for c in COLUMNS[trace]) for name in found}
    lines = [row("", *heads), row(*["---"] * (len(heads) + 1))]
    for name in ("priority", "wfs", "wfs-any", "fifo", "srtf"):
        for label, values in (("logged", LOGGED[trace]), ("simulated", simulated)):
            if name in values:
                lines.append(
                    row(f"{NAMES[name]}, {label}", *_against(values[name], values["priority"], name))
                )
    return lines


def _found(trace: str, costs: str) -> dict[str, dict[str, Any]]:
    """Summaries by policy."""
    results = read("elasticity")["results"]
    return {r["policy"]: r for r in results if (r["trace"], r["costs"]) == (trace, costs)}


def _change(value: float, before: float) -> float:
    """In per cent."""
    return 100 * (value / before - 1)


def _paragraph(text: str) -> list[str]:
    return textwrap.wrap(text, 120, break_long_words=False, break_on_hyphens=False)


def _furthest(trace: str) -> tuple[float, str]:
    """Where the simulated change by WFS is furthest from the logged one: points, and the column."""
    found = _found(trace, "logged")
    points = {}
    for i, column in enumerate(COLUMNS[trace]):
        simulated = _change(found["wfs"][column], found["priority"][column])
        logged = _change(LOGGED[trace]["wfs"][i], LOGGED[trace]["priority"][i])
        points[column] = abs(simulated - logged)
    column = max(points, key=lambda name: points[name])
    return points[column], column


def logged_costs(_: str) -> list[str]:
    """What the logged runs paid."""
    costs = read("elasticity")["costs"]["logged"]
    return _paragraph(
        f"Work is the logged duration of each job at full demand, less {costs['start_s']:g} s of start-up; costs are those seen "
        f"in the logs (start {costs['start_s']:g} s; grow {costs['grow_s']:g} s, old workers go on and new devices are held; "
        f"shrink {costs['shrink_s']:g} s). Changes are against static priority."
    )


def baseline(_: str) -> list[str]:
    """WFS against better baselines, and simulated against logged."""
    found = _found("medium20_12jph", "logged")
    less = {name: -_change(found["wfs"]["mean_jct_s"], found[name]["mean_jct_s"]) for name in found}
    median = {name: found[name]["median_jct_s"] for name in ("srtf", "wfs")}
    shorter = "SRTF" if median["srtf"] < median["wfs"] else "WFS"
    points, column = _furthest("medium20_12jph")
    of = {"mean_jct_s": "the mean JCT", "median_jct_s": "the median JCT"}.get(column, column)
    return _paragraph(
        f"**The baseline is weak**: static priority neither preempts nor backfills, and a large job at the head of the line "
        f"blocks small ones behind it. Against plain FIFO with backfill WFS shortens the mean JCT by {less['fifo']:.0f} %, not "
        f"{less['priority']:.0f} %; against SRTF, which knows durations and stops jobs, by {less['srtf']:.0f} %, and {shorter} "
        f"has the shorter median. WFS needs neither knowledge nor stops. The simulated changes by WFS are at most {points:.1f} "
        f"points from the logged ones, that of {of}."
    )


def scaling(_: str) -> list[str]:
    """Where the shorter makespan comes from."""
    raw = read("elasticity")
    found = {r["policy"]: r["makespan_s"] for r in raw["in proportion"]}
    return _paragraph(
        f"Where the shorter makespan comes from: the jobs scale badly, so on half of its devices a job is far faster than half. "
        f"BERT at batch 64 on 4 devices is {raw['fit']['bert_batch_64_on_4_to_8']:.1f} times as *fast* as on 8, by the fit "
        f"below. With jobs that scale in proportion the same simulation gives WFS a makespan of {found['wfs']:.0f} s "
        f"({_change(found['wfs'], found['priority']):+.1f} %)."
    )


def fitted(_: str) -> list[str]:
    """How well the fit meets the logs."""
    fit = read("elasticity")["fit"]
    return _paragraph(
        f"**How the jobs scale is fitted, not measured.** The logs give each job's duration at full demand only. A model of a "
        f"step (base, synchronisation by log2 of the devices, time per example, evaluation) is fitted by workload to those "
        f"durations (`benchmarks/fit_paper_speeds.py`); {fit['jobs']} jobs are met within {100 * fit['furthest']:.1f} %. No "
        f"logged result under WFS went into the fit."
    )


def own_costs(_: str) -> list[str]:
    """What changes cost in the next table."""
    costs = read("elasticity")["costs"]
    own, slow = costs["holdtrue on CPU"], costs["slow resizes"]
    return _paragraph(
        f"WFS against static priority where changes cost something else. Our own costs are {own['start_s']:g} s for a new "
        f"process and its imports and {own['shrink_s']:g} s to re-form a group, measured on two CPU cores, without a GPU's start "
        f"or a large model's state; slow resizes are of {slow['grow_s']:g} s. On this trace slow resizes cost WFS little."
    )


def absolute(_: str) -> list[str]:
    """Times and changes of the 3 jobs, simulated and logged."""
    trace = "3jobs_4gpus_v1"
    found = _found(trace, "logged")
    shorter = [
        -_change(found[name][column], LOGGED[trace][name][i])
        for name in LOGGED[trace]
        for i, column in enumerate(COLUMNS[trace])
    ]
    return _paragraph(
        f"The simulated times are {min(shorter):.0f} to {max(shorter):.0f} % shorter than the logged ones; the changes are at "
        f"most {_furthest(trace)[0]:.1f} points apart. The traces `v2`, `v3` and `medium20_10jph` are in the raw file."
    )


def gavel(_: str) -> list[str]:
    """Gavel's schedules and ours."""
    heads = ("cluster", "decisions", "mean JCT s, Gavel / ours", "makespan s, ours against Gavel's", "jobs")
    lines = [row("policy", *heads), row(*["---"] * (len(heads) + 1))]
    raw = read("elasticity")
    for r in raw["gavel"]:
        before, now = r["gavel_mean_jct_s"], r["mean_jct_s"]
        change = "" if abs(_change(now, before)) < 0.05 else f" ({_change(now, before):+.1f} %)"
        longer = _change(r["makespan_s"], r["gavel_makespan_s"])
        at = f"at most every {r['decide_every_s']} s" if r["decide_every_s"] else "each event"
        met = f"every one within {math.ceil(1000 * r['furthest_end_s'])} ms" if r["policy"] == "fifo" else ""
        devices = ", ".join(
            f"{n} {kind.upper()}" for kind, n in (part.split(":") for part in r["cluster"].split(","))
        )
        lines.append(
            row(
                NAMES[r["policy"]].replace("FIFO with backfill", "FIFO"),
                devices,
                at,
                f"{before:.1f} / {now:.1f}{change}",
                "0.0 %" if abs(longer) < 0.05 else f"{longer:+.1f} %",
                met,
            )
        )
    decided = raw["published decisions"]
    work = max(r["furthest_work"] for r in raw["gavel"])
    said = (
        f"Of {decided['logged']} logged decisions of the original weighted fair sharing {decided['same']} are reproduced "
        f"exactly. Every job's work is conserved to {work:.0e} of it. `tests/unit/test_cluster_references.py` keeps all of this "
        f"within bounds."
    )
    return [*lines, "", *_paragraph(said)]


def published_mix(_: str) -> list[str]:
    """What others report of mixed types."""
    return _paragraph(
        f"The best point says little: where the cluster is almost empty any elastic job wins, and where it is full nothing is "
        f"left to give. Much of the gain is elasticity (a job of one device that may use eight), not the mixing of types. The "
        f"paper reports {BEST_OF_PAPER} % at its best load; by its own simulator, which credits progress from arrival, the mean "
        f"over 12 loads is {MEAN_OF_PAPER} %, and {CORRECTED} % with correct accounting. Its jobs, cluster and loads are not "
        f"ours, so these are not the same measurement."
    )


def _against(values: tuple[float, ...], base: tuple[float, ...], name: str) -> list[str]:
    cells = []
    for value, before in zip(values, base, strict=True):
        number = f"{value:.1f}" if 0 < value < 100 else f"{value:.0f}"
        cells.append(number if name == "priority" else f"{number} ({_change(value, before):+.1f} %)")
    return cells


def other_costs(_: str) -> list[str]:
    """WFS against static priority where changes cost something else."""
    lines = [row("costs", "makespan", "median JCT", "mean JCT"), row(*["---"] * 4)]
    for costs, label in (
        ("logged", "as logged"),
        ("holdtrue on CPU", "our own, on two CPU cores"),
        ("slow resizes", "slow resizes, as a checkpoint and a restart"),
    ):
        found = _found("medium20_12jph", costs)
        changes = [
            f"{_change(found['wfs'][c], found['priority'][c]):+.1f} %" for c in COLUMNS["medium20_12jph"][:3]
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
    "logged-costs": logged_costs,
    "baseline": baseline,
    "scaling": scaling,
    "fitted": fitted,
    "own-costs": own_costs,
    "absolute": absolute,
    "gavel": gavel,
    "published-mix": published_mix,
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
