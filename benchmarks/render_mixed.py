"""Writes docs/results/mixed-devices.md from the raw files of mixed_devices.py: no figure is typed.

python benchmarks/render_mixed.py
"""

from typing import Any

from raw_pages import conditions, read, row, write


def predictions(raw: dict[str, Any]) -> list[str]:
    """Predicted against measured step times."""
    profiles = [one["profile"]["devices"]["cpu"] for one in raw["rounds"]]
    fixed, exchange, lone = (
        ", ".join(f"{scale * p[name]:.2f}" for p in profiles)
        for scale, name in ((1e3, "fixed_seconds"), (1e3, "exchange_latency_seconds"), (1.0, "lone_factor"))
    )
    singles = ", ".join(f"{100 * error:.1f} %" for error in raw["mean_error_of_rounds"])
    others = [row["others"] for one in raw["rounds"] for row in one["rows"]]
    lines = [
        "## Predicted against measured step time",
        "",
        "A convolutional network, global batch 256, profiled by `holdtrue profile` on two CPU workers and then run on mappings",
        f"that the profile has not seen: {len(raw['rounds'])} round(s), each with its own profile. A run is the median of",
        f"{raw['steps']} steps, and the table has medians over rounds. Others were at work on the machine: in a cgroup of its",
        f"own the benchmark goes before them, and they used {100 * min(others):.0f} to {100 * max(others):.0f} % of the",
        "machine's time beside single runs, their start included.",
        f"In the profiles: fixed part {fixed} ms, exchange {exchange} ms, lone factor {lone}.",
        "",
        row("V", "mapping", "predicted ms", "measured ms (least..most round)", "error"),
        row(*["---"] * 5),
    ]
    for r in raw["rows"]:
        m = r["measured_s"]
        spread = f"{1e3 * m['median']:.1f} ({1e3 * m['min']:.1f}..{1e3 * m['max']:.1f})"
        predicted, error = f"{1e3 * r['predicted_s']:.1f}", f"{100 * r['error']:+.1f} %"
        lines.append(row(r["virtual_nodes"], r["mapping"], predicted, spread, error))
    return [
        *lines,
        "",
        f"**Mean error {100 * raw['mean_error']:.1f} %** over {len(raw['rows'])} mappings; the target is under 5 %.",
        f"Of single rounds: {singles}.",
        "",
        conditions(raw) + " Raw: [mixed_predict.json](../../benchmarks/raw/mixed_predict.json).",
        "",
    ]


NAMES = {
    "alone": "the free worker alone",
    "alone held": "the held worker alone",
    "even": "both, even split (`--no-rebalance`)",
    "re-mapping": "both, virtual nodes moved by the job itself",
}


def throttle(raw: dict[str, Any]) -> list[str]:
    """One of two workers held to a part of a core."""
    first = raw["rounds"][0]
    ideal, rates = raw["ideal_examples_per_s"], raw["examples_per_s"]
    lines = [
        f"## One of two workers held to {100 * first['part']:.0f} % of a core",
        "",
        f"By {first['how']}. {first['virtual_nodes']} virtual nodes, global batch {first['global_batch_size']};",
        f"medians of {len(raw['rounds'])} round(s). The job begins with the even mapping and moves virtual nodes by itself;",
        "in the middle of it the throttle moves to the other worker. Its rate is that of the steps in which mapping and",
        "throttle belong together. Ideal is what both workers reach alone, added up.",
        "",
        row("", "examples/s", "of ideal"),
        row(*["---"] * 3),
        *(
            row(title, f"{rates[name]:.0f}", f"{100 * rates[name] / ideal:.0f} %")
            for name, title in NAMES.items()
        ),
        row("ideal", f"{ideal:.0f}", "100 %"),
        "",
        f"Moved over ideal **{raw['over_ideal']:.2f}** (target 0.90), moved over even **{raw['over_even']:.2f}** (target 1.55).",
        "",
        row("round", "virtual nodes by step", "followed after", "throttle moved in step", "followed after"),
        row(*["---"] * 5),
    ]
    for number, one in enumerate(raw["rounds"], start=1):
        follow = one["follow"]
        mappings = ", ".join(f"{step}: {a}/{b}" for step, a, b in follow["mappings"])
        after = f"{follow['followed_after']} steps"
        lines.append(row(number, mappings, f"{follow['first_after']} steps", follow["moved_in"], after))
    others = [run["others"] for one in raw["rounds"] for run in one["runs"].values()]
    return [
        *lines,
        "",
        f"Others used {100 * min(others):.0f} to {100 * max(others):.0f} % of the machine beside these runs.",
        "",
        conditions(raw) + " Raw: [mixed_throttle.json](../../benchmarks/raw/mixed_throttle.json).",
    ]


def page() -> str:
    """The whole page."""
    lines = [
        "# Unequal devices, measured",
        "",
        "[The guide](../guide/mixed-devices.md) says how to use it. This page is written by `benchmarks/render_mixed.py`.",
        "",
        *predictions(read("mixed_predict")),
        *throttle(read("mixed_throttle")),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    write("mixed-devices.md", page())
