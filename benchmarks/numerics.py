"""Portable numerics against ordinary float32 on the same thread: products, sums, exp, and steps of three models.

    python benchmarks/numerics.py --out benchmarks/raw/numerics.json

Each pair is measured in turns, so that a busy moment meets both; ratios are of medians. With `--clock cpu` the time is that
of the process on its one thread, which other processes lengthen less; the lower quartiles are compared then. With
`--processes` all of it is repeated in that many processes, one after the other: where memory comes to lie and what else runs
on the machine differ between them, and the ratio is their median. With `--without-vnni` both sides do without AVX-512, as on
a processor that ends at AVX2.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from common import Transformer, describe, models, spread, write_json
from holdtrue.numerics import engine, function, matmul, portable_mode, steady_optimizer, sum64

PRODUCTS = ((1024, 1024, 1024), (256, 256, 256), (32, 784, 128), (64, 32, 64), (8, 1152, 49))


WITHOUT_VNNI = {
    "HOLDTRUE_NUMERICS_ENGINE": "avx2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
}
"""Settings of a process whose products, ours and torch's, use nothing beyond AVX2."""
PARTS = ("products", "elementwise", "steps")

clock = time.perf_counter
COMPARED = "median"


def pair(ours: Callable[[], object], torchs: Callable[[], object], seconds: float) -> dict[str, Any]:
    """Times of both in turns, in milliseconds."""
    times: tuple[list[float], list[float]] = ([], [])
    ours(), torchs()
    until = clock() + seconds
    while clock() < until or len(times[0]) < 5:
        for own, run in zip(times, (ours, torchs), strict=True):
            start = clock()
            run()
            own.append((clock() - start) * 1e3)
    for own in times:
        del own[400:]
    mine, theirs = (spread(own) | {"quartile": sorted(own)[len(own) // 4]} for own in times)
    for found in (mine, theirs):
        del found["values"]
    return {
        "portable_ms": mine,
        "float32_ms": theirs,
        "repeats": len(times[0]),
        "ratio": mine[COMPARED] / theirs[COMPARED],
    }


def products(seconds: float) -> dict[str, Any]:
    """Matrix products with 4 and 3 digits."""
    found: dict[str, Any] = {}
    for M, K, N in PRODUCTS:
        a, b = torch.randn(M, K), torch.randn(K, N)
        for slices in (4, 3):
            name = f"{M}x{K}x{N}, {slices} slices"
            found[name] = pair(
                lambda a=a, b=b, s=slices: matmul(a, b, slices=s), lambda a=a, b=b: a @ b, seconds
            )
    a, b = torch.randn(128, 64, 32), torch.randn(128, 32, 64)
    found["128 of 64x32x64, 4 slices"] = pair(lambda: matmul(a, b), lambda: a @ b, seconds)
    return found


def elementwise(seconds: float) -> dict[str, Any]:
    """Sums and functions of a million numbers."""
    x = torch.randn(1024, 1024)
    found = {
        "sum of rows": pair(lambda: sum64(x, [1]), lambda: x.sum(1), seconds),
        "sum of columns": pair(lambda: sum64(x, [0]), lambda: x.sum(0), seconds),
    }
    for name in ("exp", "tanh", "sigmoid", "erf"):
        found[name] = pair(lambda n=name: function(n, x), lambda n=name: getattr(torch, n)(x), seconds)
    return found


def step_of(model: nn.Module, x: torch.Tensor, y: torch.Tensor, portable: bool) -> Callable[[], None]:
    """One pass and update of AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def run() -> None:
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        if portable:
            with steady_optimizer(optimizer):
                optimizer.step()
        else:
            optimizer.step()
        optimizer.zero_grad()

    def inside() -> None:
        with portable_mode(key=1):
            run()

    return inside if portable else run


class Reader(nn.Module):
    """The recurrent network of the reference trainings."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(8, 24), nn.Linear(48, 4)
        self.lstm = nn.LSTM(24, 48, 2, dropout=0.1, batch_first=True)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        """Scores of the classes."""
        return self.out(self.lstm(self.embed(words))[0][:, -1])


def steps(seconds: float) -> dict[str, Any]:
    """Training steps of a CNN, a recurrent network and transformers."""
    found: dict[str, Any] = {}
    build, data, b = models("cnn", 2)
    x, y = data[:b]
    found[f"cnn, {b} images of 28x28"] = pair(
        step_of(build(), x, y, True), step_of(build(), x, y, False), seconds
    )
    words, labels = torch.randint(0, 8, (32, 12)), torch.randint(0, 4, (32,))
    found["lstm, 2 layers of 48, 32 sequences of 12"] = pair(
        step_of(Reader(), words, labels, True), step_of(Reader(), words, labels, False), seconds
    )
    for width in (64, 256):
        x, y = torch.randint(0, 1000, (8, 64)), torch.randint(0, 10, (8,))
        sides = [step_of(Transformer(width=width, layers=2), x, y, portable) for portable in (True, False)]
        found[f"transformer, width {width}, 2 layers, 8 sequences of 64"] = pair(*sides, seconds)
    return found


def measured(seconds: float) -> dict[str, Any]:
    """All pairs in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return {
        "engine": engine(),
        "products": products(seconds),
        "elementwise": elementwise(seconds),
        "steps": steps(seconds),
    }


def measured_in_processes(options: argparse.Namespace) -> dict[str, Any]:
    """All pairs in `options.processes` fresh processes in turn: medians of their ratios and times, with the ratios themselves."""
    runs: list[dict[str, Any]] = []
    command = [sys.executable, __file__, "--seconds", str(options.seconds), "--clock", options.clock]
    environment = os.environ | (WITHOUT_VNNI if options.without_vnni else {})
    for _ in range(options.processes):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "run.json"
            subprocess.run(
                [*command, "--out", str(out)], env=environment, check=True, stdout=subprocess.DEVNULL
            )
            runs.append(json.loads(out.read_text()))
    found: dict[str, Any] = {"engine": runs[0]["engine"]}
    for part in PARTS:
        found[part] = {}
        for name in runs[0][part]:
            pairs = [run[part][name] for run in runs]
            ratios = spread([one["ratio"] for one in pairs])
            middle = sorted(pairs, key=lambda one: one["ratio"])[len(pairs) // 2]
            found[part][name] = middle | {"ratio": ratios["median"], "ratios": ratios}
    return found


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out")
    parser.add_argument("--seconds", type=float, default=3.0, help="time for each pair")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--processes", type=int, help="repeat in this many fresh processes")
    parser.add_argument("--without-vnni", action="store_true", help="nothing beyond AVX2 (with --processes)")
    options = parser.parse_args()
    if options.without_vnni and not options.processes:
        parser.error("--without-vnni holds for processes that start with it; add --processes 1 or more")
    global clock, COMPARED
    if options.clock == "cpu":
        clock, COMPARED = time.process_time, "quartile"
    torch.set_num_threads(1)
    found = {
        **describe("python benchmarks/numerics.py"),
        "clock": options.clock,
        "compared": COMPARED,
        **(measured_in_processes(options) if options.processes else measured(options.seconds)),
    }
    for part in PARTS:
        for name, value in found[part].items():
            apart = value.get("ratios")
            said = f" ({apart['min']:.2f}..{apart['max']:.2f})" if apart else ""
            print(f"{name}: {value['ratio']:.2f} x{said}, {value['portable_ms']['median']:.3f} ms")
    write_json(options.out, found)


if __name__ == "__main__":
    main()
