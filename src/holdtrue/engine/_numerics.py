"""Settings of torch that the level of numerics asks for: one place that touches torch's globals."""

import os
import sys
from typing import Any

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
    _choose_kernels(is_deterministic=level != "fast")
    if level == "fast":
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # With deterministic algorithms torch would also fill every new tensor: it costs time and hides nothing here.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # set by a module class
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False


def _choose_kernels(*, is_deterministic: bool) -> None:
    """Do as `torch.use_deterministic_algorithms`, which imports all of torch's compiler to tell it.

    That takes long, and most scripts compile nothing. The compiler reads the variable when it is imported; one that is here
    already is told.
    """
    torch.set_deterministic_debug_mode("error" if is_deterministic else "default")
    os.environ["TORCHINDUCTOR_DETERMINISTIC"] = str(int(is_deterministic))
    compiler: Any = sys.modules.get("torch._inductor.config")  # Any: a module without types
    if compiler is not None:
        compiler.deterministic = is_deterministic


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
