"""Throughput and peak memory by number of virtual nodes on one worker, relative to the plain loop at their batch.

    python benchmarks/paper/cost.py --out benchmarks/raw/paper-cost.json

The plain loop takes one update for each batch of b; holdtrue with V virtual nodes takes one for V batches of b, so
a large V saves updates, in VirtualFlow's measurement as here. Throughput: all loops live in one process and run in
turn, each as many passes a round, the order turning by one each round; the ratio is formed within a round. Memory:
the kernel's high-water mark (VmHWM) of a fresh process for each loop.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from images import build_network
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from train import peak_bytes

import holdtrue as ht
from holdtrue.run import Membership, joined_as

sys.path.append(str(Path(__file__).parents[1]))
from common import Transformer, describe, spread, write_json

VIRTUAL_NODES = (1, 2, 4, 8, 16, 32)
PLAIN = 0
"""Stands for the plain loop where a number of virtual nodes is expected."""
PASSES = {"network": 128, "transformer": 32}
"""Passes of a loop in one round: whole steps for every number of virtual nodes."""


def build(name: str) -> tuple[nn.Module, TensorDataset, int]:
    """A model, data for 32 virtual nodes and more, and the batch of a pass."""
    torch.manual_seed(0)
    if name == "network":
        b = 32
        images = torch.randn(b * 128, 1, 28, 28)
        return build_network(), TensorDataset(images, torch.randint(0, 10, (len(images),))), b
    b = 8
    tokens = torch.randint(0, 1000, (b * 64, 64))
    return Transformer(), TensorDataset(tokens, torch.randint(0, 10, (len(tokens),))), b


def plain_loop(name: str) -> Iterator[int]:
    """A hand-written loop; yields the passes of each step, which is one."""
    model, data, b = build(name)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    while True:
        for x, y in DataLoader(data, batch_size=b, shuffle=True, drop_last=True):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            loss.item()
            yield 1


def holdtrue_loop(name: str, V: int) -> Iterator[int]:
    """The loop of the README; yields the passes of each step, which is V."""
    model, data, b = build(name)
    with joined_as(Membership(in_process=True)):
        run = ht.init(virtual_nodes=V, global_batch_size=V * b, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model, optimizer = run.prepare(model, optimizer)
    for step in run.steps(data, epochs=1_000_000):
        for x, y in step:
            step.backward(F.cross_entropy(model(x), y))
        step.update()
        yield V


def open_loop(name: str, V: int) -> Iterator[int]:
    """The loop for V virtual nodes, or the plain one."""
    return plain_loop(name) if V == PLAIN else holdtrue_loop(name, V)


def run_passes(loop: Iterator[int], passes: int) -> float:
    """Seconds that a loop takes for so many passes."""
    started = time.perf_counter()
    done = 0
    while done < passes:
        done += next(loop)
    return time.perf_counter() - started


def measure_throughput(name: str, rounds: int, passes: int) -> dict[int, list[float]]:
    """Seconds of each loop in each round, by virtual nodes."""
    loops = {V: open_loop(name, V) for V in (PLAIN, *VIRTUAL_NODES)}
    for loop in loops.values():
        run_passes(loop, max(VIRTUAL_NODES))  # warm: the first step of the largest loop is this long
    seconds: dict[int, list[float]] = {V: [] for V in loops}
    order = list(loops)
    for r in range(rounds):
        for V in order[r % len(order) :] + order[: r % len(order)]:
            seconds[V].append(run_passes(loops[V], passes))
    return seconds


def measure_peak_bytes(name: str, V: int) -> int:
    """Peak resident memory of a fresh process with one loop."""
    command = [sys.executable, str(Path(__file__)), "--peak-of", name, "--virtual-nodes", str(V)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=300)
    return int(done.stdout.split()[-1])


def measure(name: str, rounds: int, repeats: int, passes: int) -> dict[str, Any]:  # Any: JSON values
    """Throughput and memory of one model."""
    _, _, b = build(name)
    seconds = measure_throughput(name, rounds, passes)
    peaks = {
        V: spread([measure_peak_bytes(name, V) for _ in range(repeats)]) for V in (PLAIN, *VIRTUAL_NODES)
    }
    rows = []
    for V in VIRTUAL_NODES:
        ratios = [p / s for p, s in zip(seconds[PLAIN], seconds[V], strict=True)]
        rows.append(
            {
                "virtual_nodes": V,
                "round_s": spread(seconds[V]),
                "throughput_ratio": spread(ratios),
                "peak_bytes": peaks[V],
                "memory_ratio": peaks[V]["median"] / peaks[PLAIN]["median"],
            }
        )
    return {
        "model": name,
        "virtual_node_batch": b,
        "passes_per_round": passes,
        "rounds": rounds,
        "plain": {"round_s": spread(seconds[PLAIN]), "peak_bytes": peaks[PLAIN]},
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out")
    parser.add_argument("--models", default=",".join(PASSES))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--repeats", type=int, default=2, help="processes for each peak of memory")
    parser.add_argument("--passes", type=int, help="passes in a round, a multiple of 32")
    parser.add_argument("--peak-of", help="used by this script itself")
    parser.add_argument("--virtual-nodes", type=int, default=PLAIN, help="used by this script itself")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.peak_of:
        run_passes(open_loop(args.peak_of, args.virtual_nodes), 2 * max(VIRTUAL_NODES))
        print(peak_bytes())
        return
    results = []
    for name in args.models.split(","):
        results.append(measure(name, args.rounds, args.repeats, args.passes or PASSES[name]))
        for row in results[-1]["rows"]:
            ratio = row["throughput_ratio"]
            print(
                f"{name}, {row['virtual_nodes']} virtual nodes: throughput {ratio['median']:.3f} "
                f"({ratio['min']:.3f}..{ratio['max']:.3f}), memory {row['memory_ratio']:.3f}",
                flush=True,
            )
    write_json(args.out, {**describe("python benchmarks/paper/cost.py"), "threads": 1, "results": results})


if __name__ == "__main__":
    main()
