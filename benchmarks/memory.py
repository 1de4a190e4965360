"""Peak resident memory per worker: a global batch of 4096 in the memory of its passes.

    python benchmarks/memory.py --out benchmarks/raw/memory.json

Each case is a fresh process (or several, under `holdtrue run`) that trains 3 steps and reports the kernel's
high-water mark (VmHWM). The plain loop accumulates over the same passes: it has the virtual-node batch size and runs
as many passes, since the C library's heap grows by a tenth over the first dozens of them, whoever runs them. `whole`
is a plain loop with the global batch in one pass, for what it would take. The bound of design section 5: 1.15 x the plain
loop plus one gradient for each buffer of the ordered reduction that the mapping needs.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

import holdtrue as ht
from common import describe, spread, write_json
from holdtrue.mapping import contributions_of, even_mapping, order_by_tree

V, B, STEPS = 64, 4096, 3


def build() -> nn.Module:
    """A convolutional network of 4.7 M parameters (19 MB) on 32 x 32 images."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.Conv2d(64, 128, 3, padding=1, stride=2),
        nn.BatchNorm2d(128),
        nn.ReLU(),
        nn.Conv2d(128, 256, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(8),
        nn.Flatten(),
        nn.Linear(256 * 64, 256),
        nn.ReLU(),
        nn.Linear(256, 10),
    )


def data() -> TensorDataset:
    """One global batch of examples."""
    return TensorDataset(torch.randn(B, 3, 32, 32), torch.randint(0, 10, (B,)))


def report() -> None:
    """Leave this process's high-water mark where the parent asked for it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            Path(os.environ["MEMORY_OUT"], str(os.getpid())).write_text(str(int(line.split()[1]) * 1024))


def train_plain(batch: int) -> None:
    """A plain loop that accumulates over passes of `batch` examples; the kernel's high-water mark at its end."""
    torch.set_num_threads(1)
    model, examples = build(), data()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(STEPS):
        optimizer.zero_grad()
        for first in range(0, B, batch):
            x, y = (whole[first : first + batch].clone() for whole in examples.tensors)
            (F.cross_entropy(model(x), y) * (batch / B)).backward()
        optimizer.step()
    report()


def train_holdtrue() -> None:
    """The loop of the README."""
    run = ht.init(virtual_nodes=V, global_batch_size=B, seed=0)
    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model, optimizer = run.prepare(model, optimizer)
    for step in run.steps(data(), epochs=STEPS):
        for x, y in step:
            step.backward(F.cross_entropy(model(x), y))
        step.update()
    report()


def peaks(command: list[str]) -> list[int]:
    """Peak bytes of each worker that the command starts."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            command,
            check=True,
            env=os.environ | {"MEMORY_OUT": folder},
            stdout=subprocess.DEVNULL,
            timeout=900,
        )
        return sorted(int(p.read_text()) for p in Path(folder).iterdir())


def allowed_buffers(workers: int) -> list[int]:
    """Gradient-sized buffers that each worker may hold: the stack while it forms, contributions, result, received."""
    mapping = even_mapping(V, workers)
    tree = order_by_tree(mapping)
    allowed = []
    for held in mapping.held:
        own = len(contributions_of(tree, set(held)))
        forming = max(1, (len(held) - 1).bit_length()) + 1
        exchange = (
            0 if workers == 1 else own + 1 + 1
        )  # sent, result, received (W slices of 1/W each, per round)
        allowed.append(forming + exchange)
    return allowed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--role", choices=["plain", "whole", "holdtrue"], help="used by this script itself")
    args = parser.parse_args()
    if args.role:
        {"plain": lambda: train_plain(B // V), "whole": lambda: train_plain(B), "holdtrue": train_holdtrue}[
            args.role
        ]()
        return
    gradient = sum(p.numel() * 4 for p in build().parameters())
    here = str(Path(__file__))
    plain = [peaks([sys.executable, here, "--role", "plain"])[0] for _ in range(args.repeats)]
    whole = peaks([sys.executable, here, "--role", "whole"])
    results: list[dict[str, Any]] = []
    base = spread(plain)["median"]
    print(f"plain loop, batch {B // V}: {base / 2**20:.0f} MiB; whole batch {B}: {whole[0] / 2**20:.0f} MiB")
    for workers in (1, 2, 3):
        with tempfile.TemporaryDirectory() as folder:
            runs = [
                peaks(
                    [
                        sys.executable,
                        "-m",
                        "holdtrue",
                        "run",
                        "--workers",
                        str(workers),
                        "--checkpoint-every",
                        "0",
                        "--run-dir",
                        f"{folder}/{i}",
                        here,
                        "--role",
                        "holdtrue",
                    ]
                )
                for i in range(args.repeats)
            ]
        worst = [max(run) for run in runs]
        buffers = max(allowed_buffers(workers))
        bound = 1.15 * base + buffers * gradient
        results.append(
            {
                "workers": workers,
                "peak_bytes_per_worker": runs,
                "worst": spread(worst),
                "allowed_gradient_buffers": buffers,
                "bound_bytes": bound,
                "of_bound": max(worst) / bound,
                "ratio_to_plain": max(worst) / base,
            }
        )
        r = results[-1]
        print(
            f"{workers} workers: {max(worst) / 2**20:.0f} MiB, {r['ratio_to_plain']:.2f} x plain, "
            f"{r['of_bound']:.2f} of the bound (1.15 x plain + {buffers} gradients)",
            flush=True,
        )
    write_json(
        args.out,
        {
            **describe("python benchmarks/memory.py"),
            "virtual_nodes": V,
            "global_batch_size": B,
            "gradient_bytes": gradient,
            "plain": spread(plain),
            "whole_batch_bytes": whole[0],
            "results": results,
        },
    )


if __name__ == "__main__":
    main()
