"""What is computed: fixed for the life of a job, and free of any device.

    in:  virtual nodes, global batch size, seed, numerics level
    out: Plan; the example range of each virtual node; the key of each random stream; processors to stand in for

Pure: no torch, no clock, no files.
"""

from ._division import divide_batch
from ._plan import NUMERICS_LEVELS, NumericsLevel, Plan
from ._processors import UNLIKE_PROCESSORS, Processor
from ._streams import stream_key

__all__ = [
    "NUMERICS_LEVELS",
    "UNLIKE_PROCESSORS",
    "NumericsLevel",
    "Plan",
    "Processor",
    "divide_batch",
    "stream_key",
]
