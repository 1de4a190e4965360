"""Become another program that dies with its parent: `python _tie_to_parent.py PARENT_PID PROGRAM ARGS`.

A file of its own, run before each worker, because the request to the kernel must come from the new
process, and code between fork and exec is not safe in a launcher that has threads (a notebook).
It costs one interpreter start without site, about 10 ms. It imports nothing of holdtrue.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask the kernel to send SIGKILL at the parent's death, then run the program."""
    parent, program = int(sys.argv[1]), sys.argv[2:]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the request
        os._exit(1)
    os.execv(program[0], program)


if __name__ == "__main__":
    main()
