"""Lightning's Trainer on virtual nodes: a strategy under which LightningModules train unchanged.

    from holdtrue.integrations.lightning import VirtualNodeStrategy
    strategy = VirtualNodeStrategy(virtual_nodes=8, global_batch_size=64)
    lightning.Trainer(accelerator="cpu", devices=1, strategy=strategy).fit(module, train_loader)

Lightning is loaded when a name is first read: it takes seconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from holdtrue.errors import UsageError

if TYPE_CHECKING:
    from ._strategy import VirtualNodeStrategy as VirtualNodeStrategy

__all__ = ["VirtualNodeStrategy"]


def __getattr__(name: str) -> Any:  # Any: a class of the package
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}._strategy"), name)
    except ModuleNotFoundError as error:
        if error.name != "lightning":
            raise
        raise UsageError(
            "lightning is not installed; holdtrue.integrations.lightning builds on it. "
            "Install the extra: holdtrue[lightning]."
        ) from error
