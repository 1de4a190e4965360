"""What a worker of `holdtrue.launch` runs: `python -m holdtrue.launch._bootstrap FILE`."""

import os
import sys
from pathlib import Path

from holdtrue.errors import UsageError
from holdtrue.wire import WorkerEnvironment

from ._payload import read_payload, write_result


def main() -> None:
    """Call the function in FILE; the main worker writes its value beside it."""
    payload = Path(sys.argv[1])
    worker = WorkerEnvironment.from_env(os.environ)
    value = read_payload(payload, sys.path)()
    if worker is None or worker.rank == 0:
        try:
            write_result(payload, value)
        except UsageError as error:
            print(error, file=sys.stderr)
            sys.exit(2)


if __name__ == "__main__":
    main()
