"""The strategy: one batch of Lightning's loop is one step of the run, and its closure goes through the passes."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden

import holdtrue
from holdtrue.engine import PassNumerics, TrainingState
from holdtrue.errors import UsageError
from holdtrue.plan import NumericsLevel
from holdtrue.run import Run, Step

from ._between import step_within
from ._loader import StepLoader
from ._loggers import can_take_over, keep_first_log, share_places, take_over
from ._optimization import PassOptimization
from ._record import LoopRecord
from ._trial import find_saved, keep_apart, place_saved


class VirtualNodeStrategy(SingleDeviceStrategy):
    """Trains a LightningModule on the workers of a job, with the same bits for every mapping.

    Validation, test and prediction run whole on every worker: they do not depend on the mapping, and do
    not get faster with workers.

    Args:
        virtual_nodes: V, the fixed slices of every global batch.
        global_batch_size: B, examples in a step: it replaces the train loader's batch size.
        seed: Seed of every random stream of the run.
        numerics: See `holdtrue.init`. At `"portable"` a module whose initial weights are to be portable too is made in the
            run: its layers in `configure_model`, or all of it after a look at `strategy.run`.
    """

    strategy_name = "virtual_nodes"

    def __init__(
        self,
        *,
        virtual_nodes: int,
        global_batch_size: int,
        seed: int = 0,
        numerics: NumericsLevel = "exact",
    ) -> None:
        super().__init__(device="cpu")
        self._plan: dict[str, Any] = {  # Any: arguments of holdtrue.init
            "virtual_nodes": virtual_nodes,
            "global_batch_size": global_batch_size,
            "seed": seed,
            "numerics": numerics,
        }
        self._run: Run | None = None
        self._is_leaving = False
        self._loader: StepLoader | None = None
        self.record: LoopRecord | None = None
        """Where Lightning's loops are, as part of the training state; None before the first step."""
        self.step: Step | None = None
        """The step whose passes run now."""
        self.taken: Step | None = None
        """The step that Lightning's loop has taken as its batch."""

    @property
    def run(self) -> Run:
        """The run; joined when fitting or testing begins."""
        if self._run is None:
            self._run = holdtrue.init(**self._plan)
        return self._run

    @cached_property
    def numerics(self) -> PassNumerics:
        """What is around Lightning's own arithmetic."""
        return PassNumerics(self.run.plan.numerics, TrainingState())

    # ---- this worker's place ----

    def setup_environment(self) -> None:
        """Join the job, and let one worker speak for it: none in a run of `holdtrue verify`."""
        self._root_device = self.run.device
        self.global_rank = self.local_rank = 0 if self.is_global_zero else 1
        rank_zero_only.rank = self.global_rank
        trainer = self.lightning_module.trainer
        if self.run.is_trial:
            keep_apart(trainer, self.run)
        if self.is_global_zero and self.run.resumed_step is not None:
            keep_first_log(trainer.loggers, self.run.resumed_step)
        super().setup_environment()

    @property
    def is_global_zero(self) -> bool:
        """Whether this worker speaks for the job."""
        return self._run is None or (self._run.is_main and not self._run.is_trial)

    def broadcast(self, obj: Any, src: int = 0) -> Any:  # Any: JSON values; others are kept
        """The main worker's value, where it is one that JSON has."""
        plain = obj is None or isinstance(obj, str | bool | int | float)
        return self.run.share(obj) if plain and not self._is_leaving else obj

    def barrier(self, *_: Any, **__: Any) -> None:  # Any: names
        """Blocks until all workers are here, at most the group's time-out."""
        if self._run is not None and self.step is None and not self._is_leaving:
            self._run.share(None)
            self.follow_main()

    def follow_main(self) -> None:
        """Where this worker has become the main one, its loggers write on from here."""
        run = self._run
        if run is None or self.global_rank == 0 or not run.is_main or run.is_trial:
            return
        loggers = self.lightning_module.trainer.loggers
        if can_take_over(loggers):
            self.global_rank = self.local_rank = rank_zero_only.rank = 0
            take_over(loggers, run.resumed_step)

    def on_exception(self, exception: BaseException) -> None:
        """This worker leaves, or has failed: it waits for nobody any more."""
        self._is_leaving = True

    @contextmanager
    def leaving_if_it_raises(self) -> Iterator[None]:
        """A worker that leaves, or has failed, waits for nobody in what Lightning does at its end."""
        try:
            yield
        except BaseException:
            self._is_leaving = True
            raise

    def keep_sigterm(self) -> None:
        """SIGTERM to a worker is its leave at the next boundary: Lightning's own handler would end it after the batch."""
        before = self.lightning_module.trainer._signal_connector._original_handlers.get(signal.SIGTERM)
        is_main_thread = threading.current_thread() is threading.main_thread()
        if is_main_thread and before not in (None, signal.SIG_DFL, signal.SIG_IGN):
            signal.signal(signal.SIGTERM, before)

    # ---- setting up ----

    def setup(self, trainer: pl.Trainer) -> None:
        """Set up model and optimizer, and put the passes in the place of Lightning's own closure.

        Raises:
            UsageError: the trainer or the module asks for what contradicts virtual nodes.
        """
        super().setup(trainer)
        if trainer.state.fn == "fit":
            _check(trainer, self)
            loop = trainer.fit_loop.epoch_loop
            progress = loop.automatic_optimization.optim_progress
            loop.automatic_optimization = PassOptimization(trainer, self)
            loop.automatic_optimization.optim_progress = progress
            step_within(self.numerics, loop)

    def process_dataloader(self, dataloader: Any) -> Any:  # Any: DataLoaders
        """The train loader as steps of the run; others as they are."""
        module = self.lightning_module
        if module is None or not module.trainer.training:
            return dataloader
        self._loader = StepLoader(self, dataloader)
        return self._loader

    def batch_to_device(self, batch: Any, device: Any = None, dataloader_idx: int = 0) -> Any:
        """A step is no batch: its passes are moved when they come."""
        return batch if isinstance(batch, Step) else super().batch_to_device(batch, device, dataloader_idx)

    def hand_over(self) -> None:
        """Give everything that training changes to the run.

        Blocks:
            Until all workers know where each logger writes, at most the group's time-out for each.
        """
        loggers = self.lightning_module.trainer.loggers
        share_places(loggers, self.run.share, is_main=self.is_global_zero, step=self.run.resumed_step)
        self.run.prepare(self.lightning_module, *self.optimizers)
        for i, config in enumerate(self.lr_scheduler_configs):
            self.run.register(f"scheduler-{i}", config.scheduler)  # Lightning steps it
        self.record = LoopRecord(self.lightning_module.trainer)
        self.run.register("lightning", self.record)

    def on_train_end(self) -> None:
        """The last step is done: close it, on all workers."""
        if self._loader is not None:
            self._loader.finish()

    # ---- files ----

    def save_checkpoint(self, checkpoint: Any, filepath: Any, storage_options: Any = None) -> None:
        """Once for the job; in a run of `holdtrue verify` into its own folder."""
        if not self.run.is_trial:
            super().save_checkpoint(checkpoint, filepath, storage_options)
        elif self.run.is_main:
            path = place_saved(self.run, filepath)
            self.checkpoint_io.save_checkpoint(checkpoint, path, storage_options=storage_options)

    def remove_checkpoint(self, filepath: Any) -> None:
        """Once for the job; in a run of `holdtrue verify` of its own files."""
        if not self.run.is_trial:
            super().remove_checkpoint(filepath)
        elif self.run.is_main:
            self.checkpoint_io.remove_checkpoint(place_saved(self.run, filepath))

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> Any:
        """As Lightning; what a run of `holdtrue verify` saved is where it saved it."""
        return super().load_checkpoint(find_saved(self.run, checkpoint_path), weights_only)

    # ---- a step ----

    def backward(self, closure_loss: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        """The backward of a pass, with Lightning's hooks around it."""
        assert self.step is not None, "a backward belongs to the passes of a step"
        module = self.lightning_module
        self.step.backward(self.precision_plugin.pre_backward(closure_loss, module))
        return self.precision_plugin.post_backward(closure_loss, module)  # type: ignore[no-any-return]

    def optimizer_step(
        self,
        optimizer: torch.optim.Optimizer,
        closure: Callable[[], Any],
        model: Any = None,
        **_: Any,
    ) -> Any:  # Any: as Lightning's
        """All passes and the exchange, then hooks and clipping on the whole gradient, then the update."""
        step = self._taken_step()
        result = closure()
        with self.numerics.around_pass():
            self.precision_plugin._after_closure(model or self.lightning_module, optimizer)
        step.update(optimizer)
        self.follow_main()
        if self.run.is_ending:
            self._end_fit(step.index + 1)
        return result

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:  # Any: Lightning's own
        """The module's step, by the run's arithmetic: what it logs may decide about the training."""
        with self.numerics.around_pass():
            return super().validation_step(*args, **kwargs)

    def test_step(self, *args: Any, **kwargs: Any) -> Any:  # Any: Lightning's own
        """As `validation_step`."""
        with self.numerics.around_pass():
            return super().test_step(*args, **kwargs)

    def predict_step(self, *args: Any, **kwargs: Any) -> Any:  # Any: Lightning's own
        """As `validation_step`."""
        with self.numerics.around_pass():
            return super().predict_step(*args, **kwargs)

    def _end_fit(self, steps: int) -> None:
        """No step follows: `run.stop` was called, or `holdtrue verify` has seen enough."""
        trainer = self.lightning_module.trainer
        trainer.fit_loop.epoch_loop.max_steps = steps
        if self.run.is_trial:
            trainer.should_stop = (
                True  # with a validation: what the script does next may want a best checkpoint
            )

    def _taken_step(self) -> Step:
        step = self.taken
        if step is None:
            raise UsageError(
                "optimizer.step was called outside a batch of fit; on virtual nodes an update belongs to a step. "
                "Leave it to Lightning's automatic optimization."
            )
        return step


def _check(trainer: pl.Trainer, strategy: VirtualNodeStrategy) -> None:
    module = strategy.lightning_module
    rules = (
        (
            not module.automatic_optimization,
            f"{type(module).__name__} has automatic_optimization=False; a step has one backward for each pass and one update",
            "Use automatic optimization, or write the loop with run.steps",
        ),
        (
            trainer.accumulate_grad_batches != 1,
            f"accumulate_grad_batches is {trainer.accumulate_grad_batches}; a global batch is accumulated over virtual nodes",
            "Multiply global_batch_size by it, and leave it out",
        ),
        (
            getattr(strategy.precision_plugin, "scaler", None) is not None,
            "precision 16-mixed has a gradient scaler of Lightning's own, which would scale each pass",
            "Use bf16-mixed or 32-true",
        ),
        (
            is_overridden("on_before_batch_transfer", module),
            f"{type(module).__name__} overrides on_before_batch_transfer, which gets whole steps here",
            "Do the same in on_after_batch_transfer or in the collate function",
        ),
        (
            getattr(trainer, "_val_check_time_interval", None) is not None,
            "val_check_interval is a time; workers' clocks would have them validate, and so save and stop, after unlike steps",
            "Give it as a number of batches or a part of an epoch",
        ),
    )
    for is_wrong, what, way_out in rules:
        if is_wrong:
            raise UsageError(f"{what}. {way_out}.")
