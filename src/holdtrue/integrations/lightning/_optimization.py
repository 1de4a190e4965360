"""Lightning's automatic optimization over the passes of a step, and what `self.log` says in them."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.loops.optimization.automatic import Closure, ClosureResult, _AutomaticOptimization
from lightning.pytorch.trainer import call
from lightning.pytorch.utilities.data import extract_batch_size
from torch.utils import _pytree as pytree

from holdtrue.errors import UsageError
from holdtrue.run import Step

if TYPE_CHECKING:
    from ._strategy import VirtualNodeStrategy

_KEPT = ("prog_bar", "logger", "on_step", "on_epoch")
"""Options of `self.log` that say where a value goes."""


class PassOptimization(_AutomaticOptimization):
    """Lightning's optimization whose closure runs all of this worker's passes and the exchange.

    Args:
        trainer: The Trainer.
        strategy: Its strategy.
    """

    def __init__(self, trainer: Any, strategy: VirtualNodeStrategy) -> None:  # Any: Lightning's Trainer
        super().__init__(trainer)
        self._strategy = strategy

    def _make_closure(self, kwargs: OrderedDict[str, Any], optimizer: Any, batch_idx: int) -> Closure:
        zero_grad = self._make_zero_grad_fn(batch_idx, optimizer)

        def run_passes() -> ClosureResult:
            if zero_grad is not None:
                zero_grad()  # before: after the passes there is the gradient of the whole step
            return self._run_passes(kwargs, optimizer)

        return Closure(step_fn=run_passes)

    def _run_passes(self, kwargs: OrderedDict[str, Any], optimizer: Any) -> ClosureResult:
        """Passes and exchange of the step that Lightning has as its batch."""
        strategy, module = self._strategy, self.trainer.lightning_module
        name, step = next(iter(kwargs.items()))
        if not isinstance(step, Step):
            raise UsageError(
                f"training_step was called with a {type(step).__name__} where the run's steps were due; the train loader was "
                f"exchanged. Return one DataLoader from train_dataloader."
            )
        with strategy_step(strategy, step), collect_logs(module, step) as logs:
            for inputs in step:
                inputs = self.trainer.precision_plugin.convert_input(inputs)
                inputs = call._call_strategy_hook(self.trainer, "batch_to_device", inputs, dataloader_idx=0)
                logs.examples = _examples_of(inputs)
                result = self._training_step(OrderedDict(kwargs) | {name: inputs})
                if result.closure_loss is None:
                    raise UsageError(
                        f"training_step returned None in step {step.index}; every virtual node's examples count. "
                        f"Return a loss of 0 that depends on the model, or leave such examples out of the data set."
                    )
                call._call_strategy_hook(self.trainer, "backward", result.closure_loss, optimizer)
        logs.say(step)
        return ClosureResult(torch.tensor(step.loss, device=module.device))


@contextmanager
def strategy_step(strategy: VirtualNodeStrategy, step: Step) -> Iterator[None]:
    """Let `backward` know the step."""
    strategy.step = step
    try:
        with strategy.leaving_if_it_raises():
            yield
    finally:
        strategy.step = None


class PassLogs:
    """Values that a module logs in its passes: their mean over the whole step is what is logged.

    Args:
        module: The LightningModule.
        step: The step that sums them up over all workers.
    """

    def __init__(self, module: Any, step: Step) -> None:  # Any: a LightningModule
        self._module, self._step = module, step
        self.examples = 0
        """Examples of the pass that runs."""

    def log(self, name: str, value: Any, prog_bar: bool = False, **options: Any) -> None:
        """Stands for `self.log` in training_step: the same arguments.

        Raises:
            UsageError: the value is no number, or is not to be averaged.
        """
        if not isinstance(value, torch.Tensor | float | int):
            raise UsageError(
                f"training_step logged a {type(value).__name__} as {name!r}; a metric object has state on each worker alone. Log "
                f"numbers in training_step, and metric objects in validation_step."
            )
        if options.get("reduce_fx", "mean") not in ("mean", torch.mean):
            raise UsageError(
                f"training_step logged {name!r} with reduce_fx={options['reduce_fx']!r}; a value of a step is the mean over its "
                f"examples. Leave reduce_fx out."
            )
        count = options.get("batch_size") or self.examples
        kept = {"prog_bar": prog_bar} | {n: options.get(n) for n in _KEPT[1:]}
        key = json.dumps([name, kept], sort_keys=True)
        number = value.detach().double() if isinstance(value, torch.Tensor) else float(value)
        self._step.sum(**{f"log {key}": number * count, f"count {key}": count})

    def say(self, step: Step) -> None:
        """Log the means through Lightning, the same on every worker."""
        module, totals = self._module, step.totals
        module._current_fx_name = "training_step"
        try:
            for key, total in totals.items():
                if key.startswith("log "):
                    count = totals[f"count {key.removeprefix('log ')}"]
                    name, options = json.loads(key.removeprefix("log "))
                    mean = torch.tensor(total / count, dtype=torch.float32, device=module.device)
                    module.log(name, mean, batch_size=int(count), **options)
        finally:
            module._current_fx_name = None


@contextmanager
def collect_logs(module: Any, step: Step) -> Iterator[PassLogs]:
    """Let `module.log` go to the step while its passes run."""
    logs = PassLogs(module, step)
    module.__dict__["log"] = logs.log
    try:
        yield logs
    finally:
        module.__dict__.pop("log", None)


def _examples_of(inputs: Any) -> int:
    tensors = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, torch.Tensor) and leaf.dim()]
    return len(tensors[0]) if tensors else int(extract_batch_size(inputs))
