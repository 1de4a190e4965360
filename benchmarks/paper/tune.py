"""The learning rate of the experiments, and the rule that scales it, chosen on validation images.

    python benchmarks/paper/tune.py --out benchmarks/raw/paper-tuning.json

Trains on 3,000 images, scores on 1,000 others; the test images take no part, nor do the seeds of the experiments.
The learning rate is the one with the best mean accuracy at global batch 256. The rule, linear or square root, is
the one with the better mean over the smallest and the largest global batch of `batches.py`. Ties: the smaller rate,
the square root.
"""

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

from jobs import Job, describe_training, images_on_disk, run_job

sys.path.append(str(Path(__file__).parents[1]))
from common import describe, write_json

RATES = (0.00625, 0.0125, 0.025, 0.05, 0.1, 0.2, 0.4)
SEEDS = (100, 101)
ENDS = (32, 2048)
RULES = ("square root", "linear")


def scale_rate(lr: float, batch: int, rule: str) -> float:
    """The learning rate for a global batch, from the one tuned at 256."""
    factor = batch / 256
    return lr * (factor if rule == "linear" else factor**0.5)


def try_rate(lr: float, images: Path) -> dict[str, Any]:  # Any: JSON values
    """A learning rate at global batch 256: its runs and their mean accuracy."""
    return _scored({"lr": lr}, [_job(V=16, batch=256, seed=seed, lr=lr) for seed in SEEDS], images)


def try_rule(rule: str, best: float, images: Path) -> dict[str, Any]:  # Any: JSON values
    """A rule at both ends of the global batches, in virtual nodes of 32."""
    jobs = [
        _job(V=batch // 32, batch=batch, seed=seed, lr=scale_rate(best, batch, rule))
        for batch in ENDS
        for seed in SEEDS
    ]
    return _scored({"rule": rule}, jobs, images)


def _job(*, V: int, batch: int, seed: int, lr: float) -> Job:
    return Job(
        virtual_nodes=V,
        global_batch_size=batch,
        workers=1,
        seed=seed,
        lr=lr,
        held_out="validation",
        digest_every=0,
    )


def _scored(what: dict[str, Any], jobs: list[Job], images: Path) -> dict[str, Any]:
    runs = [run_job(job, images) for job in jobs]
    accuracy = statistics.fmean(run["accuracy"] for run in runs)
    print(f"{what}: {accuracy:.4f}", flush=True)
    return {**what, "accuracy": accuracy, "runs": runs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out")
    args = parser.parse_args()
    with images_on_disk() as (path, images):
        rates = [try_rate(lr, path) for lr in RATES]
        best = max(rates, key=lambda rate: (rate["accuracy"], -rate["lr"]))["lr"]
        rules = [try_rule(rule, best, path) for rule in RULES]
    write_json(
        args.out,
        {
            **describe("python benchmarks/paper/tune.py"),
            **describe_training(images),
            "seeds": SEEDS,
            "rates": rates,
            "rules": rules,
            "lr": best,
            "rule": max(rules, key=lambda rule: rule["accuracy"])["rule"],
        },
    )


if __name__ == "__main__":
    main()
