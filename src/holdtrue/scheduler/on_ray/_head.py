"""A Ray cluster of this machine's own: found again, or started beside a keeper of its own.

FOLDER/ray.lock     held by the keeper as long as it lives
FOLDER/ray.json     address, folder of Ray's files, the keeper's process id
FOLDER/ray.log      what Ray printed
"""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from holdtrue.errors import GroupError, WaitTimeoutError
from holdtrue.launch import is_locked, take_lock
from holdtrue.service import write_private

from ._choice import RayCluster

_KEEPER = Path(__file__).with_name("_head_keeper.py")
START_WAIT_S = 90.0
"""What a cluster has until it stands: 3 s on an idle machine, of which most is the processor's."""
END_WAIT_S = 25.0
UNNEEDED_S = 45.0
"""How long nobody needed it until it ends: a scheduler that was killed may be started again."""
_LOOK_S = 0.05
_FILES = "ht-ray-"
"""How the names of folders of Ray's files begin."""
_NO_FACTS = (OSError, ValueError, KeyError, TypeError)
"""What reading the facts raises where there are none."""


def local_cluster(folder: Path, cpus: int, gpus: int = 0, *, unneeded_s: float = UNNEEDED_S) -> RayCluster:
    """The Ray cluster that a scheduler's folder has, started if it has none.

    Args:
        folder: Of the scheduler.
        cpus: CPUs that Ray may give away, for a new one.
        gpus: CUDA devices that it may.
        unneeded_s: How long nobody has needed a new one when it ends.

    Raises:
        GroupError: it could not be started.
        WaitTimeoutError: it did not stand in time; what is left of it ends within 20 s.

    Guarantee:
        It ends when neither a scheduler of the folder nor a job of it lives any more, at most a minute later.

    Blocks:
        At most 90 s.
    """
    lock = take_lock(folder / "ray.lock")
    if lock is not None:
        try:
            _start_keeper(folder, lock, (cpus, gpus), unneeded_s)
        finally:
            os.close(lock)
    facts = _wait_until_it_stands(folder)
    return RayCluster(
        address=facts["address"],
        environment=ray_variables(Path(facts["folder"])),
        end=lambda: _end(folder),
    )


def ray_variables(files: Path) -> dict[str, str]:
    """Variables of all processes of the cluster: who asks it must have its token. Nothing is sent to Ray's makers."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(files / "token"),
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def _start_keeper(folder: Path, lock: int, devices: tuple[int, int], unneeded_s: float) -> None:
    _remove_what_a_killed_keeper_left(folder)
    files = Path(tempfile.mkdtemp(prefix=_FILES))  # mode 0700; short, for the sockets in it have 107 bytes
    write_private(files / "token", secrets.token_hex(32))
    with (folder / "ray.log").open("ab") as log:
        subprocess.Popen(
            [
                *(sys.executable, "-P", str(_KEEPER)),
                *(str(folder), str(files), str(lock), *map(str, devices), str(unneeded_s)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=dict(os.environ) | ray_variables(files),
            pass_fds=(lock,),
            start_new_session=True,
            cwd="/",
        ).returncode = 0  # it outlives this process


def _read_facts(folder: Path) -> dict[str, Any]:  # Any: JSON values
    """What the keeper of a cluster that stands says of it."""
    facts: dict[str, Any] = json.loads((folder / "ray.json").read_text())
    return facts


def _remove_what_a_killed_keeper_left(folder: Path) -> None:
    """Ray's files of a cluster whose keeper could not remove them."""
    with suppress(*_NO_FACTS):
        files = Path(_read_facts(folder)["folder"])
        if files.name.startswith(_FILES):
            shutil.rmtree(files, ignore_errors=True)
    (folder / "ray.json").unlink(missing_ok=True)


def _wait_until_it_stands(folder: Path) -> dict[str, Any]:
    until_s = time.monotonic() + START_WAIT_S
    while time.monotonic() < until_s:
        with suppress(*_NO_FACTS):
            return _read_facts(folder)
        if not is_locked(folder / "ray.lock"):
            raise GroupError(
                f"a Ray cluster of this machine's own ended before it stood. See {folder / 'ray.log'}, and start again."
            )
        time.sleep(_LOOK_S)
    raise WaitTimeoutError(
        f"a Ray cluster of this machine's own did not stand within {START_WAIT_S:g} s. See {folder / 'ray.log'}, and "
        f"start again."
    )


def _end(folder: Path) -> None:
    """End the cluster of a folder, at most 25 s; where no keeper says that it is one, nothing is sent."""
    until_s = time.monotonic() + END_WAIT_S
    if is_locked(folder / "ray.lock"):
        with suppress(*_NO_FACTS):
            os.kill(int(_read_facts(folder)["keeper"]), signal.SIGTERM)
    while is_locked(folder / "ray.lock") and time.monotonic() < until_s:
        time.sleep(_LOOK_S)
