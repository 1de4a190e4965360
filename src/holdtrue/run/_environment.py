"""What `environment.json` holds: everything about a machine that bits may depend on."""

import os
import platform
import socket
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from holdtrue.numerics import engine

PACKAGES = ("holdtrue", "torch", "numpy", "safetensors", "transformers", "accelerate", "lightning")


def collect_environment(device: torch.device, threads: int) -> dict[str, Any]:  # Any: JSON values
    """Device, versions and settings of this process, as nested JSON values for `holdtrue compare`."""
    return {
        "device": _device(device),
        "threads": {"intra_op": threads, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS")},
        "packages": {name: v for name in PACKAGES if (v := _version(name))},
        "python": platform.python_version(),
        "system": {
            "kernel": platform.release(),
            "libc": " ".join(platform.libc_ver()),
            "machine": platform.machine(),
        },
        "torch": {
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "cuda": torch.version.cuda,
            "git": torch.version.git_version,
            "onednn": torch.backends.mkldnn.is_available(),
            "mkl": torch.backends.mkl.is_available(),
        },
        "numerics": {"engine": engine()},
        "variables": {
            name: os.environ[name]
            for name in (
                "ATEN_CPU_CAPABILITY",
                "MKL_CBWR",
                "ONEDNN_MAX_CPU_ISA",
                "MKL_ENABLE_INSTRUCTIONS",
                "CUBLAS_WORKSPACE_CONFIG",
            )
            if name in os.environ
        },
    }


def _device(device: torch.device) -> dict[str, Any]:  # Any: JSON values
    if device.type == "cuda":
        facts = torch.cuda.get_device_properties(device)
        return {
            "type": "cuda",
            "name": facts.name,
            "memory_bytes": facts.total_memory,
            "multiprocessors": facts.multi_processor_count,
            "capability": f"{facts.major}.{facts.minor}",
        }
    return {"type": "cpu", "name": _cpu_name()}


def name_model(device: torch.device) -> str:
    """Full name of a device's model, as profiles have it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(
                (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
            )
    except OSError:
        return platform.processor() or "unknown"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def name_device(device: torch.device, env: Mapping[str, str]) -> str:
    """A device, told from those of other workers: each may see one GPU alone, and call it cuda:0.

    >>> name_device(torch.device("cuda:0"), {"CUDA_VISIBLE_DEVICES": "3"}).partition("/")[2]
    'cuda:3'
    """
    visible = [entry.strip() for entry in env.get("CUDA_VISIBLE_DEVICES", "").split(",") if entry.strip()]
    index = device.index or 0
    own = f"cuda:{visible[index]}" if device.type == "cuda" and index < len(visible) else str(device)
    return f"{socket.gethostname()}/{own}"
