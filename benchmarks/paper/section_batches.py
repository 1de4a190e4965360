"""The section on global batches beyond a memory limit: every figure and sentence from its raw file. Pure."""

import published
from tables import Raw, listed, mib, scores_by, table


def batches_section(raw: Raw) -> list[str]:
    """Accuracy and memory by global batch, and VirtualFlow's exploration."""
    return [
        "## Global batches beyond a memory limit",
        "Raw: [paper-batches.json](../../benchmarks/raw/paper-batches.json).",
        (
            f"One worker, virtual nodes of {raw['virtual_node_batch']}; learning rate {raw['lr_at_256']:g} at 256, "
            f"scaled by the {raw['rule']} of the batch; {len(raw['seeds'])} seeds, equal epochs. Peak resident memory "
            f"(VmHWM) in MiB: of holdtrue's worker over its whole life, the highest of the seeds, and of a plain loop "
            f"that takes the whole batch in one pass."
        ),
        _batches_table(raw),
        _limit_sentence(raw),
        _noise_sentence(raw),
        _batches_sentence(raw),
        (
            f"VirtualFlow's exploration, BERT-LARGE on RTE with one RTX 2080 Ti (largest plain batch "
            f"{published.RTE_LARGEST_PLAIN}), one run each:"
        ),
        table(
            ["global batch", *(str(batch) for batch in published.RTE)],
            [["accuracy %", *(f"{100 * accuracy:.2f}" for accuracy in published.RTE.values())]],
        ),
        _rte_sentence(),
    ]


def holdtrue_peaks(raw: Raw) -> dict[int, int]:
    """Highest peak bytes of any seed's worker, by global batch."""
    found: dict[int, int] = {}
    for run in raw["results"]:
        batch = run["global_batch_size"]
        found[batch] = max(found.get(batch, 0), *run["peak_bytes"])
    return found


def _batches_table(raw: Raw) -> str:
    rows = []
    for batch, accuracy in scores_by(raw["results"], "global_batch_size").items():
        run = next(run for run in raw["results"] if run["global_batch_size"] == batch)
        plain = raw["plain_peak_bytes"][str(batch)]
        rows.append(
            [
                *(str(batch), str(run["virtual_nodes"]), f"{run['lr']:.3g}", str(run["steps"])),
                accuracy.text(),
                mib(holdtrue_peaks(raw)[batch]),
                mib(plain) + (" (beyond)" if plain > raw["limit_bytes"] else ""),
            ]
        )
    return table(["global batch", "V", "rate", "updates", "accuracy %", "holdtrue", "plain"], rows)


def _limit_sentence(raw: Raw) -> str:
    peaks, limit = holdtrue_peaks(raw), raw["limit_bytes"]
    plain = {int(batch): peak for batch, peak in raw["plain_peak_bytes"].items()}
    low, high = min(peaks), max(peaks)
    over = [batch for batch, peak in peaks.items() if peak > limit]
    largest = f"the largest plain batch is {raw['largest_plain_batch']}"
    if raw["largest_plain_batch"] is None:
        largest = "no largest plain batch was found"
    ours = f"holdtrue trains {high} within it, in {mib(peaks[high])} MiB"
    if over:
        ours = f"holdtrue is over the limit at {listed(over)}"
    return (
        f"**With a limit of {mib(limit)} MiB, a figure that we chose, {largest}. {ours}.** From global batch {low} to "
        f"{high} its peak grows by {mib(peaks[high] - peaks[low])} MiB and the plain loop's by "
        f"{mib(plain[high] - plain[low])}. Python, torch and the images are in both; at batch {low}, where both run the "
        f"same pass, holdtrue has {mib(peaks[low] - plain[low])} MiB more (evaluation, records and its own modules)."
    )


def _noise_sentence(raw: Raw) -> str:
    """How far single measurements of the plain loop can be trusted: where a larger batch took less."""
    peaks = sorted((int(batch), peak) for batch, peak in raw["plain_peak_bytes"].items())
    pairs = [(*peaks[i], *peaks[i + 1]) for i in range(len(peaks) - 1)]
    smaller, high, larger, low = max(pairs, key=lambda pair: pair[1] - pair[3])
    once = "Each figure of the plain loop is one process"
    if high <= low:
        return f"{once}; they rise with the batch throughout."
    return (
        f"{once}, and {smaller} took {mib(high)} MiB where {larger} took {mib(low)}: read differences below "
        f"{mib(high - low)} MiB, and the largest plain batch, as approximate."
    )


def _batches_sentence(raw: Raw) -> str:
    scores = scores_by(raw["results"], "global_batch_size")
    best = max(scores, key=lambda batch: scores[batch].mean)
    worst = min(scores, key=lambda batch: scores[batch].mean)
    return (
        f"The best mean accuracy is at global batch {best} ({100 * scores[best].mean:.2f} %), the lowest at {worst} "
        f"({100 * scores[worst].mean:.2f} %).{_gain_sentence(raw)} At equal epochs a larger batch takes fewer updates; "
        f"the table shows that such batches can be explored on a small device, not that they are better."
    )


def _gain_sentence(raw: Raw) -> str:
    scores = scores_by(raw["results"], "global_batch_size")
    largest = raw["largest_plain_batch"]
    beyond = [batch for batch in scores if largest and batch > largest]
    if not beyond:
        return ""
    top = max(beyond, key=lambda batch: scores[batch].mean)
    within = max((b for b in scores if b not in beyond), key=lambda b: scores[b].mean)
    change = 100 * (scores[top].mean - scores[within].mean)
    return (
        f" The best beyond the limit ({top}) is {abs(change):.2f} points {'above' if change > 0 else 'below'} the "
        f"best within it ({within})."
    )


def _rte_sentence() -> str:
    best = max(published.RTE, key=lambda batch: published.RTE[batch])
    gain = 100 * (published.RTE[best] - published.RTE[published.RTE_LARGEST_PLAIN])
    return (
        f'The paper\'s "+{gain:.1f} points" is batch {best} against {published.RTE_LARGEST_PLAIN}, without seeds; its '
        f"row is as uneven beyond {best} as it rises before."
    )
