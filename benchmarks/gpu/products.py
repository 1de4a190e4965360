"""Portable matrix products on the device: bits against the CPU, time against float32, and the reference trainings.

With `--device cpu` the same paths run with small sizes, and nothing is learned about a GPU.
"""

import argparse
import importlib
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch

import holdtrue as ht
from common import describe, spread, write_json
from holdtrue.errors import NumericsError
from holdtrue.numerics import close_initial, cuda_engine, engine, force_engine, matmul
from holdtrue.record import compare_runs, read_run
from holdtrue.reference import REFERENCES, STEPS, Reference, published
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
    found: list[dict[str, Any]] = []
    for M, K, N in BITS:
        a, b = operands(M, K, N)
        x, y = a.to(device), b.to(device)
        for slices in (4, 3):
            one: dict[str, Any] = {"shape": [M, K, N], "slices": slices}
            found.append(one)
            expected = matmul(a, b, slices=slices)
            one["float32_differs"] = not torch.equal((x @ y).cpu(), expected)
            started = time.perf_counter()
            try:
                own = matmul(x, y, slices=slices).cpu()
            except NumericsError as error:
                one |= {"equal": False, "refused": str(error)}
            else:
                one["equal"] = torch.equal(
                    own.nan_to_num(7.0).view(torch.int32), expected.nan_to_num(7.0).view(torch.int32)
                )
            one["first_s"] = time.perf_counter() - started  # with what is compiled and tested for it
            verdict = "equal" if one["equal"] else one.get("refused", "DIFFERS")
            print(f"product {M}x{K}x{N}, {slices} slices: {verdict} ({one['first_s']:.1f} s)", flush=True)
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


def train_reference(reference: Reference, device: torch.device, steps: int) -> dict[str, Any]:
    """The first steps of one reference training against its published digests."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="holdtrue-reference-") as folder:
        settings = {
            "run_dir": folder,
            "max_steps": steps,
            "digest_every": 1,
            "trace": 1,
            "checkpoint_every": 0,
        }
        os.environ.update({f"HOLDTRUE_{name.upper()}": str(value) for name, value in settings.items()})
        try:
            with (
                joined_as(Membership(in_process=True, device=str(device))),
                # It has nine times the passes of a step, and no digest comes after it.
                mock.patch.object(ht.Run, "evaluate", return_value={}),
            ):
                importlib.import_module(reference.module).main()
        except Exception:  # noqa: BLE001  # one that fails is told of, and the others run
            close_initial()
            print(traceback.format_exc(), flush=True)
            return {"training": reference.name, "equal": False, "error": traceback.format_exc()}
        run = read_run(Path(folder))
        verdict = compare_runs(replace(published(reference), environment=run.environment), run)
    seconds = time.perf_counter() - started
    print(
        f"{reference.name}: {'the published bits' if verdict.equal else verdict.sentences} ({seconds:.1f} s)",
        flush=True,
    )
    return {
        "training": reference.name,
        "equal": verdict.equal,
        "steps": verdict.steps_compared,
        "digests": verdict.digests_compared,
        "sentences": list(verdict.sentences),
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--steps", type=int, default=STEPS, help="of each reference training")
    args = parser.parse_args()
    device = torch.device("cuda:0" if args.device == "cuda" else "cpu")
    torch.set_num_threads(1)
    started = time.perf_counter()
    found: dict[str, Any] = {**describe("benchmarks/gpu/run.sh"), "device_type": args.device}

    def keep(**more: Any) -> None:
        """Written as it is found: what follows may run into the limit."""
        found.update(more)
        write_json(args.out, found)

    try:
        in_use = cuda_engine(device) if device.type == "cuda" else engine()
    except NumericsError as error:  # then the rest is about torch's operations
        keep(refused=str(error))
        print(error, flush=True)
        force_engine("reference")
        in_use = "reference"
    print(f"engine: {in_use}", flush=True)
    keep(engine=in_use, cpu_engine=engine(), engine_s=time.perf_counter() - started)
    keep(bits=compare_bits(device))
    # By torch's operations a batch of small products takes fifty launches for each of its members.
    steps = args.steps if in_use != "reference" else min(4, args.steps)
    for reference in REFERENCES:
        trained = [*found.get("reference_trainings", []), train_reference(reference, device, steps)]
        keep(reference_trainings=trained)
    sizes = (2048, 8192) if device.type == "cuda" else (256,)
    for size in sizes if "refused" not in found else ():
        keep(products=[*found.get("products", []), measure(size, args.repeats, device)])
    right = [one["equal"] for one in (*found["bits"], *found["reference_trainings"])]
    sys.exit(0 if all(right) and "refused" not in found else 1)


if __name__ == "__main__":
    main()
