"""Which device each worker drives."""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
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


_ASK = "import torch; print(*(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())), sep='\\n')"
ASK_WAIT_S = 120.0
"""How long torch may take to load and to look at its devices, in seconds."""


def name_cuda_devices(
    env: Mapping[str, str], *, ask: Callable[..., "subprocess.CompletedProcess[str]"] = subprocess.run
) -> tuple[str, ...]:
    """Full names of the CUDA devices that a process with environment `env` sees, in torch's own order.

    torch is asked, in a process of its own: CUDA orders unlike devices by speed, and no file says how.

    Args:
        env: The environment.
        ask: Runs a command; `subprocess.run`, or a test's own.

    Raises:
        UsageError: torch cannot say.

    Blocks:
        Until torch is loaded, at most `ASK_WAIT_S`.
    """
    try:
        ended = ask(
            [sys.executable, "-c", _ASK], env=dict(env), capture_output=True, text=True, timeout=ASK_WAIT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(
            f"torch could not be asked which CUDA devices are here ({error}); a device's kind is its model. "
            f"Look at `nvidia-smi`, or use --device cpu."
        ) from error
    if ended.returncode != 0:
        last = (ended.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise UsageError(
            f"torch could not say which CUDA devices are here ({last}); a device's kind is its model. "
            f"Look at `nvidia-smi`, or use --device cpu."
        )
    return tuple(line.strip() for line in ended.stdout.splitlines() if line.strip())


def kind_of_model(name: str) -> str:
    """The kind of a CUDA device as profiles and `--devices` name it, from its full name. Pure.

    >>> kind_of_model("NVIDIA H100 80GB HBM3"), kind_of_model("Tesla V100-SXM2-16GB"), kind_of_model("NVIDIA GeForce RTX 3090")
    ('h100-80gb-hbm3', 'v100-sxm2-16gb', 'rtx-3090')
    """
    words = [word for word in name.split() if word.lower() not in ("nvidia", "tesla", "geforce")]
    return re.sub(r"[^a-z0-9]+", "-", " ".join(words).lower()).strip("-") or "cuda"


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
