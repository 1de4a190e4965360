"""Train PyTorch models decoupled from the hardware they run on, bit for bit.

    import holdtrue as ht

    run = ht.init(virtual_nodes=16, global_batch_size=256, seed=0)
    model, optimizer = run.prepare(model, optimizer)
    for step in run.steps(train_set, epochs=10):
        for x, y in step:
            step.backward(F.cross_entropy(model(x), y))
        step.update(max_grad_norm=1.0)

Importing is cheap: torch is loaded when a name that uses it is first read.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import HoldtrueError
from .mapping import Mapping, even_mapping, parse_mapping, proportional_mapping
from .plan import Plan

if TYPE_CHECKING:
    from .launch import launch as launch
    from .run import Outputs as Outputs
    from .run import Run as Run
    from .run import Step as Step
    from .run import init as init

__version__ = "0.1.0"

__all__ = [
    "HoldtrueError",
    "Mapping",
    "Outputs",
    "Plan",
    "Run",
    "Step",
    "even_mapping",
    "init",
    "launch",
    "parse_mapping",
    "proportional_mapping",
]

_LAZY = {"init": "run", "Outputs": "run", "Run": "run", "Step": "run", "launch": "launch"}


def __getattr__(name: str) -> Any:  # Any: a class or function of the package
    if name not in _LAZY:
        raise AttributeError(f"module 'holdtrue' has no attribute {name!r}")
    value = getattr(import_module(f"holdtrue.{_LAZY[name]}"), name)
    globals()[name] = value  # the submodule of the same name must not shadow it
    return value


def __dir__() -> list[str]:
    return __all__
