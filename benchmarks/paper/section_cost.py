"""The section on what virtual nodes cost, with and without its raw file. Pure."""

import published
from tables import Raw, mib, table


def cost_section(raw: Raw | None) -> list[str]:
    """Throughput and memory by virtual nodes, or that they are not yet measured."""
    title = "## Throughput and peak memory by number of virtual nodes"
    if raw is None:
        return [title, "Ours: **not yet measured.**", *_published_cost()]
    models = " and ".join(
        f"the {result['model']} at {result['virtual_node_batch']} examples" for result in raw["results"]
    )
    return [
        title,
        "Raw: [paper-cost.json](../../benchmarks/raw/paper-cost.json).",
        (
            f"One worker against the plain loop at the batch of one virtual node ({models}; AdamW): median "
            f"(lowest..highest) of {raw['results'][0]['rounds']} interleaved rounds, examples per second as a ratio, "
            f"above 1 is faster. More virtual nodes take fewer updates for the same examples. Memory: ratio of peak "
            f"resident memory (VmHWM) in fresh processes, Python and torch included in both."
        ),
        *(_cost_table(result) for result in raw["results"]),
        *_published_cost(),
    ]


def _cost_table(result: Raw) -> str:
    rows = [["plain", "1", "1", mib(result["plain"]["peak_bytes"]["median"])]]
    for row in result["rows"]:
        ratio = row["throughput_ratio"]
        throughput = f"{ratio['median']:.3f} ({ratio['min']:.3f}..{ratio['max']:.3f})"
        memory = f"{row['memory_ratio']:.3f}"
        rows.append([str(row["virtual_nodes"]), throughput, memory, mib(row["peak_bytes"]["median"])])
    return table([f"{result['model']}: virtual nodes", "throughput", "memory", "peak MiB"], rows)


def _published_cost() -> list[str]:
    head = ["VirtualFlow: virtual nodes", *published.THROUGHPUT_RATIO]
    rows = [
        [str(V), *(f"{ratios[i]:.2f}" for ratios in published.THROUGHPUT_RATIO.values())]
        for i, V in enumerate(published.COST_VIRTUAL_NODES)
    ]
    memory = ["peak memory", *(f"{low:.2f}..{high:.2f}" for low, high in published.MEMORY_RATIO.values())]
    return [
        "VirtualFlow's, on one RTX 2080 Ti against plain TensorFlow at its largest batch, throughput as a ratio:",
        table(head, [*rows, memory]),
    ]
