"""What TrainingArguments mean on virtual nodes: the plan, what is refused, and who saves."""

import copyreg
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from holdtrue.errors import UsageError
from holdtrue.run import Run

FEWEST_VIRTUAL_NODES = 4
"""Virtual nodes of a global batch that the arguments do not divide themselves, if it has as many examples."""

_REFUSED: tuple[tuple[str, str], ...] = (
    ("deepspeed", "it shards the model, and here a model fits on one device. Leave it out"),
    ("fsdp", "it shards the model, and here a model fits on one device. Leave it out"),
    (
        "auto_find_batch_size",
        "it changes the size of a pass with a device's memory, and bits with it. Choose a batch size yourself",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """The plan's numbers, and the arguments that they came from."""

    virtual_nodes: int
    """V."""
    global_batch_size: int
    """B, examples in a step."""
    reason: str
    """How they came about, for the line at the start."""


def divide_arguments(
    *, per_device: int, accumulation: int, devices: int, virtual_nodes: int | None
) -> Division:
    """The plan that batch and accumulation settings ask for.

    Args:
        per_device: `per_device_train_batch_size`.
        accumulation: `gradient_accumulation_steps`.
        devices: Devices that the two were chosen for: not those that are there now.
        virtual_nodes: V if the script says so.

    Returns:
        One virtual node for each batch of one device; four where there is only one such batch.

    >>> divide_arguments(per_device=8, accumulation=4, devices=2, virtual_nodes=None).reason
    'per_device_train_batch_size 8 x gradient_accumulation_steps 4 x 2 devices = global batch 64, a virtual node for each 8'
    >>> divide_arguments(per_device=8, accumulation=1, devices=1, virtual_nodes=None).virtual_nodes
    4
    """
    total, batches = per_device * accumulation * devices, accumulation * devices
    found = virtual_nodes or (batches if batches > 1 else min(FEWEST_VIRTUAL_NODES, total))
    how = f"a virtual node for each {per_device}" if found == batches else f"{found} virtual nodes"
    return Division(
        virtual_nodes=found,
        global_batch_size=total,
        reason=(
            f"per_device_train_batch_size {per_device} x gradient_accumulation_steps {accumulation} x {devices} "
            f"device{'s' if devices > 1 else ''} = global batch {total}, {how}"
        ),
    )


def check_arguments(args: Any) -> None:  # Any: TrainingArguments
    """Refuse settings that contradict virtual nodes.

    Raises:
        UsageError: one of them is set; the message says what to do.
    """
    for name, reason in _REFUSED:
        if getattr(args, name, None):
            raise UsageError(f"TrainingArguments has {name}={getattr(args, name)!r}; {reason}.")
    if args.world_size > 1:
        raise UsageError(
            f"this process is one of {args.world_size} that torchrun or accelerate started; then their own all-reduce would "
            f"add up the gradients. Start the script with `holdtrue run --workers {args.world_size}`."
        )
    optim = getattr(args.optim, "value", str(args.optim))
    if "lomo" in optim or "layerwise" in optim:
        raise UsageError(
            f"TrainingArguments has optim={optim!r}; it updates parameters during backward, before the gradient of the whole "
            f"global batch is there. Use an optimizer that steps afterwards, such as adamw_torch."
        )


class _Placed:
    """Arguments of a process that is a worker: its device is the run's, and one worker speaks for the job."""

    _holdtrue_run: Run

    @property
    def device(self) -> torch.device:
        return self._holdtrue_run.device

    @property
    def n_gpu(self) -> int:
        return int(self._holdtrue_run.device.type == "cuda")

    @property
    def world_size(self) -> int:
        return 1

    @property
    def should_save(self) -> bool:
        run = self._holdtrue_run
        return not run.is_trial and run.on_main(lambda: True) is True

    @property
    def should_log(self) -> bool:
        return self._holdtrue_run.is_main

    @property
    def process_index(self) -> int:
        return 0 if self._holdtrue_run.is_main else 1

    @property
    def local_process_index(self) -> int:
        return self.process_index

    @property
    def parallel_mode(self) -> Any:  # Any: transformers' own enumeration
        return transformers.training_args.ParallelMode.NOT_DISTRIBUTED

    def __reduce_ex__(self, protocol: Any) -> Any:  # Any: the protocol of pickle
        # Saved beside a model, they are the arguments that the script made, and load without holdtrue.
        state = {k: v for k, v in self.__dict__.items() if k != "_holdtrue_run"}
        return copyreg._reconstructor, (type(self).__bases__[1], object, None), state  # type: ignore[attr-defined]


def _placed_kind(kind: type) -> type:
    return type(kind.__name__, (_Placed, kind), {"__module__": kind.__module__})


def place_arguments(args: Any, run: Run) -> None:  # Any: TrainingArguments
    """Make the script's own arguments object answer for a worker: who saves, which device.

    The object stays the one that the script holds, so that its own `if args.should_save` is right too.
    """
    args.__dict__["_holdtrue_run"] = run
    kind = type(args)
    args.__class__ = kind if issubclass(kind, _Placed) else _placed_kind(kind)
