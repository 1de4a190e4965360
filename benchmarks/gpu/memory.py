"""Peak memory of the device by number of virtual nodes: the virtual-node batch stays, the global batch grows."""

import argparse
import gc

import torch
import torch.nn.functional as F
from torch.utils.data import TensorDataset

import holdtrue as ht
from common import Transformer, describe, write_json
from holdtrue.run import Membership, joined_as

B_NODE = 16


def peak_plain(device: torch.device) -> int:
    """Peak bytes of two plain steps at the virtual-node batch size."""
    model = Transformer(width=512, layers=8, length=128).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    _reset(device)
    for _ in range(2):
        x, y = (
            torch.randint(0, 1000, (B_NODE, 128), device=device),
            torch.randint(0, 10, (B_NODE,), device=device),
        )
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return _peak(device)


def peak_ours(V: int, device: torch.device) -> int:
    """Peak bytes of two steps of V virtual nodes."""
    with joined_as(Membership(in_process=True, device=str(device))):
        run = ht.init(virtual_nodes=V, global_batch_size=V * B_NODE, seed=0)
    model = Transformer(width=512, layers=8, length=128)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    model, optimizer = run.prepare(model, optimizer)
    data = TensorDataset(torch.randint(0, 1000, (V * B_NODE, 128)), torch.randint(0, 10, (V * B_NODE,)))
    _reset(device)
    for step in run.steps(data, epochs=2):
        for x, y in step:
            step.backward(F.cross_entropy(model(x), y))
        step.update()
    peak = _peak(device)
    run.close()
    return peak


def _reset(device: torch.device) -> None:
    gc.collect()  # a run's parts know each other: what the one before left would count as this one's
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--virtual-nodes", default="1,2,4,8,16,32,64")
    args = parser.parse_args()
    device = torch.device("cuda:0" if args.device == "cuda" else "cpu")
    gradient = sum(p.numel() * 4 for p in Transformer(width=512, layers=8, length=128).parameters())
    base = peak_plain(device)
    results = []
    for V in map(int, args.virtual_nodes.split(",")):
        gc.collect()
        peak = peak_ours(V, device)
        results.append({"virtual_nodes": V, "global_batch_size": V * B_NODE, "peak_bytes": peak})
        print(
            f"V={V}: {peak / 2**20:.0f} MiB, plain {base / 2**20:.0f} MiB, gradient {gradient / 2**20:.0f} MiB",
            flush=True,
        )
    write_json(
        args.out,
        {
            **describe("benchmarks/gpu/run.sh"),
            "device_type": args.device,
            "plain_bytes": base,
            "gradient_bytes": gradient,
            "results": results,
        },
    )


if __name__ == "__main__":
    main()
