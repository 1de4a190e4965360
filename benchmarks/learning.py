"""Is learning harmed? The reference trainings whole, by portable and by ordinary float32 arithmetic, with unlike seeds.

    python benchmarks/learning.py --out benchmarks/raw/learning.json

The seed decides initial weights, order of the data and dropout; the data are the same. Accuracy is of unseen examples.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import describe, write_json
from holdtrue.reference import REFERENCES

LEVELS = {"portable": "portable", "float32": "exact"}
"""Ordinary float32 is torch's own kernels, as level exact has them."""


def train(module: str, level: str, seed: int) -> dict[str, Any]:
    """Accuracy, last loss and seconds of one training."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        settings = {
            "HOLDTRUE_NUMERICS": level,
            "HOLDTRUE_SEED": str(seed),
            "HOLDTRUE_RUN_DIR": str(run),
            "HOLDTRUE_CHECKPOINT_EVERY": "0",
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
        }
        subprocess.run(
            [sys.executable, "-m", module],
            env={**os.environ, **settings},
            check=True,
            capture_output=True,
            timeout=600,
        )
        steps = [json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines()]
        scores = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["values"]
    losses = [step["loss"] for step in steps]
    return {
        "seed": seed,
        "accuracy": scores["accuracy"],
        "loss_of_last_20_steps": statistics.mean(losses[-20:]),
        "steps": len(steps),
        "seconds": sum(step["seconds"] for step in steps),
        "digest": steps[-1].get("digest"),
    }


def summary(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Mean and spread of the accuracy, and the mean loss."""
    found = [run["accuracy"] for run in runs]
    return {
        "accuracy_mean": statistics.mean(found),
        "accuracy_deviation": statistics.stdev(found),
        "accuracy_least": min(found),
        "accuracy_most": max(found),
        "loss_mean": statistics.mean(run["loss_of_last_20_steps"] for run in runs),
    }


def main() -> None:
    """Train and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    found: dict[str, Any] = {
        **describe("python benchmarks/learning.py"),
        "seeds": options.seeds,
        "trainings": {},
    }
    for reference in REFERENCES:
        own = found["trainings"][reference.name] = {}
        for name, level in LEVELS.items():
            runs = [train(reference.module, level, seed) for seed in range(options.seeds)]
            own[name] = {"summary": summary(runs), "runs": runs}
            of = own[name]["summary"]
            print(
                f"{reference.name} {name}: accuracy {of['accuracy_mean']:.4f} +- {of['accuracy_deviation']:.4f}, "
                f"loss {of['loss_mean']:.4f}",
                flush=True,
            )
        write_json(options.out, found)


if __name__ == "__main__":
    main()
