"""Step time of one worker against the plain accumulation loop, with and without torch.compile."""

import argparse
import time
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import holdtrue as ht
from common import Transformer, describe, spread, write_json
from holdtrue.run import Membership, joined_as

V = 8


def build(name: str) -> tuple[nn.Module, TensorDataset, int]:
    """A model of GPU size, its data and the virtual-node batch size."""
    torch.manual_seed(0)
    if name == "transformer":
        b = 16
        data = TensorDataset(torch.randint(0, 1000, (b * V * 8, 128)), torch.randint(0, 10, (b * V * 8,)))
        return Transformer(width=512, layers=8, length=128), data, b
    b = 64
    data = TensorDataset(torch.randn(b * V * 4, 3, 64, 64), torch.randint(0, 10, (b * V * 4,)))
    blocks: list[nn.Module] = []
    channels = 3
    for width in (64, 128, 256, 512):
        blocks += [nn.Conv2d(channels, width, 3, padding=1, stride=2), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*blocks, nn.Dropout(0.1), nn.Flatten(), nn.Linear(512 * 16, 10)), data, b


def plain(model: nn.Module, data: TensorDataset, b: int, device: torch.device) -> Iterator[None]:
    """A hand-written loop over the same passes; the loss is read once a step, as a user would to log it."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    while True:
        batches = iter(DataLoader(data, batch_size=b, shuffle=True, drop_last=True))
        for _ in range(len(data) // (V * b)):
            losses = []
            for _ in range(V):
                x, y = (t.to(device) for t in next(batches))
                loss = F.cross_entropy(model(x), y)
                (loss / V).backward()
                losses.append(loss.detach())
            torch.stack(losses).mean().item()
            optimizer.step()
            optimizer.zero_grad()
            yield


def ours(model: nn.Module, data: TensorDataset, b: int, device: torch.device) -> Iterator[None]:
    """The loop of the README."""
    with joined_as(Membership(in_process=True, device=str(device))):
        run = ht.init(virtual_nodes=V, global_batch_size=V * b, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    model, optimizer = run.prepare(model, optimizer)
    for step in run.steps(data, epochs=1_000_000):
        for x, y in step:
            step.backward(F.cross_entropy(model(x), y))
        step.update()
        yield


def measure(name: str, compiled: bool, device: torch.device, rounds: int, steps: int) -> dict[str, object]:
    """Interleaved rounds of both loops; each has its own model."""
    loops = {}
    # Ours first: it asks for deterministic kernels, and a compiled plain loop would be compiled again for them.
    for kind, loop in (("holdtrue", ours), ("plain", plain)):
        model, data, b = build(name)
        model.to(device)
        loops[kind] = loop(torch.compile(model, dynamic=False) if compiled else model, data, b, device)  # type: ignore[arg-type]
    seconds: dict[str, list[float]] = {kind: [] for kind in loops}
    for loop in loops.values():
        for _ in range(3):
            next(loop)
    for r in range(rounds):
        for kind in list(loops) if r % 2 == 0 else list(loops)[::-1]:
            _settle(device)
            started = time.perf_counter()
            for _ in range(steps):
                next(loops[kind])
            _settle(device)
            seconds[kind].append((time.perf_counter() - started) / steps)
    ratio = [h / p for h, p in zip(seconds["holdtrue"], seconds["plain"], strict=True)]
    return {
        "model": name,
        "compiled": compiled,
        "virtual_nodes": V,
        "rounds": rounds,
        "step_s": {kind: spread(values) for kind, values in seconds.items()},
        "ratio": spread(ratio),
    }


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--models", default="cnn,transformer")
    args = parser.parse_args()
    device = torch.device("cuda:0" if args.device == "cuda" else "cpu")
    results = []
    for compiled in (False, True):
        for name in args.models.split(","):
            results.append(measure(name, compiled, device, args.rounds, args.steps))
            r = results[-1]
            print(
                f"{name}{' compiled' if compiled else ''}: holdtrue/plain {r['ratio']['median']:.3f} "  # type: ignore[index]
                f"({r['ratio']['min']:.3f}..{r['ratio']['max']:.3f})",  # type: ignore[index]
                flush=True,
            )
            write_json(  # what follows may run into the limit
                args.out,
                {**describe("benchmarks/gpu/run.sh"), "device_type": args.device, "results": results},
            )


if __name__ == "__main__":
    main()
