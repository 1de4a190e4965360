"""Names of jobs and of their run directories."""

import re
from datetime import datetime
from pathlib import Path

from holdtrue.errors import UsageError

PLAN_FILE = "plan.json"
"""Once it is there, a directory holds a run."""

_NAME = re.compile(r"[a-z0-9-]{1,63}")


def check_name(name: str) -> str:
    """`name`, if it is a job's name.

    Raises:
        UsageError: it is not.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"the name {name!r} is not a job's name; names have 1 to 63 of a-z, 0-9 and '-'. "
            f"Take {name_of_script(name)}, say."
        )
    return name


def name_of_script(script: str) -> str:
    """A job's name made from a script's.

    >>> name_of_script("examples/Train_MNIST.py")
    'train-mnist'
    """
    stem = re.sub(r"[^a-z0-9]+", "-", Path(script).stem.lower()).strip("-")
    return stem[:63] or "job"


def new_run_dir(root: Path, name: str, now: datetime) -> Path:
    """A directory for a new run under `root` that does not exist yet: `NAME-YYYYmmdd-HHMMSS`."""
    stem = f"{name}-{now:%Y%m%d-%H%M%S}"
    candidate, count = root / stem, 1
    while candidate.exists():
        count += 1
        candidate = root / f"{stem}-{count}"
    return candidate


def newest_run_dir(root: Path, name: str) -> Path:
    """The newest run directory of the job `name` under `root` that holds a run: a start that was refused leaves one without.

    Raises:
        UsageError: there is none.
    """
    pattern = re.compile(re.escape(name) + r"-(\d{8}-\d{6})(?:-(\d+))?")
    found = [
        (match[1], int(match[2] or 1), path)
        for path in (root.iterdir() if root.is_dir() else ())
        if (match := pattern.fullmatch(path.name)) and (path / PLAN_FILE).is_file()
    ]
    if not found:
        raise UsageError(
            f"there is no run of {name!r} in {root}/ to resume; --resume without --run-dir takes the newest "
            f"{root}/{name}-DATE-TIME. Name the run with --run-dir, or start without --resume."
        )
    return max(found)[2]
