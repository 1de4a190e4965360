"""The scheduler's process: `python -m holdtrue.scheduler FOLDER DEVICES QUEUES POLICY ENGINE MEMORY`."""

import sys

from ._serve import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
