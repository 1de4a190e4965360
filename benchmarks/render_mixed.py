"""Writes docs/results/mixed-devices.md from the raw files of mixed_devices.py: no figure is typed.

python benchmarks/render_mixed.py
"""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RAW = ROOT / "benchmarks" / "raw"
PAGE = ROOT / "docs" / "results" / "mixed-devices.md"
NOT_MEASURED = (
    "## One of two workers held to a part of a core",
    "",
    "Not measured yet: `python benchmarks/mixed_devices.py throttle` does it.",
)


def read(name: str) -> dict[str, Any]:
    """One raw file."""
    found: dict[str, Any] = json.loads((RAW / f"{name}.json").read_text())
    return found


def row(*cells: object) -> str:
    """One line of a table."""
    return "| " + " | ".join(map(str, cells)) + " |"


def conditions(raw: dict[str, Any]) -> str:
    """How a raw file was measured, in a sentence."""
    v = raw["versions"]
    return f"`{raw['command']}`, {raw['date']}, {raw['device']['cpu']}, {raw['device']['cores']} cores, torch {v['torch']}."


def predictions(raw: dict[str, Any]) -> list[str]:
    """Predicted against measured step times."""
    profiles = [one["profile"]["devices"]["cpu"] for one in raw["rounds"]]
    fixed, exchange, lone = (
        ", ".join(f"{scale * p[name]:.2f}" for p in profiles)
        for scale, name in ((1e3, "fixed_seconds"), (1e3, "exchange_latency_seconds"), (1.0, "lone_factor"))
    )
    singles = ", ".join(f"{100 * one['mean_error']:.1f} %" for one in raw["rounds"])
    lines = [
        "## Predicted against measured step time",
        "",
        "A convolutional network, global batch 256, profiled by `holdtrue profile` on two CPU workers and then run on mappings",
        f"that the profile has not seen: {len(raw['rounds'])} round(s), each with its own profile. A run is the median of",
        f"{raw['steps']} steps, and the table has medians over rounds. The machine is shared: what else runs shows in the",
        f"range of the rounds, and in their profiles: fixed part {fixed} ms, exchange {exchange} ms, lone factor {lone}.",
        "",
        row("V", "mapping", "predicted ms", "measured ms (least..most round)", "error"),
        row(*["---"] * 5),
    ]
    for r in raw["rows"]:
        m = r["measured_s"]
        spread = f"{1e3 * m['median']:.1f} ({1e3 * m['min']:.1f}..{1e3 * m['max']:.1f})"
        lines.append(
            row(
                r["virtual_nodes"],
                r["mapping"],
                f"{1e3 * r['predicted_s']:.1f}",
                spread,
                f"{100 * r['error']:+.1f} %",
            )
        )
    return [
        *lines,
        "",
        f"**Mean error {100 * raw['mean_error']:.1f} %** over {len(raw['rows'])} mappings; the target is under 5 %.",
        f"Of single rounds: {singles}.",
        "",
        conditions(raw) + " Raw: [mixed_predict.json](../../benchmarks/raw/mixed_predict.json).",
        "",
    ]


def throttle(raw: dict[str, Any]) -> list[str]:
    """One of two workers held to a part of a core."""
    lines = [
        f"## One of two workers held to {100 * raw['part']:.0f} % of a core",
        "",
        f"By {raw['how']}. The solved mapping is the solver's answer to the pass times that the two workers measured in the",
        "even split; ideal is what both reach alone, added up.",
        "",
        row("", "mapping", "examples/s", "over ideal"),
        row(*["---"] * 4),
    ]
    ideal = raw["ideal_examples_per_s"]
    result = (
        f"Solved over ideal **{raw['solved_over_ideal']:.2f}** (target 0.90), solved over even "
        f"**{raw['solved_over_even']:.2f}** (target 1.55)."
    )
    names = {
        "alone": "the free worker alone",
        "alone throttled": "the held worker alone",
        "even": "even split",
        "solved": "solved mapping",
    }
    for name, title in names.items():
        mappings = " and ".join(sorted({run["mapping"] for run in raw["runs"][name]}))
        rate = raw["examples_per_s"][name]
        lines.append(row(title, mappings, f"{rate:.0f}", f"{100 * rate / ideal:.0f} %"))
    return [
        *lines,
        row("ideal", "", f"{ideal:.0f}", "100 %"),
        "",
        result,
        "",
        conditions(raw) + " Raw: [mixed_throttle.json](../../benchmarks/raw/mixed_throttle.json).",
        "",
        "What is not measured yet: a throttle that moves from one worker to the other while the job runs. The decision is there",
        "(`holdtrue.solve.decide_mapping`, tested on scripted times); a running job does not act on it.",
    ]


def page() -> str:
    """The whole page."""
    lines = [
        "# Unequal devices, measured",
        "",
        "[The guide](../guide/mixed-devices.md) says how to use it. This page is written by `benchmarks/render_mixed.py`.",
        "",
        *predictions(read("mixed_predict")),
        *(throttle(read("mixed_throttle")) if (RAW / "mixed_throttle.json").exists() else NOT_MEASURED),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
