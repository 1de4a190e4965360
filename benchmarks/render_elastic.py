"""Writes docs/results/elastic.md from elastic.json, control_plane.json and soak.json in benchmarks/raw: no figure is typed.

python benchmarks/render_elastic.py
"""

from typing import Any

from raw_pages import conditions, read, row, verdict, write

KILL_TARGET_S = 2.0
RATIO_TARGET = 20.0
DECISION_TARGET_S = 0.1
LEAST_ROUNDS = 5


def seconds(r: dict[str, Any]) -> str:
    """Median and spread, in seconds."""
    return f"{r['median']:.3f} s ({r['min']:.3f}..{r['max']:.3f})"


def times(r: dict[str, Any]) -> str:
    """Median and spread of a ratio."""
    return f"{r['median']:.1f} x ({r['min']:.1f}..{r['max']:.1f})"


def pauses(raw: dict[str, Any]) -> list[str]:
    """Planned changes."""
    lines = [
        "## Growing and shrinking",
        "",
        f"A perceptron with AdamW, {raw['state_bytes'] / 1e6:.0f} MB of state. The pause is what a worker that stays loses: from",
        "the end of a step to the start of the next, seen by the training script; the new state's digest is compared within it.",
        "The allowance is one median step + 0.3 s + the state's bytes at the bandwidth of gloo over loopback, which was",
        f"{raw['bandwidth_bytes_per_s']['median'] / 1e6:.0f} MB/s in the same run; each change is held against its own",
        "allowance, and the verdict is on the median.",
        "",
        row("change", "pause", "allowed", "pause / allowed", "step", "target"),
        row(*["---"] * 6),
    ]
    for name, words in (("grow", "1 -> 2 workers"), ("shrink", "2 -> 1 workers")):
        r = raw["results"][name]
        of = r["of_allowed"]
        lines.append(
            row(
                words,
                seconds(r["pause_s"]),
                f"{r['allowed_s']['median']:.3f} s",
                f"{of['median']:.2f} ({of['min']:.2f}..{of['max']:.2f})",
                f"{r['step_s']['median'] * 1e3:.0f} ms",
                verdict(of["median"] <= 1),
            )
        )
    grow = raw["results"]["grow"]["asked_to_start_s"]
    return [
        *lines,
        "",
        "A new worker's process starts, imports and builds its model while the others train: from the request to the first step",
        f"with it took {seconds(grow)}. VirtualFlow's own runs took 67 s to grow, with the old workers training on, and 0.7 s",
        "to shrink, on GPUs and larger models; checkpoint-restart systems measured 25 to 250 s (other machines, for scale only).",
        "",
    ]  # fmt: skip


def kills(raw: dict[str, Any]) -> list[str]:
    """Deaths."""
    lines = [
        "## A killed worker",
        "",
        "One of two workers gets SIGKILL at a random moment of a step, the main worker in every other round; until the survivor",
        "has completed the step, the dead worker's passes included.",
        "",
        row("model", "kill to next completed step", "step before", f"target: {KILL_TARGET_S:.0f} s"),
        row(*["---"] * 4),
    ]
    for name, words in (("kill big", f"{raw['state_bytes'] / 1e6:.0f} MB of state"), ("kill small", "small")):
        r = raw["results"][name]
        lines.append(
            row(
                words,
                seconds(r["kill_to_step_s"]),
                f"{r['step_s']['median'] * 1e3:.1f} ms",
                verdict(r["kill_to_step_s"]["max"] <= KILL_TARGET_S),
            )
        )
    return [*lines, "", "The verdict is on the slowest round.", ""]


def against(raw: dict[str, Any]) -> list[str]:
    """Against torchrun."""
    r = raw["results"]
    t = r["torchrun"]
    lines = [
        "## Against torchrun's restart from a checkpoint",
        "",
        "`torchrun --nnodes=1:2`, two agents with one worker each, DistributedDataParallel over gloo, the same model. One worker",
        "is killed just after a checkpoint, so that no work is repeated; elsewhere the restart also loses the steps since the",
        "last one. Growing and shrinking are held against the time from the kill to the start of torchrun's next step, a kill",
        f"against the time to its end. Ratios are taken within a round; the target is {RATIO_TARGET:.0f} x for the median.",
        "",
        row("interruption", "holdtrue", "torchrun", "torchrun / holdtrue", "target"),
        row(*["---"] * 5),
    ]
    for words, mine, theirs, ratio in (
        ("grow", r["grow"]["pause_s"], t["kill_to_start_s"], r["grow"]["restart_over_pause"]),
        ("shrink", r["shrink"]["pause_s"], t["kill_to_start_s"], r["shrink"]["restart_over_pause"]),
        ("kill", r["kill big"]["kill_to_step_s"], t["kill_to_step_s"], r["kill big"]["restart_over_kill"]),
    ):
        lines.append(
            row(words, seconds(mine), seconds(theirs), times(ratio), verdict(ratio["median"] >= RATIO_TARGET))
        )
    return [*lines, "", f"{conditions(raw)} [Raw](../../benchmarks/raw/elastic.json)", ""]


