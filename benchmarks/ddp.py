"""Two workers against DistributedDataParallel with no_sync accumulation: same passes, same work, interleaved.

    python benchmarks/ddp.py --out benchmarks/raw/ddp.json

Both processes hold both loops and run them in turn (holdtrue, DDP, DDP, holdtrue, ...); the time of a round
is the slower process's. DDP accumulates its passes in place under no_sync and reduces in the last backward.
"""

import argparse
import multiprocessing
import os
import time
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

import holdtrue as ht
from common import describe, models, spread, write_json
from holdtrue.mapping import even_mapping
from holdtrue.reduce import GlooGroup
from holdtrue.run import Membership, joined_as

STEPS = {"tiny-mlp": 30, "cnn": 10, "mlp": 4, "transformer": 2}


def ddp_loop(
    model: torch.nn.Module, data: TensorDataset, passes: int, V: int, b: int, rank: int
) -> Iterator[None]:
    """DDP as its documentation writes accumulation; this process has `passes` of the V passes."""
    wrapped = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    while True:
        batches = iter(DataLoader(data, batch_size=b, shuffle=True, drop_last=True))
        for _ in range(len(data) // (passes * b)):
            total = 0.0
            for i in range(passes):
                x, y = next(batches)
                if i < passes - 1:
                    with wrapped.no_sync():
                        loss = F.cross_entropy(wrapped(x), y)
                        (loss / passes).backward()
                else:
                    loss = F.cross_entropy(wrapped(x), y)
                    (loss / passes).backward()
                total += float(loss.detach())
            optimizer.step()
            optimizer.zero_grad()
            yield


def holdtrue_loop(
    model: torch.nn.Module, data: TensorDataset, V: int, b: int, membership: Membership
) -> Iterator[None]:
    """The loop of the README."""
    with joined_as(membership):
        run = ht.init(virtual_nodes=V, global_batch_size=V * b, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model, optimizer = run.prepare(model, optimizer)
    for step in run.steps(data, epochs=1_000_000):
        for x, y in step:
            step.backward(F.cross_entropy(model(x), y))
        step.update()
        yield


def work(
    rank: int, port: int, name: str, V: int, rounds: int, results: "multiprocessing.Queue[object]"
) -> None:
    """One of the two processes."""
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    store = dist.TCPStore("127.0.0.1", port, 2, is_master=False, timeout=timedelta(seconds=60))
    dist.init_process_group("gloo", store=dist.PrefixStore("ddp", store), rank=rank, world_size=2)
    build, data, b = models(name, V)
    passes = len(even_mapping(V, 2).held[rank])
    membership = Membership(
        rank=rank,
        world_size=2,
        in_process=True,
        connect=lambda device, settings: GlooGroup(store, rank=rank, world_size=2, timeout_s=60, name="ours"),
    )
    torch.manual_seed(0)
    first = build()
    torch.manual_seed(0)
    loops = {
        "holdtrue": holdtrue_loop(first, data, V, b, membership),
        "ddp": ddp_loop(build(), data, passes, V, b, rank),
    }
    steps = STEPS[name]
    for loop in loops.values():
        for _ in range(max(3, steps // 2)):
            next(loop)
    seconds: dict[str, list[float]] = {kind: [] for kind in loops}
    for r in range(rounds):
        for kind in list(loops) if r % 2 == 0 else list(loops)[::-1]:
            dist.barrier()
            started = time.perf_counter()
            for _ in range(steps):
                next(loops[kind])
            seconds[kind].append((time.perf_counter() - started) / steps)
    results.put((rank, seconds))
    results.close()
    results.join_thread()  # a thread sends it, which the exit below would end
    dist.barrier()
    os._exit(0)


def measure(name: str, V: int, rounds: int) -> dict[str, object]:
    """Time both loops on one model and V."""
    context = multiprocessing.get_context("spawn")
    store = dist.TCPStore("127.0.0.1", 0, 2, is_master=True, wait_for_workers=False)
    queue: multiprocessing.Queue[object] = context.Queue()
    processes = [context.Process(target=work, args=(r, store.port, name, V, rounds, queue)) for r in range(2)]
    for process in processes:
        process.start()
    found = dict(queue.get(timeout=900) for _ in processes)  # type: ignore[misc]
    for process in processes:
        process.join(30)
    step_s = {
        kind: [max(a, b) for a, b in zip(found[0][kind], found[1][kind], strict=True)]
        for kind in ("holdtrue", "ddp")
    }
    return {
        "model": name,
        "virtual_nodes": V,
        "mapping": str(even_mapping(V, 2)),
        "rounds": rounds,
        "step_s": {kind: spread(values) for kind, values in step_s.items()},
        "ratio": spread([h / d for h, d in zip(step_s["holdtrue"], step_s["ddp"], strict=True)]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--cases", default="transformer:8,mlp:8,cnn:8,transformer:7,mlp:7")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    for case in args.cases.split(","):
        name, V = case.split(":")
        results.append(measure(name, int(V), args.rounds))
        r = results[-1]
        print(
            f"{name} V={V}: DDP {r['step_s']['ddp']['median'] * 1e3:.1f} ms  holdtrue/DDP {r['ratio']['median']:.3f} "
            f"({r['ratio']['min']:.3f}..{r['ratio']['max']:.3f})",
            flush=True,
        )
    write_json(args.out, {**describe("python benchmarks/ddp.py"), "workers": 2, "results": results})


if __name__ == "__main__":
    main()
