"""Which device each worker drives."""

import importlib.util
import re
from collections.abc import Mapping
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
