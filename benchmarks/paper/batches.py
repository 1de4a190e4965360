"""Global batches beyond a memory limit on one worker: accuracy, and memory beside a plain pass of the whole batch.

    python benchmarks/paper/batches.py --out benchmarks/raw/paper-batches.json

Global batches 32 to 2048 as virtual nodes of 32, the learning rate scaled by the rule that `tune.py` chose. Peak
memory is the kernel's high-water mark (VmHWM) of a worker's whole life: training, evaluation, records. The plain
loop has the same model and optimizer and takes two steps in a process of its own, for each batch, and by bisection
for the largest batch within `--limit-mib`.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from hardware import TUNING
from jobs import HERE, Job, describe_training, images_on_disk, run_job
from tune import scale_rate

sys.path.append(str(Path(__file__).parents[1]))
from common import describe, write_json

BATCHES = (32, 64, 128, 256, 512, 1024, 2048)
VIRTUAL_NODE_BATCH = 32
SEEDS = (0, 1, 2)
GRAIN = 16
"""The largest plain batch is a multiple of this."""


def plain_peak_bytes(batch: int, images: Path) -> int:
    """Peak memory of a fresh process that trains on whole batches."""
    command = [sys.executable, str(HERE / "plain.py"), "--batch", str(batch), "--images", str(images)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=300)
    return int(done.stdout)


def largest_that_fits(peak_of: Callable[[int], int], limit: int, low: int, high: int) -> int:
    """The largest multiple of GRAIN whose peak is within the limit.

    Args:
        peak_of: Peak bytes of a batch; grows with the batch.
        limit: Bytes.
        low: A batch that fits, a multiple of GRAIN.
        high: A batch that does not fit, a multiple of GRAIN.
    """
    while high - low > GRAIN:
        middle = (low + high) // 2 // GRAIN * GRAIN
        if peak_of(middle) <= limit:
            low = middle
        else:
            high = middle
    return low


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out")
    parser.add_argument("--limit-mib", type=int, default=400)
    args = parser.parse_args()
    tuned = json.loads(TUNING.read_text())
    limit = args.limit_mib * 2**20
    results, peaks = [], {}
    with images_on_disk() as (path, images):

        def peak_of(batch: int) -> int:
            peaks[batch] = plain_peak_bytes(batch, path)
            print(f"plain {batch}: {peaks[batch] / 2**20:.0f} MiB", flush=True)
            return peaks[batch]

        for batch in BATCHES:
            peak_of(batch)
            for seed in SEEDS:
                lr = scale_rate(tuned["lr"], batch, tuned["rule"])
                job = Job(
                    virtual_nodes=batch // VIRTUAL_NODE_BATCH,
                    global_batch_size=batch,
                    workers=1,
                    seed=seed,
                    lr=lr,
                    digest_every=0,
                )
                results.append(run_job(job, path))
                run = results[-1]
                print(f"{batch}: {run['accuracy']:.4f}, {run['peak_bytes'][0] / 2**20:.0f} MiB", flush=True)
        fitting = [batch for batch in BATCHES if peaks[batch] <= limit]
        beyond = [batch for batch in BATCHES if peaks[batch] > limit]
        largest = largest_that_fits(peak_of, limit, max(fitting), min(beyond)) if fitting and beyond else None
    write_json(
        args.out,
        {
            **describe("python benchmarks/paper/batches.py"),
            **describe_training(images),
            "seeds": SEEDS,
            "lr_at_256": tuned["lr"],
            "rule": tuned["rule"],
            "virtual_node_batch": VIRTUAL_NODE_BATCH,
            "limit_bytes": limit,
            "plain_peak_bytes": {str(batch): peaks[batch] for batch in sorted(peaks)},
            "largest_plain_batch": largest,
            "results": results,
        },
    )


if __name__ == "__main__":
    main()
