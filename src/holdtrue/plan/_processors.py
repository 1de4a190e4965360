"""Environments in which one processor computes as others do, to try here what portable numerics promises elsewhere."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Processor:
    """A processor that this one stands in for."""

    name: str
    """What it lacks, for people."""
    variables: Mapping[str, str]
    """Environment variables of a process that is to compute as it does; they count when Python starts."""


UNLIKE_PROCESSORS: tuple[Processor, ...] = (
    Processor(
        name="no vector units",
        variables={
            "ATEN_CPU_CAPABILITY": "default",
            "ONEDNN_MAX_CPU_ISA": "SSE41",
            "MKL_CBWR": "COMPATIBLE",
        },
    ),
    Processor(
        name="no fused multiply-add",
        variables={
            "ATEN_CPU_CAPABILITY": "avx2",
            "ONEDNN_MAX_CPU_ISA": "SSE41",
            "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA",
        },
    ),
)
"""Vector units of torch's own kernels, limits of MKL and oneDNN, and a libm without fused multiply-add."""
