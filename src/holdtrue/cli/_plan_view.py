"""What `holdtrue plan` prints: a screen, or JSON."""

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import groupby

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from holdtrue.profile import Profile
from holdtrue.solve import Answer, Recommendation, WorkerPrediction
from holdtrue.units import format_bytes, format_ids
from holdtrue.wire import escape_text


def show_text(text: str) -> str:
    """A text of a file as rich prints it: no markup, no control characters.

    >>> show_text("net[v2]")
    'net\\\\[v2]'
    """
    return escape(escape_text(text))


_SHOWN = 160  # characters of a mapping on the screen; --json has all


def format_passes(worker: WorkerPrediction) -> str:
    """Passes of a worker as `8 x 256`; fused ones say so.

    >>> from holdtrue.solve import WorkerPrediction
    >>> format_passes(WorkerPrediction(rank=0, kind="a", virtual_nodes=3, passes=(32, 16), seconds=1.0,
    ...                                memory_bytes=None, contributions=1))
    '1 x 32 + 1 x 16, fused'
    """
    if not worker.passes:
        return "-"
    text = " + ".join(f"{count} x {size}" for size, count in Counter(worker.passes).items())
    return text + (", fused" if len(worker.passes) < worker.virtual_nodes else "")


def _groups(answer: Answer) -> Iterator[tuple[str, list[WorkerPrediction]]]:
    """Workers of one kind with the same work, named `kind:ranks`, in order of first rank."""
    workers = answer.prediction.workers
    start = {kind: min(w.rank for w in workers if w.kind == kind) for kind in {w.kind for w in workers}}

    def work(worker: WorkerPrediction) -> tuple[int, int, int, int]:
        return start[worker.kind], -worker.virtual_nodes, worker.memory_bytes or 0, worker.contributions

    for _, same in groupby(sorted(workers, key=work), key=work):
        found = list(same)
        numbers = tuple(sorted(worker.rank - start[found[0].kind] for worker in found))
        yield f"{found[0].kind}:{format_ids(numbers)}", found


def _table(found: Recommendation, profile: Profile, limits: Mapping[str, int]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("devices")
    for title in ("virtual nodes", "passes", "seconds", "busy", "memory"):
        table.add_column(title, justify="right")
    step_s = found.answer.step_s
    standbys = {idle.kind for idle in found.idle if idle.standby}
    for name, workers in _groups(found.answer):
        worker = workers[0]
        limit = limits.get(worker.kind, profile.device(worker.kind).memory_bytes)
        memory = "not measured" if worker.memory_bytes is None else format_bytes(worker.memory_bytes)
        if worker.memory_bytes is not None and limit is not None:
            memory += f" of {format_bytes(limit)}"
        if not worker.virtual_nodes:
            table.add_row(
                name, "none", "-", "-", "standby" if worker.kind in standbys else "idle", "-", style="dim"
            )
            continue
        busy = f"{100 * worker.seconds / step_s:.0f} %"
        each = f"{worker.virtual_nodes}" + (" each" if len(workers) > 1 else "")
        table.add_row(name, each, format_passes(worker), f"{worker.seconds:.4g}", busy, memory)
    return table


def _lines(found: Recommendation) -> Iterator[tuple[str, str]]:
    """Label and text of each line below the table."""
    prediction, answer = found.answer.prediction, found.answer
    exchange = (
        f"exchange {prediction.exchange_s:.4g} s" if prediction.exchange_s else "no charge for the exchange"
    )
    yield "step", f"{prediction.step_s:.4g} s: slowest device {prediction.compute_s:.4g} s, {exchange}"
    yield "throughput", f"{prediction.examples_per_s:.5g} examples/s"
    text = str(answer.mapping)
    yield "mapping", text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... (--json has all)"
    for one in found.one_type:
        speed = (
            f"{one.answer.prediction.examples_per_s:.5g} examples/s"
            if one.answer
            else "cannot hold the batch"
        )
        with_v = f" with {one.answer.plan.virtual_nodes} virtual nodes" if one.answer else ""
        yield f"{one.kind}:{one.count} alone", speed + with_v
    if found.gain is not None and len(found.one_type) > 1:
        yield "gain", f"{100 * (found.gain - 1):+.1f} % over the best one-type choice"
    if found.runner_up is not None:
        yield "runner-up", f"{found.runner_up.name}: {found.runner_up.reason}"
    for idle in found.idle:
        yield ("standby" if idle.standby else "idle"), f"{idle.count} x {idle.kind}: {idle.reason}"
    if found.fast_examples_per_s is not None:
        extra = 100 * (found.fast_examples_per_s / prediction.examples_per_s - 1)
        if extra > 0.05:
            price = f"--fast would reach {found.fast_examples_per_s:.5g} examples/s ({extra:+.1f} %)"
            yield "fixed shapes", f"{price} by fusing virtual nodes, without the promise about bits"


def show_recommendation(found: Recommendation, profile: Profile, limits: Mapping[str, int]) -> None:
    """Print the recommendation to stdout."""
    answer = found.answer
    console = Console(highlight=False, emoji=False)
    console.print(
        f"global batch {answer.plan.global_batch_size} = [bold]{answer.plan.virtual_nodes} virtual nodes x "
        f"{answer.largest_pass}[/bold] · numerics {answer.plan.numerics} · {show_text(profile.model_name)} · "
        f"torch {show_text(profile.torch_version)}"
    )
    console.print(_table(found, profile, limits))
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column()
    for label, text in _lines(found):
        grid.add_row(label, text)
    console.print(grid)


def _describe_answer(answer: Answer) -> dict[str, object]:
    prediction = answer.prediction
    return {
        "virtual_nodes": answer.plan.virtual_nodes,
        "virtual_node_batch_size": answer.largest_pass,
        "mapping": str(answer.mapping),
        "step_seconds": prediction.step_s,
        "compute_seconds": prediction.compute_s,
        "exchange_seconds": prediction.exchange_s,
        "examples_per_second": prediction.examples_per_s,
        "contributions": prediction.contributions,
        "workers": len(prediction.busy),
    }


def describe_json(found: Recommendation, profile: Profile) -> dict[str, object]:
    """The recommendation as JSON values."""
    runner_up, plan = found.runner_up, found.answer.plan
    return {
        "format": "holdtrue.plan",
        "version": 1,
        "model": profile.model_name,
        "torch": profile.torch_version,
        "numerics": plan.numerics,
        "global_batch_size": plan.global_batch_size,
        **_describe_answer(found.answer),
        "devices": [
            {
                "rank": worker.rank,
                "kind": worker.kind,
                "virtual_nodes": worker.virtual_nodes,
                "passes": list(worker.passes),
                "seconds": worker.seconds,
                "memory_bytes": worker.memory_bytes,
                "contributions": worker.contributions,
            }
            for worker in found.answer.prediction.workers
        ],
        "one_type": [
            {
                "kind": one.kind,
                "count": one.count,
                "answer": _describe_answer(one.answer) if one.answer else None,
            }
            for one in found.one_type
        ],
        "gain": found.gain,
        "runner_up": None
        if runner_up is None
        else {
            "name": runner_up.name,
            "reason": runner_up.reason,
            "answer": _describe_answer(runner_up.answer),
        },
        "idle": [
            {"kind": idle.kind, "count": idle.count, "standby": idle.standby, "reason": idle.reason}
            for idle in found.idle
        ],
        "fast_examples_per_second": found.fast_examples_per_s,
    }
