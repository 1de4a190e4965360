"""Adding gradients of all virtual nodes in one order, wherever they were computed.

    in:  gradients of this worker's passes, the tree, the mapping, a group of workers
    out: on every worker the same reduced gradient, in every bit

The order is pure (`holdtrue.mapping`); the bytes move through an adapter: alone, threads of one
process (tests), gloo, nccl. The same `OrderedReduce` runs on all of them.
"""

from ._accumulate import Accumulator, add_gradients
from ._gloo import GlooGroup
from ._group import AloneGroup, Group, Pending
from ._inprocess import InProcessJob
from ._layout import Bucket, GradientLayout, widened_dtype
from ._nccl import NcclGroup
from ._ordered import OrderedReduce
from ._sum_memory import SumMemory

__all__ = [
    "Accumulator",
    "AloneGroup",
    "Bucket",
    "GlooGroup",
    "GradientLayout",
    "Group",
    "InProcessJob",
    "NcclGroup",
    "OrderedReduce",
    "Pending",
    "SumMemory",
    "add_gradients",
    "widened_dtype",
]
