"""`python -m holdtrue.numerics._probe QUESTION ANSWER`: one run of `check_portable` in a process of its own."""

import sys
from pathlib import Path

from ._check import answer_probe

if __name__ == "__main__":
    answer_probe(Path(sys.argv[1]), Path(sys.argv[2]))
