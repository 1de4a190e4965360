"""Writes docs/results/portable.md from the raw files of learning.py, numerics.py and exhaustive.py: no figure is typed.

python benchmarks/render_portable.py
"""

from typing import Any

from raw_pages import conditions, read, row, write

TARGETS = {
    "1024x1024x1024, 4 slices": 1.4,
    "1024x1024x1024, 3 slices": 0.9,
    "32x784x128, 4 slices": 3.0,
    "128 of 64x32x64, 4 slices": 3.0,
    "sum of rows": 1.2,
    "sum of columns": 1.2,
    "exp": 1.2,
    "cnn, 16 images of 28x28": 4.0,
    "transformer, width 64, 2 layers, 8 sequences of 64": 4.0,
    "transformer, width 256, 2 layers, 8 sequences of 64": 2.3,
}
"""Largest ratios that the first plan wanted."""
WITHOUT_VNNI = dict.fromkeys(
    ("1024x1024x1024, 4 slices", "32x784x128, 4 slices", "128 of 64x32x64, 4 slices"), 6.0
)
"""The same for products without VNNI."""


def time_ratio(levels: dict[str, Any]) -> float:
    """Seconds of all seeds with portable arithmetic over those with float32."""
    own, torchs = (sum(run["seconds"] for run in levels[name]["runs"]) for name in ("portable", "float32"))
    return float(own / torchs)


def learning_row(name: str, levels: dict[str, Any]) -> str:
    """One training in a line."""
    own, torchs = levels["portable"]["summary"], levels["float32"]["summary"]
    accuracies = [f"{s['accuracy_mean']:.4f} ± {s['accuracy_deviation']:.4f}" for s in (own, torchs)]
    losses = [f"{s['loss_mean']:.4f}" for s in (own, torchs)]
    steps = levels["portable"]["runs"][0]["steps"]
    return row(name, steps, *accuracies, *losses, f"{time_ratio(levels):.1f}")


def is_within_spread(levels: dict[str, Any]) -> bool:
    """Whether the means are no further apart than the seeds of one level are."""
    own, torchs = levels["portable"]["summary"], levels["float32"]["summary"]
    apart = abs(own["accuracy_mean"] - torchs["accuracy_mean"])
    return bool(apart <= max(own["accuracy_deviation"], torchs["accuracy_deviation"]))


def learning(raw: dict[str, Any]) -> list[str]:
    """Accuracy and loss by both arithmetics."""
    beyond = [name for name, levels in raw["trainings"].items() if not is_within_spread(levels)]
    said = (
        f"not within the spread of the seeds: {', '.join(beyond)}"
        if beyond
        else "within the spread of the seeds"
    )
    return [
        "## Learning is " + ("harmed" if beyond else "not harmed"),
        "",
        "The [reference trainings](../../src/holdtrue/reference/__init__.py) whole, by portable arithmetic and by torch's own",
        f"float32, with {raw['seeds']} seeds (initial weights, order of the data, dropout). Accuracy is of unseen examples, mean",
        "and standard deviation; the loss is the mean of the last 20 steps; the time is that of the steps of all seeds,",
        "portable over float32, by the clock on a machine that was shared.",
        "",
        conditions(raw) + " Raw: [learning.json](../../benchmarks/raw/learning.json).",
        "The kernels have become quicker since, with the same bits: times of steps as they are now are [below](#speed).",
        "",
        row(
            "training", "steps", "accuracy, portable", "accuracy, float32", "loss, portable", "loss, float32",
            "time, portable / float32",
        ),
        row(*["---"] * 7),
        *(learning_row(name, levels) for name, levels in raw["trainings"].items()),
        "",
        f"Each difference of mean accuracy is {said}. The labels of an eighth of the LSTM's words, and a quarter of the",
        "transformer's symbols, are random: no model can have them right.",
        "",
    ]  # fmt: skip


