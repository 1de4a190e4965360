"""Runs the tests of portable functions over all 2^32 float32 inputs in one go, and writes what passed, with the seconds.

python benchmarks/exhaustive.py --out benchmarks/raw/exhaustive.json

About 18 minutes on one core. The file is written anew after each test, so a run that is cut short leaves what it had.
"""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from common import describe, write_json
from holdtrue.numerics import engine

ROOT = Path(__file__).resolve().parents[1]
TESTS = ("tests/unit/test_numerics_exhaustive.py", "tests/unit/test_numerics_functions.py")


class Recorder:
    """Plug-in of pytest that keeps each test's outcome and seconds."""

    def __init__(self, out: str | None) -> None:
        self.out, self.begun_s = out, time.monotonic()
        self.values: dict[str, Any] = {
            **describe("python benchmarks/exhaustive.py"),
            "engine": engine(),
            "inputs": 2**32,
            "selected": 0,
            "tests": {},
        }

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """How many tests there are to run."""
        self.values["selected"] = len(session.items)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test's end: its call, or a set-up that failed or was skipped."""
        if report.when != "call" and report.passed:
            return
        name = report.nodeid.rpartition("::")[2]
        self.values["tests"][name] = {"outcome": report.outcome, "seconds": round(report.duration, 1)}
        outcomes = [test["outcome"] for test in self.values["tests"].values()]
        self.values["passed"] = outcomes.count("passed")
        self.values["failed"] = [
            name for name, test in self.values["tests"].items() if test["outcome"] != "passed"
        ]
        self.values["wall_s"] = round(time.monotonic() - self.begun_s, 1)
        write_json(self.out, self.values)


def main() -> int:
    """Exit status of pytest."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", help="raw file to write")
    options = parser.parse_args()
    out = options.out and os.path.abspath(options.out)
    os.chdir(ROOT)
    recorder = Recorder(out)
    return int(pytest.main(["-m", "slow", "-p", "no:cacheprovider", *TESTS], plugins=[recorder]))


if __name__ == "__main__":
    sys.exit(main())
