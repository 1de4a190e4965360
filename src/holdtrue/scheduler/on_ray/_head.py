"""A Ray cluster of this machine's own: found again, or started beside a keeper of its own.

FOLDER/ray.lock     held by the keeper as long as it lives
FOLDER/ray.json     address, folder of Ray's files, the keeper's process id
FOLDER/ray.log      what Ray printed
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

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


def local_cluster(folder: Path, cpus: int, *, unneeded_s: float = UNNEEDED_S) -> RayCluster:
    """The Ray cluster that a scheduler's folder has, started if it has none.

    Args:
        folder: Of the scheduler.
        cpus: CPUs that Ray may give away, for a new one.
        unneeded_s: How long nobody has needed a new one when it ends.

    Raises:
        GroupError: it could not be started.
        WaitTimeoutError: it did not stand in time; nothing of it is left.

    Guarantee:
        It ends when neither a scheduler of the folder nor a job of it lives any more, at most a minute later.

    Blocks:
        At most 90 s.
    """
    lock = take_lock(folder / "ray.lock")
    if lock is not None:
        try:
            _start_keeper(folder, lock, cpus, unneeded_s)
        finally:
            os.close(lock)
    facts = _wait_until_it_stands(folder)
    return RayCluster(
        address=str(facts["address"]),
        environment=ray_variables(Path(str(facts["folder"]))),
        end=lambda: _end(folder, int(str(facts["keeper"]))),
    )


def ray_variables(files: Path) -> dict[str, str]:
    """Variables of all processes of the cluster: who asks it must have its token. Nothing is sent to Ray's makers."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(files / "token"),
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def _start_keeper(folder: Path, lock: int, cpus: int, unneeded_s: float) -> None:
    (folder / "ray.json").unlink(missing_ok=True)
    files = Path(tempfile.mkdtemp(prefix="ht-ray-"))  # mode 0700; short, for the sockets in it have 107 bytes
    write_private(files / "token", secrets.token_hex(32))
    with (folder / "ray.log").open("ab") as log:
        subprocess.Popen(
            [
                *(sys.executable, "-P", str(_KEEPER)),
                *(str(folder), str(files), str(lock), str(cpus), str(unneeded_s)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=dict(os.environ) | ray_variables(files),
            pass_fds=(lock,),
            start_new_session=True,
            cwd="/",
        ).returncode = 0  # it outlives this process


def _wait_until_it_stands(folder: Path) -> dict[str, object]:
    until_s = time.monotonic() + START_WAIT_S
    while time.monotonic() < until_s:
        with suppress(OSError, ValueError):
            facts: dict[str, object] = json.loads((folder / "ray.json").read_text())
            return facts
        if not is_locked(folder / "ray.lock"):
            raise GroupError(
                f"a Ray cluster of this machine's own ended before it stood. See {folder / 'ray.log'}, and start again."
            )
        time.sleep(_LOOK_S)
    raise WaitTimeoutError(
        f"a Ray cluster of this machine's own did not stand within {START_WAIT_S:g} s. See {folder / 'ray.log'}, and "
        f"start again."
    )


def _end(folder: Path, keeper: int) -> None:
    until_s = time.monotonic() + END_WAIT_S
    if is_locked(folder / "ray.lock"):
        with suppress(ProcessLookupError):
            os.kill(keeper, signal.SIGTERM)
    while is_locked(folder / "ray.lock") and time.monotonic() < until_s:
        time.sleep(_LOOK_S)
