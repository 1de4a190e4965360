"""Page faults and system time of a step, with and without keeping freed memory (engine/_memory.py).

    python benchmarks/page_faults.py --out benchmarks/raw/page_faults.json

Each case is a fresh process that trains the small transformer on 8 virtual nodes with one worker.
"""

import argparse
import json
import resource
import subprocess
import sys
from unittest import mock

import torch

from common import describe, models, spread, write_json

STEPS = 4


def child(keeps: bool) -> None:
    """Train a few steps and print faults and system seconds of each."""
    from overhead import holdtrue_loop

    torch.set_num_threads(1)
    build, data, b = models("transformer", 8)
    with mock.patch("holdtrue.run._core.keep_freed_memory", wraps=None if not keeps else _keep):
        loop = holdtrue_loop(build(), data, 8, b)
        for _ in range(2):
            next(loop)
    rows = []
    for _ in range(STEPS):
        before = resource.getrusage(resource.RUSAGE_SELF)
        next(loop)
        after = resource.getrusage(resource.RUSAGE_SELF)
        rows.append((after.ru_minflt - before.ru_minflt, after.ru_stime - before.ru_stime))
    print("ROWS " + json.dumps(rows))


def _keep() -> bool:
    from holdtrue.engine import keep_freed_memory

    return keep_freed_memory()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--child", choices=["keep", "default"], help="used by this script itself")
    args = parser.parse_args()
    if args.child:
        child(args.child == "keep")
        return
    results = {}
    for case in ("default", "keep"):
        faults, system_s = [], []
        for _ in range(args.repeats):
            done = subprocess.run(
                [sys.executable, __file__, "--child", case], capture_output=True, text=True, check=True
            )
            line = next(x for x in done.stdout.splitlines() if x.startswith("ROWS "))
            rows = json.loads(line.removeprefix("ROWS "))
            faults += [r[0] for r in rows]
            system_s += [r[1] for r in rows]
        results[case] = {"faults_per_step": spread(faults), "system_s_per_step": spread(system_s)}
        print(
            f"{case}: {spread(faults)['median']:.0f} faults, {spread(system_s)['median'] * 1e3:.1f} ms system time per step"
        )
    write_json(args.out, {**describe("python benchmarks/page_faults.py"), "results": results})


if __name__ == "__main__":
    main()
