"""Which device each worker drives."""

import importlib.util
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from holdtrue.errors import UsageError


def count_cuda_devices(env: Mapping[str, str], device_folder: Path = Path("/dev")) -> int:
    """CUDA devices that a process with environment `env` would see, without loading torch."""
    visible = env.get("CUDA_VISIBLE_DEVICES")
    present = sum(1 for path in device_folder.glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name))
    if visible is None or present == 0:
        return present
    chosen: list[str] = []
    for entry in visible.split(","):
        if not entry.strip() or entry.strip() == "-1":
            break  # as CUDA reads it: what follows an invalid entry is not visible
        chosen.append(entry)
    return len(chosen)


def torch_has_cuda() -> bool:
    """Whether the installed torch is built for CUDA, from its version file: loading it takes a second."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    try:
        text = Path(spec.origin).with_name("version.py").read_text()
    except OSError:
        return True  # an unusual build: let torch itself say
    return re.search(r"^cuda\b[^=\n]*=\s*None", text, re.MULTILINE) is None


def count_devices(device: str, threads: int, env: Mapping[str, str]) -> int:
    """Devices of this machine that a job may take: CUDA devices, or CPU slots of so many threads."""
    cuda = count_cuda_devices(env) if device != "cpu" and torch_has_cuda() else 0
    if device == "cuda" or cuda:
        return cuda
    return max(1, len(os.sched_getaffinity(0)) // max(1, threads))


def assign_devices(device: str, workers: int, cuda_devices: int) -> tuple[str, ...]:
    """The device of each worker, by rank. Pure.

    Args:
        device: `cpu`, `cuda`, or `auto` (cuda where there is one).
        workers: Number of workers, at least 1.
        cuda_devices: CUDA devices on this machine.

    Raises:
        UsageError: `cuda` where there is none.

    >>> assign_devices("auto", 3, 2)
    ('cuda:0', 'cuda:1', 'cuda:0')
    """
    if device == "cuda" and cuda_devices == 0:
        raise UsageError(
            "the device is cuda and this machine shows no CUDA device; it needs one that is visible "
            "(see `nvidia-smi` and CUDA_VISIBLE_DEVICES). Use --device cpu or --device auto."
        )
    if device == "cpu" or cuda_devices == 0:
        return ("cpu",) * workers
    return tuple(f"cuda:{rank % cuda_devices}" for rank in range(workers))


def local_task(env: Mapping[str, str]) -> int:
    """Number of this process among the tasks that a batch system started together on this machine; 0 where none did. Pure.

    Slurm shows all GPUs of a step to each of its tasks, unless they are bound to tasks: then each sees its own alone.

    >>> local_task({"SLURM_LOCALID": "2"}), local_task({})
    (2, 0)
    """
    text = env.get("SLURM_LOCALID", "")
    return int(text) if text.isascii() and text.isdecimal() else 0


def choose_device(devices: tuple[str, ...], in_use: Sequence[str]) -> str:
    """The device that fewest workers drive; the first of several. Pure.

    >>> choose_device(("cuda:0", "cuda:1"), ("cuda:0",))
    'cuda:1'
    """
    return min(devices, key=in_use.count)


def count_slots(workers: int, most: int | None, devices: int) -> int:
    """Workers that this machine offers to run at once. Pure.

    A few more than it has devices, so that a job can be tried on a small machine; not so many that a slip of the
    hand in `holdtrue resize` stops it.

    >>> count_slots(2, None, 2), count_slots(1, 16, 1), count_slots(20, None, 2)
    (8, 16, 20)
    """
    return max(workers, most or 0, 4 * devices)
