"""Settings of torch that the level of numerics asks for: one place that touches torch's globals."""

import os
import sys

import torch

from holdtrue.numerics import close_initial, open_initial
from holdtrue.plan import NumericsLevel

RECOMPILE_LIMIT = 64
"""Shapes that one compiled function may be specialised for; a plan has at most a handful of pass shapes."""


def apply_numerics(level: NumericsLevel, *, threads: int, is_training: bool = False) -> None:
    """Pin what the bits of a pass depend on besides its inputs.

    Args:
        level: `"exact"` and `"portable"` pin kernels; `"fast"` leaves torch its choice of them. What else `"portable"`
            asks for is around each pass: see `PassNumerics`.
        threads: Intra-op threads; on CPU their number changes bits, so it is pinned at every level.
        is_training: Whether this thread will build a model and train it: at `"portable"` its initial arithmetic has one
            answer from here until `PassNumerics.begin_training`.

    """
    torch.set_num_threads(threads)
    (open_initial if level == "portable" and is_training else close_initial)()
    if level == "fast":
        torch.use_deterministic_algorithms(False)
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # With deterministic algorithms torch would also fill every new tensor: it costs time and hides nothing here.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # set by a module class
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False


def specialise_compiled_shapes(level: NumericsLevel) -> None:
    """Make torch.compile build one program for each pass shape, so that bits do not depend on shapes seen before.

    Does nothing while torch.compile has not been used: importing its machinery costs a second.
    """
    if level == "fast" or "torch._dynamo" not in sys.modules:
        return
    import torch._dynamo.config as dynamo

    dynamo.automatic_dynamic_shapes = False
    dynamo.assume_static_by_default = True
    dynamo.recompile_limit = max(RECOMPILE_LIMIT, dynamo.recompile_limit)
    dynamo.fail_on_recompile_limit_hit = True
