"""transformers' Trainer on virtual nodes: the same arguments in, the same bits out on any number of workers.

    from holdtrue.integrations.transformers import Trainer      # instead of: from transformers import Trainer
    Trainer(model=model, args=TrainingArguments(...), train_dataset=train_set).train()

transformers is loaded when a name is first read.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from holdtrue.errors import UsageError

if TYPE_CHECKING:
    from ._trainer import Seq2SeqTrainer as Seq2SeqTrainer
    from ._trainer import Trainer as Trainer

__all__ = ["Seq2SeqTrainer", "Trainer"]


def __getattr__(name: str) -> Any:  # Any: a class of the package
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}._trainer"), name)
    except ModuleNotFoundError as error:
        if error.name not in ("transformers", "accelerate"):
            raise
        raise UsageError(
            f"{error.name} is not installed; holdtrue.integrations.transformers builds on it. "
            f"Install the extra: holdtrue[transformers]."
        ) from error
