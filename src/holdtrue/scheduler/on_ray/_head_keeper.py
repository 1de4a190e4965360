"""Keeps one Ray cluster: `python _head_keeper.py FOLDER FILES LOCK_FD CPUS UNNEEDED_S`.

It starts Ray on loopback, says where, and ends it when nobody needs it: when no scheduler of the folder and no job of it
has lived for a while, or at SIGTERM. Ray's processes die with it: those that it started are told so by the kernel, the
others notice it.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from holdtrue.launch import TIE_TO_PARENT, is_locked
from holdtrue.service import write_private

_LOOPBACK = Path(__file__).with_name("_loopback.py")
START_S = 80.0
_LOOK_S = 1.0
"""Between two looks at whether it is needed; each takes the attempts' locks for a moment."""
_STAND_LOOK_S = 0.05
_OBJECT_STORE_BYTES = 80_000_000
"""The least that Ray takes: nothing of a job goes through it."""
_TERM_S, _KILL_S = 15.0, 3.0


def main(arguments: list[str]) -> int:
    """Keep the cluster to its end."""
    folder, files, devices, unneeded_s = (
        Path(arguments[0]),
        Path(arguments[1]),
        (arguments[3], arguments[4]),
        float(arguments[5]),
    )
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked.append(1))
    ray = start_ray(files, devices)
    try:
        if not wait_for_address(ray, files, asked):
            return 1
        address = (files / "ray" / "ray_current_cluster").read_text().strip()
        facts = {"address": address, "folder": str(files), "keeper": os.getpid()}
        write_private(folder / "ray.json", json.dumps(facts))
        needed_s = time.monotonic()
        while not asked and ray.poll() is None:
            if is_needed(folder):
                needed_s = time.monotonic()
            elif time.monotonic() >= needed_s + unneeded_s:
                break
            time.sleep(_LOOK_S)
        return 0
    finally:
        (folder / "ray.json").unlink(missing_ok=True)
        end_ray(ray)
        shutil.rmtree(files, ignore_errors=True)


def start_ray(files: Path, devices: tuple[str, str]) -> "subprocess.Popen[bytes]":
    """Start the head node, with so many CPUs and GPUs to give away, in a group of its own."""
    words = [
        *("start", "--head", "--block", "--port", "0", "--node-ip-address", "127.0.0.1"),
        *("--include-dashboard", "false", "--include-log-monitor", "false", "--disable-usage-stats"),
        *(
            "--num-cpus",
            devices[0],
            "--num-gpus",
            devices[1],
            "--object-store-memory",
            str(_OBJECT_STORE_BYTES),
        ),
        *("--temp-dir", str(files / "ray"), "--log-style", "record", "--log-color", "false"),
    ]
    return subprocess.Popen(
        [
            *(sys.executable, "-I", "-S", str(TIE_TO_PARENT), str(os.getpid())),
            *(sys.executable, str(_LOOPBACK), *words),
        ],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )


def wait_for_address(ray: "subprocess.Popen[bytes]", files: Path, asked: list[int]) -> bool:
    """Whether the cluster stands, within a bounded time."""
    until_s = time.monotonic() + START_S
    while time.monotonic() < until_s and ray.poll() is None and not asked:
        if (files / "ray" / "ray_current_cluster").exists():
            return True
        time.sleep(_STAND_LOOK_S)
    print(f"error: Ray did not stand within {START_S:g} s, or ended: {ray.poll()}", file=sys.stderr)
    return False


def is_needed(folder: Path) -> bool:
    """Whether a scheduler of the folder lives, or else an attempt of one of its jobs.

    The attempts' locks are left alone while a scheduler lives: it takes them itself, and waits for none.
    """
    return is_locked(folder / "scheduler.lock") or any(
        is_locked(path) for path in (folder / "attempts").glob("*/lock")
    )


def end_ray(ray: "subprocess.Popen[bytes]") -> None:
    """End the head node and all that it started."""
    with suppress(ProcessLookupError):
        ray.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        ray.wait(_TERM_S)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(ray.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        ray.wait(_KILL_S)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
