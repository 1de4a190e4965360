"""Arithmetic that has one answer: the same bits on unlike processors.

    with portable_mode(key=stream_key(seed, "pass", step, round, virtual_node)):
        loss = F.cross_entropy(model(x), y)      # every operator by its portable form, or refused by name
        loss.backward()

    in:  ATen operators, below autograd
    out: integer matrix products, sums in one order, float64 polynomials, counter-based random numbers

Nothing here depends on the compiled kernels but the time: without them torch operations give the same bits.
"""

from ._bytes import byte_taker
from ._check import check_portable
from ._cuda import cuda_engine
from ._functions import function
from ._initial import close_initial, open_initial
from ._listing import operator_groups
from ._matmul import matmul
from ._mode import portable_mode
from ._native import CUDA_ENGINES, ENGINES, engine, engines, force_engine
from ._philox import RandomStream
from ._recurrent import unfused_layers
from ._registry import covered_operators, register_operator
from ._scalars import COVERED_OPTIMIZERS, steady_optimizer, steady_scheduler
from ._sums import sum64

__all__ = [
    "COVERED_OPTIMIZERS",
    "CUDA_ENGINES",
    "ENGINES",
    "RandomStream",
    "byte_taker",
    "check_portable",
    "close_initial",
    "covered_operators",
    "cuda_engine",
    "engine",
    "engines",
    "force_engine",
    "function",
    "matmul",
    "open_initial",
    "operator_groups",
    "portable_mode",
    "register_operator",
    "steady_optimizer",
    "steady_scheduler",
    "sum64",
    "unfused_layers",
]
