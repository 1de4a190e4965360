"""One set of hyper-parameters on 1, 2, 4 and 8 workers, against the naive way.

    python benchmarks/paper/hardware.py --out benchmarks/raw/paper-hardware.json

Ours: global batch 256 = 16 virtual nodes x 16, with the learning rate that `tune.py` chose for it, on 1, 2, 4 and 8
processes; the digest of the training state is taken after every step.

Naive: 32 images for each of w workers, the same hyper-parameters, so the global batch is 32 w. It is computed by
holdtrue on one worker with w virtual nodes of 32: the batches, gradients and batch norm of DistributedDataParallel
on w workers (to rounding), and for w = 1 a plain loop. One thing differs: DDP keeps the running statistics of
rank 0, holdtrue the mean over the virtual nodes.
"""

import argparse
import json
import sys
from pathlib import Path

from jobs import HERE, Job, describe_training, images_on_disk, run_job

sys.path.append(str(Path(__file__).parents[1]))
from common import describe, write_json

WORKERS = (1, 2, 4, 8)
SEEDS = (0, 1, 2, 3, 4)
NAIVE_BATCH = 32
TUNING = HERE.parent / "raw/paper-tuning.json"


def ours(workers: int, seed: int, lr: float) -> Job:
    """The plan, which does not depend on the workers."""
    return Job(virtual_nodes=16, global_batch_size=256, workers=workers, seed=seed, lr=lr)


def naive(workers: int, seed: int, lr: float) -> Job:
    """What `workers` workers compute with a batch of their own each, on one worker."""
    batch = NAIVE_BATCH * workers
    return Job(virtual_nodes=workers, global_batch_size=batch, workers=1, seed=seed, lr=lr, digest_every=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out")
    args = parser.parse_args()
    lr = json.loads(TUNING.read_text())["lr"]
    results = []
    with images_on_disk() as (path, images):
        for seed in SEEDS:
            for way, job_of in (("ours", ours), ("naive", naive)):
                for workers in WORKERS:
                    run = run_job(job_of(workers, seed, lr), path)
                    results.append({"way": way, "stands_for_workers": workers, **run})
                    print(
                        f"seed {seed} {way} {workers}: {run['accuracy']:.4f} {run['digest'][:8]}", flush=True
                    )
    write_json(
        args.out,
        {
            **describe("python benchmarks/paper/hardware.py"),
            **describe_training(images),
            "seeds": SEEDS,
            "lr": lr,
            "results": results,
        },
    )


if __name__ == "__main__":
    main()