def control_plane(raw: dict[str, Any]) -> list[str]:
    """The controller under load."""
    r, rate = raw["results"], raw["settings"]["rate"]
    lines = [
        "## The controller",
        "",
        f"{raw['settings']['workers']} simulated workers join and leave at random, {rate:.0f} requests a second; the service",
        "has one core. From a request to hearing its decision; the target is 100 ms at the 99th percentile in every repeat.",
        "",
        row("percentile", "median of repeats", "slowest repeat", "target"),
        row(*["---"] * 4),
    ]
    for name in ("p50", "p90", "p99", "max"):
        target = verdict(r[name]["max"] < DECISION_TARGET_S) if name == "p99" else ""
        lines.append(row(name, f"{r[name]['median'] * 1e3:.1f} ms", f"{r[name]['max'] * 1e3:.1f} ms", target))
    return [*lines, "", f"{conditions(raw)} [Raw](../../benchmarks/raw/control_plane.json)", ""]


def soak(raw: dict[str, Any]) -> list[str]:
    """Random faults of real jobs."""
    by_kind = raw["by_kind_and_phase"]
    kills_by_phase = {k.removeprefix("SIGKILL/"): n for k, n in by_kind.items() if k.startswith("SIGKILL/")}
    at_any_moment, controllers = kills_by_phase.pop("any", 0), kills_by_phase.pop("controller", 0)
    stops = sum(n for k, n in by_kind.items() if k.startswith("SIGSTOP/"))
    found = "none" if not raw["failures"] else f"**{len(raw['failures'])}**"
    scripted, resizes = sum(kills_by_phase.values()), by_kind.get("resizes", 0)
    phases = ", ".join(f"{k} {n}" for k, n in sorted(kills_by_phase.items(), key=lambda item: -item[1]))
    return [
        "## Random faults",
        "",
        f"`{raw['command']}` with seed {raw['seed']}: {raw['jobs']} jobs of {raw['steps_of_a_job']} steps",
        "(batch norm, dropout, AdamW, an EMA, evaluation, checkpoints) on 2 to 4 workers, disturbed until",
        f"{raw['faults']} processes had been killed or stopped: {scripted} workers killed themselves in the phase that they",
        f"were told, {at_any_moment} were killed and {stops} stopped with SIGSTOP at any moment, {controllers} controllers were",
        f"killed; {resizes} resizes besides.",
        "The digest and loss of every step, the saved weights, the processes of the survivors and the count of",
        "the code after `update` were compared with one undisturbed worker.",
        f"Differences: {found}.",
        "",
        f"By phase: {phases}.",
        "",
        f"{raw['device']}, torch {raw['versions']['torch']}, {raw['wall_s'] / 60:.0f} minutes, other work beside it.",
        "[Raw](../../benchmarks/raw/soak.json)",
        "",
    ]


def page() -> str:
    """The whole page."""
    elastic = read("elastic")
    if elastic["rounds"] < LEAST_ROUNDS:
        raise SystemExit(
            f"the raw file has {elastic['rounds']} rounds; the page shows {LEAST_ROUNDS} or more. Measure the rest: "
            f"python benchmarks/elastic.py --add benchmarks/raw/elastic.json --out benchmarks/raw/elastic.json"
        )
    lines = [
        "# Elastic membership, measured",
        "",
        "Made by `python benchmarks/render_elastic.py` from the raw files: medians, with the smallest and largest in brackets.",
        f"{elastic['rounds']} rounds, holdtrue and torchrun in turn on one machine. Its two cores are shared by two workers, a",
        "joiner's start, the launcher and the controller.",
        "",
        *pauses(elastic),
        *kills(elastic),
        *against(elastic),
        *control_plane(read("control_plane")),
        *soak(read("soak")),
        "GPU: not measured.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    write("elastic.md", page())
