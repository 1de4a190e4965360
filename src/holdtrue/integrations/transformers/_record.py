"""The Trainer's own state as part of the training state: what a checkpoint, a resume and a new worker need of it."""

import json
import os
from typing import Any

from transformers.trainer_callback import ExportableState, TrainerState

CLOCKED = ("_runtime", "_per_second", "_preparation_time")
"""Ends of names of logged values that a clock gave: they are no part of the training state."""
_OWN = ("is_local_process_zero", "is_world_process_zero", "stateful_callbacks")
"""Fields of TrainerState that belong to a process, or are filled when transformers saves."""


def without_clock(values: dict[str, Any]) -> dict[str, Any]:
    """`values` without those that a clock gave.

    >>> without_clock({"eval_loss": 0.5, "eval_runtime": 1.25})
    {'eval_loss': 0.5}
    """
    return {name: value for name, value in values.items() if not name.endswith(CLOCKED)}


class TrainerRecord:
    """TrainerState, control, stateful callbacks and loss totals of a Trainer, for `run.register`.

    Args:
        trainer: The Trainer whose state this is.
    """

    def __init__(self, trainer: Any) -> None:  # Any: a Trainer of this package
        self._trainer = trainer

    def state_dict(self) -> dict[str, Any]:
        """The state as text and numbers: equal on all workers, and free of clocks and folders."""
        trainer = self._trainer
        fields = dict(vars(trainer.state))
        for name in _OWN:
            fields.pop(name, None)
        fields["log_history"] = [without_clock(entry) for entry in fields["log_history"]]
        if fields["best_model_checkpoint"] is not None:
            fields["best_model_checkpoint"] = os.path.relpath(
                fields["best_model_checkpoint"], trainer.args.output_dir
            )
        return {
            "state": json.dumps(fields, sort_keys=True),
            "callbacks": json.dumps([c.state() for c in self._stateful()], sort_keys=True),
            "loss": trainer._tr_loss.double(),
            "total_loss": trainer._total_loss_scalar,
            "last_logged": trainer._globalstep_last_logged,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        trainer = self._trainer
        fields = json.loads(saved["state"])
        if fields["best_model_checkpoint"] is not None:
            fields["best_model_checkpoint"] = os.path.join(
                trainer.args.output_dir, fields["best_model_checkpoint"]
            )
        own = {name: getattr(trainer.state, name) for name in _OWN}
        trainer.state = TrainerState(**fields, **own)
        for callback, state in zip(self._stateful(), json.loads(saved["callbacks"]), strict=True):
            # What its constructor took, the script has given it again; the flags of control came by themselves.
            values = state["args"] if callback is trainer.control else state["attributes"]
            for name, value in values.items():
                setattr(callback, name, value)
        trainer._tr_loss = saved["loss"].to(trainer.args.device)
        trainer._total_loss_scalar = saved["total_loss"]
        trainer._globalstep_last_logged = saved["last_logged"]

    def _stateful(self) -> list[Any]:  # Any: transformers' ExportableState
        trainer = self._trainer
        return [
            c
            for c in [*trainer.callback_handler.callbacks, trainer.control]
            if isinstance(c, ExportableState)
        ]
