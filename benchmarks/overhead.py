"""One worker against hand-written gradient accumulation and Accelerate: same passes, same data, same optimizer.

    python benchmarks/overhead.py --processes 5 --rounds 9 --out benchmarks/raw/overhead.json

All loops train the same model on the same virtual-node batches in one process, in turn (A B C A B C ...), so
that a drift of the machine's speed hits all alike. Reported: seconds per step, medians over rounds, the
ratio within each round, and the bookkeeping per pass in microseconds. What is timed is the loop as the user
writes it, data loading included; the plain loop reads from a DataLoader of virtual-node batches. The bare loop is the
plain one with each batch gathered from the tensors of the data set by hand: the least that such a step can take.
With `--processes` each of so many fresh processes measures so many rounds, one process after the other, and all rounds
count: where memory comes to lie differs between processes, by more than the bookkeeping.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

import holdtrue as ht
from common import describe, models, spread, write_json
from holdtrue.run import Membership, joined_as

STEPS = {"tiny-mlp": 40, "cnn": 20, "transformer": 2}


def plain_loop(model: torch.nn.Module, data: TensorDataset, V: int, b: int) -> Iterator[None]:
    """A hand-written loop: V passes of b examples, then one update."""
    return _accumulating(model, V, lambda: DataLoader(data, batch_size=b, shuffle=True, drop_last=True))


def bare_loop(model: torch.nn.Module, data: TensorDataset, V: int, b: int) -> Iterator[None]:
    """The same without a DataLoader."""

    def gathered() -> Iterator[list[torch.Tensor]]:
        for indices in torch.randperm(len(data)).split(b):
            yield [tensor[indices] for tensor in data.tensors]

    return _accumulating(model, V, gathered)


def _accumulating(
    model: torch.nn.Module, V: int, epoch: Callable[[], Iterable[Sequence[torch.Tensor]]]
) -> Iterator[None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    while True:
        total = 0.0
        for i, (x, y) in enumerate(epoch()):
            loss = F.cross_entropy(model(x), y)
            (loss / V).backward()
            total += float(loss.detach())
            if (i + 1) % V == 0:
                optimizer.step()
                optimizer.zero_grad()
                yield


def accelerate_loop(model: torch.nn.Module, data: TensorDataset, V: int, b: int) -> Iterator[None]:
    """Accelerate's gradient accumulation as its documentation writes it."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=V)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loader = DataLoader(data, batch_size=b, shuffle=True, drop_last=True)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    while True:
        total = 0.0
        for i, (x, y) in enumerate(loader):
            with accelerator.accumulate(model):
                loss = F.cross_entropy(model(x), y)
                accelerator.backward(loss)
                total += float(loss.detach())
                optimizer.step()
                optimizer.zero_grad()
            if (i + 1) % V == 0:
                yield


def holdtrue_loop(model: torch.nn.Module, data: TensorDataset, V: int, b: int) -> Iterator[None]:
    """The loop of the README."""
    with joined_as(Membership(in_process=True)):
        run = ht.init(virtual_nodes=V, global_batch_size=V * b, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model, optimizer = run.prepare(model, optimizer)
    for step in run.steps(data, epochs=1_000_000):
        for x, y in step:
            step.backward(F.cross_entropy(model(x), y))
        step.update()
        yield


LOOPS: dict[str, Callable[..., Iterator[None]]] = {
    "plain": plain_loop,
    "bare": bare_loop,
    "holdtrue": holdtrue_loop,
    "accelerate": accelerate_loop,
}


def measure(name: str, V: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of a step of each loop in each round, interleaved."""
    build, data, b = models(name, V)
    torch.manual_seed(0)
    loops = {kind: loop(build(), data, V, b) for kind, loop in LOOPS.items()}
    steps = STEPS[name]
    for loop in loops.values():
        for _ in range(max(2, steps // 4)):
            next(loop)
    seconds: dict[str, list[float]] = {kind: [] for kind in loops}
    for r in range(rounds):
        kinds = list(loops) if r % 2 == 0 else list(loops)[::-1]
        for kind in kinds:
            started = time.perf_counter()
            for _ in range(steps):
                next(loops[kind])
            seconds[kind].append((time.perf_counter() - started) / steps)
    return seconds


def measure_in_processes(name: str, V: int, rounds: int, processes: int) -> list[dict[str, list[float]]]:
    """The same in fresh processes, one after the other."""
    found = []
    for _ in range(processes):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "run.json"
            options = [
                "--models",
                name,
                "--virtual-nodes",
                str(V),
                "--rounds",
                str(rounds),
                "--out",
                str(out),
            ]
            subprocess.run([sys.executable, __file__, *options], check=True, stdout=subprocess.DEVNULL)
            steps = json.loads(out.read_text())["results"][0]["step_s"]
            found.append({kind: of["values"] for kind, of in steps.items()})
    return found


def summary(name: str, V: int, runs: list[dict[str, list[float]]]) -> dict[str, Any]:
    """What is told of a model: ratios within each round, of all rounds of all processes."""
    seconds = {kind: [second for run in runs for second in run[kind]] for kind in LOOPS}
    plain, bare, ours = seconds["plain"], seconds["bare"], seconds["holdtrue"]
    ratios = [h / p for h, p in zip(ours, plain, strict=True)]
    rounds = len(runs[0]["plain"])
    return {
        "model": name,
        "virtual_nodes": V,
        "virtual_node_batch": models(name, V)[2],
        "processes": len(runs),
        "rounds": rounds,
        "steps_per_round": STEPS[name],
        "step_s": {kind: spread(values) for kind, values in seconds.items()},
        "ratio_to_plain": spread(ratios),
        "ratio_to_plain_by_process": [
            spread(ratios[first : first + rounds])["median"] for first in range(0, len(ratios), rounds)
        ],
        "ratio_to_bare": spread([h / p for h, p in zip(ours, bare, strict=True)]),
        "ratio_to_accelerate": spread([h / a for h, a in zip(ours, seconds["accelerate"], strict=True)]),
        "pass_s_plain": spread([p / V for p in plain]),
        "bookkeeping_per_pass_us": spread([(h - p) / V * 1e6 for h, p in zip(ours, plain, strict=True)]),
        "over_bare_per_pass_us": spread([(h - p) / V * 1e6 for h, p in zip(ours, bare, strict=True)]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--models", default="tiny-mlp,cnn,transformer")
    parser.add_argument("--virtual-nodes", type=int, default=8)
    parser.add_argument("--processes", type=int, help="repeat in this many fresh processes")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    for name in args.models.split(","):
        V, rounds = args.virtual_nodes, args.rounds
        runs = (
            measure_in_processes(name, V, rounds, args.processes)
            if args.processes
            else [measure(name, V, rounds)]
        )
        results.append(summary(name, V, runs))
        r = results[-1]
        print(
            f"{name}: plain {r['step_s']['plain']['median'] * 1e3:.2f} ms  holdtrue/plain {r['ratio_to_plain']['median']:.3f} "
            f"({r['ratio_to_plain']['min']:.3f}..{r['ratio_to_plain']['max']:.3f})  holdtrue/accelerate "
            f"{r['ratio_to_accelerate']['median']:.3f}  bookkeeping {r['bookkeeping_per_pass_us']['median']:.0f} us per pass, "
            f"{r['over_bare_per_pass_us']['median']:.0f} us over the bare loop",
            flush=True,
        )
    write_json(args.out, {**describe("python benchmarks/overhead.py"), "results": results})


if __name__ == "__main__":
    main()