def speed_rows(raw: dict[str, Any], targets: dict[str, float]) -> list[str]:
    """Ratios of operators and steps, with what was wanted."""
    found = {
        name: value for part in ("products", "elementwise", "steps") for name, value in raw[part].items()
    }
    met = [name for name, target in targets.items() if found[name]["ratio"] <= target]
    missed = [name for name in targets if name not in met]
    return [
        row("what", "ratio", "smallest and largest", "target of the first plan"),
        row(*["---"] * 4),
        *(
            row(
                name,
                f"{value['ratio']:.2f}",
                f"{value['ratios']['min']:.2f}..{value['ratios']['max']:.2f}",
                f"{targets[name]:g}" if name in targets else "",
            )
            for name, value in found.items()
        ),
        "",
        f"Met: {'; '.join(met) or 'none'}.",
        f"Missed: {'; '.join(missed) or 'none'}.",
    ]


def speed(raw: dict[str, Any], without_vnni: dict[str, Any]) -> list[str]:
    """What it costs on this processor, and on one that ends at AVX2."""
    processes = len(raw["products"]["256x256x256, 4 slices"]["ratios"]["values"])
    return [
        "## Speed",
        "",
        "Ratio of the time to that of ordinary float32 on the same thread (seconds of the process on its one thread, lower",
        "quartiles of runs in turns: the machine was shared). A step is a pass and an update of AdamW.",
        f"The ratio is the median of {processes} processes, one after the other, with the smallest and the largest.",
        "",
        f"Engine `{raw['engine']}`. " + conditions(raw) + " Raw: [numerics.json](../../benchmarks/raw/numerics.json).",
        "",
        *speed_rows(raw, TARGETS),
        "",
        "Why large products cannot reach their targets with this definition is in",
        "[the design](../design/0040-portable-numerics.md). Small products pay for cutting into digits, for rounding and for",
        "calls from Python. On CUDA nothing has been measured.",
        "",
        "### Without VNNI",
        "",
        "The same machine, where our kernels and torch's (also MKL's and oneDNN's) were told to use nothing beyond AVX2.",
        "",
        f"Engine `{without_vnni['engine']}`. "
        + conditions(without_vnni)
        + " Raw: [numerics_avx2.json](../../benchmarks/raw/numerics_avx2.json).",
        "",
        *speed_rows(without_vnni, WITHOUT_VNNI),
    ]  # fmt: skip


def every_input(raw: dict[str, Any]) -> list[str]:
    """What the tests over all float32 inputs said, by kind of test."""
    kinds = {
        "test_the_results_for_every_float32_have_the_committed_hash": "the committed hash of the results, all inputs",
        "test_a_function_is_within_an_ulp_for_every_float32": "within 1 ulp of the correctly rounded result, all inputs",
        "test_torch_operations_alone_have_the_same_results": "the same bits without compiled kernels, one input of sixteen",
    }
    found: dict[str, list[str]] = {kind: [] for kind in kinds}
    for name, test in raw["tests"].items():
        kind, _, function = name.removesuffix("]").partition("[")
        found[kind].append(
            f"`{function}`" + ("" if test["outcome"] == "passed" else f" **{test['outcome']}**")
        )
    seconds = {
        kind: sum(t["seconds"] for n, t in raw["tests"].items() if n.startswith(kind)) for kind in kinds
    }
    return [
        "",
        "## Every float32 input",
        "",
        f"{raw['passed']} of {raw['selected']} tests passed in one run of {raw['wall_s'] / 60:.0f} minutes on one core,",
        f"engine `{raw['engine']}`. An input is each of the 2^32 bit patterns; left out are `sin` and `cos` from 2^27 on, where",
        "they have no answer, and minus infinity for `silu` and `gelu`. The true values are torch's, in float64, rounded once.",
        "",
        conditions(raw) + " Raw: [exhaustive.json](../../benchmarks/raw/exhaustive.json).",
        "",
        row("what", "functions", "seconds"),
        row(*["---"] * 3),
        *(row(said, ", ".join(found[kind]), f"{seconds[kind]:.0f}") for kind, said in kinds.items()),
    ]  # fmt: skip


def page() -> str:
    """The whole page."""
    lines = [
        "# Portable numerics: learning and speed",
        "",
        "[The guide](../guide/portable.md) says how to use it. This page is written by `benchmarks/render_portable.py`.",
        "",
        *learning(read("learning")),
        *speed(read("numerics"), read("numerics_avx2")),
        *every_input(read("exhaustive")),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    write("portable.md", page())
