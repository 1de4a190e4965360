"""Time to import holdtrue and to print its help, as whole processes.

python benchmarks/startup.py --out benchmarks/raw/startup.json
"""

import argparse
import subprocess
import sys
import time

from common import describe, spread, write_json

CASES = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import holdtrue": [sys.executable, "-c", "import holdtrue"],
    "holdtrue --help": [sys.executable, "-m", "holdtrue", "--help"],
    "import torch": [sys.executable, "-c", "import torch"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out")
    parser.add_argument("--repeats", type=int, default=11)
    args = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(args.repeats):
        for name, command in CASES.items():
            started = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=60)
            seconds[name].append(time.perf_counter() - started)
    base = spread(seconds["python -c pass"])["median"]
    results = {
        name: {**spread(values), "above_python_s": spread(values)["median"] - base}
        for name, values in seconds.items()
    }
    for name, r in results.items():
        print(
            f"{name}: {r['median']:.3f} s ({r['min']:.3f}..{r['max']:.3f}), {r['above_python_s']:.3f} s above bare python"
        )
    write_json(args.out, {**describe("python benchmarks/startup.py"), "results": results})


if __name__ == "__main__":
    main()
