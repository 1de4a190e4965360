"""Writes docs/results/speed.md from the raw files of overhead, ddp, memory, startup: no figure is typed.

python benchmarks/render_speed.py
"""

from typing import Any

from raw_pages import conditions, ratio, read, row, write


def overhead(raw: dict[str, Any]) -> list[str]:
    """One worker against the plain loop and Accelerate."""
    lines = [
        "## One worker",
        "",
        "Against a hand-written gradient-accumulation loop and against Accelerate's, the same passes, data loading included;",
        "one thread; rounds interleaved, in several processes one after the other. The target is 1.03 x the plain loop where a",
        "pass takes 20 ms or more, at most 60 us of",
        "bookkeeping a pass below, and 1.00 x Accelerate. The bare loop is the plain one without a DataLoader: its batches are",
        "gathered from the data set's tensors by hand; nothing was promised against it.",
        "",
        row(
            "model",
            "pass, plain",
            "holdtrue / plain",
            "bookkeeping a pass",
            "holdtrue / Accelerate",
            "over the bare loop, a pass",
            "processes x rounds",
        ),
        row(*["---"] * 7),
    ]
    for r in raw["results"]:
        us, bare = r["bookkeeping_per_pass_us"], r.get("over_bare_per_pass_us")
        lines.append(
            row(
                r["model"],
                f"{r['pass_s_plain']['median'] * 1e3:.2f} ms",
                ratio(r["ratio_to_plain"]),
                f"{us['median']:.0f} us ({us['min']:.0f}..{us['max']:.0f})"
                if r["pass_s_plain"]["median"] < 0.02
                else "",
                ratio(r["ratio_to_accelerate"]),
                f"{bare['median']:.0f} us ({bare['min']:.0f}..{bare['max']:.0f})" if bare else "",
                f"{r['processes']} x {r['rounds']}",
            )
        )
    return [*lines, "", f"{conditions(raw)} [Raw](../../benchmarks/raw/overhead.json)", ""]


def ddp(raw: dict[str, Any]) -> list[str]:
    """Two workers against DistributedDataParallel."""
    lines = [
        "## Two workers",
        "",
        "Against DistributedDataParallel with `no_sync` accumulation over gloo, the same passes; both processes hold both loops",
        "and run them in turn. With V = 7 one worker has 4 passes of a step and the other 3. The target is",
        "1.00 x within the spread for V = 8 and 1.05 x for V = 7.",
        "",
        row("model", "V", "DDP step", "holdtrue / DDP", "rounds"),
        row(*["---"] * 5),
    ]
    lines += [
        row(
            r["model"],
            r["virtual_nodes"],
            f"{r['step_s']['ddp']['median'] * 1e3:.1f} ms",
            ratio(r["ratio"]),
            r["rounds"],
        )
        for r in raw["results"]
    ]
    return [*lines, "", f"{conditions(raw)} [Raw](../../benchmarks/raw/ddp.json)", ""]


def memory(raw: dict[str, Any]) -> list[str]:
    """Peak memory of a global batch of 4096."""
    mib = 2**20
    lines = [
        "## Memory",
        "",
        f"A global batch of {raw['global_batch_size']} on {raw['virtual_nodes']} virtual nodes. The plain loop at the",
        f"batch of one virtual node takes {raw['plain']['median'] / mib:.0f} MiB, a plain pass of the whole batch takes",
        f"{raw['whole_batch_bytes'] / mib:.0f} MiB, and a gradient is {raw['gradient_bytes'] / mib:.0f} MiB.",
        "The bound is 1.15 x the plain loop plus the buffers of the ordered reduction.",
        "",
        row("workers", "peak per worker", "of plain", "bound", "of bound"),
        row(*["---"] * 5),
    ]
    for r in raw["results"]:
        lines.append(
            row(
                r["workers"],
                f"{r['worst']['max'] / mib:.0f} MiB",
                f"{r['ratio_to_plain']:.2f}",
                f"1.15 x plain + {r['allowed_gradient_buffers']} gradients = {r['bound_bytes'] / mib:.0f} MiB",
                f"{r['of_bound']:.2f}",
            )
        )
    return [*lines, "", f"{conditions(raw)} [Raw](../../benchmarks/raw/memory.json)", ""]


def startup(raw: dict[str, Any]) -> list[str]:
    """Import and help."""
    lines = ["## Start-up", "", row("", "median", "spread", "above bare Python"), row(*["---"] * 4)]
    lines += [
        row(name, f"{r['median']:.3f} s", f"{r['min']:.3f}..{r['max']:.3f}", f"{r['above_python_s']:.3f} s")
        for name, r in raw["results"].items()
    ]
    return [*lines, "", f"{conditions(raw)} [Raw](../../benchmarks/raw/startup.json)", ""]


def page() -> str:
    """The whole page."""
    lines = [
        "# Speed and memory",
        "",
        "Made by `python benchmarks/render_speed.py` from the raw files: medians, with the smallest and largest round in",
        "brackets. The machine is shared and noisy: ratios are taken within a round, and a wide spread says that it was",
        "disturbed. Where a target is not reached yet, the table shows it.",
        "",
        *overhead(read("overhead")),
        *ddp(read("ddp")),
        *memory(read("memory")),
        *startup(read("startup")),
        "GPU: not yet measured (`benchmarks/gpu/run.sh`).",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    write("speed.md", page())
