"""Bits after every step for 1, 2 and 3 workers that share one GPU, with a negative control.

Workers on one GPU exchange through pinned host memory over gloo: nccl refuses two ranks on one device. The runs of one model
go on at the same time: each takes longer to start than to train.
"""

import argparse
import multiprocessing
import os
import queue as queues
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F

import holdtrue as ht
from common import describe, models, write_json
from holdtrue.mapping import order_by_worker
from holdtrue.reduce import GlooGroup
from holdtrue.run import Membership, joined_as

MAPPINGS = {
    "1 worker": "0-6",
    "2 workers": "0-2/3-6",
    "3 workers uneven": "0-3/4/5-6",
    "2 interleaved": "0,2,4,6/1,3,5",
}
STEPS = 12
TIMEOUT_S = 125.0


def train(model_name: str, membership: Membership) -> list[str]:
    """Digest after every step of a short run: V = 7, so that blocks do not split along the tree."""
    with joined_as(membership):
        run = ht.init(virtual_nodes=7, global_batch_size=59, seed=0)
    build, data, _ = models(model_name, 7)
    torch.manual_seed(0)
    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model, optimizer = run.prepare(model, optimizer)
    digests = []
    for step in run.steps(data):
        for x, y in step:
            step.backward(F.cross_entropy(model(x), y))
        step.update(max_grad_norm=1.0)
        digests.append(run.digest())
        if len(digests) == STEPS:
            break
    run.close()
    return digests


def work(
    rank: int, port: int, world_size: int, mapping: str, model: str, device: str, control: bool, queue: Any
) -> None:  # Any: a spawn context's queue
    """One worker's process."""
    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, world_size, is_master=False, timeout=timedelta(seconds=120))
    membership = Membership(
        rank=rank,
        world_size=world_size,
        device="cuda:0" if device == "cuda" else "cpu",
        mapping=mapping,
        in_process=True,
        order=order_by_worker if control else None,
        connect=(lambda d, s: GlooGroup(store, rank=rank, world_size=world_size, timeout_s=100, name="bits"))
        if world_size > 1
        else None,
    )
    queue.put((rank, train(model, membership)))
    queue.close()
    queue.join_thread()
    os._exit(0)


def digests_of(model: str, mapping: str, device: str, *, control: bool = False) -> list[str]:
    """Digests of a run under one mapping; every worker must have the same."""
    context = multiprocessing.get_context("spawn")
    world_size = len(mapping.split("/"))
    store = dist.TCPStore("127.0.0.1", 0, world_size, is_master=True, wait_for_workers=False)
    queue = context.Queue()
    processes = [
        context.Process(target=work, args=(r, store.port, world_size, mapping, model, device, control, queue))
        for r in range(world_size)
    ]
    for process in processes:
        process.start()
    found = _answers(queue, processes, f"{model} under {mapping}")
    for process in processes:
        process.join(30)
    assert all(f == found[0] for f in found), f"replicas differ under {mapping}"
    return found[0]


def _answers(queue: Any, processes: Sequence[Any], what: str) -> list[list[str]]:
    """What every process sent; raises at once where one ended without. Any: a spawn context's."""
    found: list[list[str]] = []
    until = time.monotonic() + TIMEOUT_S
    while len(found) < len(processes):
        ended = [p.exitcode for p in processes]  # asked first: who has ended has sent
        try:
            found.append(queue.get(timeout=1.0)[1])
        except queues.Empty:
            if any(ended) or time.monotonic() > until:
                for process in processes:
                    process.kill()
                raise SystemExit(f"{what}: processes ended with {ended}; see above for why") from None
    return found


def measure(model: str, device: str) -> tuple[list[dict[str, Any]], bool]:
    """All mappings of one model and the control, and whether all is as it must be."""
    results, ok = [], True
    with ThreadPoolExecutor(len(MAPPINGS) + 1) as pool:
        runs = {name: pool.submit(digests_of, model, mapping, device) for name, mapping in MAPPINGS.items()}
        controlled = pool.submit(digests_of, model, MAPPINGS["2 workers"], device, control=True)
    base = runs["1 worker"].result()
    for name, run in runs.items():
        digests = run.result()
        same = digests == base
        ok &= same and len(digests) == STEPS and len(set(digests)) == STEPS
        results.append(
            {
                "model": model,
                "mapping": MAPPINGS[name],
                "steps": len(digests),
                "equal": same,
                "digests": digests,
            }
        )
        print(
            f"{model}  {name} ({MAPPINGS[name]}): {'equal after every step' if same else 'DIFFERS'}  {digests[-1][:16]}",
            flush=True,
        )
    differs = controlled.result() != base
    ok &= differs
    results.append(
        {"model": model, "mapping": MAPPINGS["2 workers"], "control": "order_by_worker", "differs": differs}
    )
    print(
        f"{model}  negative control (sums by worker): {'differs, as it must' if differs else 'DOES NOT DIFFER'}",
        flush=True,
    )
    return results, ok


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--models", default="cnn,transformer")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results: list[dict[str, Any]] = []
    ok = True
    for model in args.models.split(","):
        own, is_right = measure(model, args.device)
        results += own
        ok &= is_right
        write_json(
            args.out,
            {**describe("benchmarks/gpu/run.sh"), "device_type": args.device, "ok": ok, "results": results},
        )
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
