"""Portable matrix products on the device: bits against the CPU, time against float32, and the reference trainings.

With `--device cpu` the same paths run with small sizes, and nothing is learned about a GPU.
"""

import argparse
import importlib
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from common import describe, spread, write_json
from holdtrue.numerics import cuda_engine, engine, force_engine, matmul
from holdtrue.record import compare_runs, read_run
from holdtrue.reference import REFERENCES, published
from holdtrue.run import Membership, joined_as

BITS = ((300, 700, 170), (1, 64, 1), (64, 70_000, 40), (1500, 64, 1300))


def seconds_of(compute: Callable[[], object], device: torch.device) -> float:
    """One call, from an idle device to an idle one."""
    settle(device)
    started = time.perf_counter()
    compute()
    settle(device)
    return time.perf_counter() - started


def settle(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def operands(M: int, K: int, N: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Matrices with some vectors of wide range, denormal numbers, and an infinity."""
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(M, K, generator=g), torch.randn(K, N, generator=g)
    a[::7] *= torch.pow(2.0, torch.randint(-60, 60, (K,), generator=g).float())
    b[:, ::5] *= 2.0**-130
    if M > 100:
        a[3, 1] = torch.inf
    return a, b


def compare_bits(device: torch.device) -> list[dict[str, Any]]:
    """Products on the device and on the CPU; float32 products, the control, differ."""
    found = []
    for M, K, N in BITS:
        a, b = operands(M, K, N)
        x, y = a.to(device), b.to(device)
        for slices in (4, 3):
            own, expected = matmul(x, y, slices=slices).cpu(), matmul(a, b, slices=slices)
            equal = torch.equal(
                own.nan_to_num(7.0).view(torch.int32), expected.nan_to_num(7.0).view(torch.int32)
            )
            found.append({"shape": [M, K, N], "slices": slices, "equal": equal})
        control = not torch.equal((x @ y).cpu(), expected)
        found[-1]["float32_differs"] = control
        print(
            f"product {M}x{K}x{N}: {'equal' if found[-1]['equal'] and found[-2]['equal'] else 'DIFFERS'}",
            flush=True,
        )
    return found


def measure(size: int, repeats: int, device: torch.device) -> dict[str, Any]:
    """Seconds of one square product by each way, in turns."""
    x, y = (torch.randn(size, size, device=device) for _ in range(2))
    out = torch.empty_like(x)

    def float32(precision: str) -> Callable[[], object]:
        def run() -> None:
            torch.set_float32_matmul_precision(precision)
            torch.matmul(x, y, out=out)

        return run

    ways: dict[str, Callable[[], object]] = {
        "float32": float32("highest"),
        "float32 with TF32": float32("high"),
        "portable, 4 slices": lambda: matmul(x, y, slices=4),
        "portable, 3 slices": lambda: matmul(x, y, slices=3),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for compute in ways.values():
        seconds_of(compute, device)
    for _ in range(repeats):
        for name, compute in ways.items():
            seconds[name].append(seconds_of(compute, device))
    torch.set_float32_matmul_precision("highest")
    force_engine("reference")
    small_x, small_y = x[: size // 4], y
    matmul(small_x[:64], small_y)
    # a quarter of the rows: the whole would need digits of a gigabyte and more in float64
    seconds["portable by torch operations, a quarter of the rows"] = [
        seconds_of(lambda: matmul(small_x, small_y), device) for _ in range(2)
    ]
    force_engine(None)
    for name, values in seconds.items():
        print(f"{size} cubed, {name}: {sorted(values)[len(values) // 2] * 1e3:.2f} ms", flush=True)
    return {
        "size": size,
        "repeats": repeats,
        "seconds": {name: spread(values) for name, values in seconds.items()},
    }


def train_references(device: torch.device, steps: int) -> list[dict[str, Any]]:
    """The first steps of the reference trainings against their published digests."""
    found = []
    for reference in REFERENCES:
        with tempfile.TemporaryDirectory(prefix="holdtrue-reference-") as folder:
            settings = {
                "run_dir": folder,
                "max_steps": steps,
                "digest_every": 1,
                "trace": 1,
                "checkpoint_every": 0,
            }
            os.environ.update({f"HOLDTRUE_{name.upper()}": str(value) for name, value in settings.items()})
            started = time.perf_counter()
            with joined_as(Membership(in_process=True, device=str(device))):
                importlib.import_module(reference.module).main()
            run = read_run(Path(folder))
            verdict = compare_runs(replace(published(reference), environment=run.environment), run)
        found.append(
            {
                "training": reference.name,
                "equal": verdict.equal,
                "steps": verdict.steps_compared,
                "digests": verdict.digests_compared,
                "sentences": list(verdict.sentences),
                "seconds": time.perf_counter() - started,
            }
        )
        print(f"{reference.name}: {'the published bits' if verdict.equal else verdict.sentences}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--steps", type=int, default=4, help="of each reference training")
    args = parser.parse_args()
    device = torch.device("cuda:0" if args.device == "cuda" else "cpu")
    torch.set_num_threads(1)
    in_use = cuda_engine(device) if device.type == "cuda" else engine()
    print(f"engine: {in_use}", flush=True)
    found: dict[str, Any] = {
        **describe("benchmarks/gpu/run.sh"),
        "device_type": args.device,
        "engine": in_use,
        "bits": compare_bits(device),
        "products": [
            measure(size, args.repeats, device)
            for size in ((8192, 2048) if device.type == "cuda" else (256,))
        ],
    }
    write_json(args.out, found)  # what follows may run into the limit
    write_json(args.out, {**found, "reference_trainings": train_references(device, args.steps)})


if __name__ == "__main__":
    main()
