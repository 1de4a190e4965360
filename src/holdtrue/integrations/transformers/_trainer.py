"""The Trainer: transformers' own, with its inner training loop and its evaluation loop over virtual nodes."""

import math
import sys
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
import transformers
from transformers.trainer_utils import SaveStrategy, has_length

import holdtrue
from holdtrue.errors import UsageError
from holdtrue.run import Run, Step

from ._arguments import check_arguments, divide_arguments, place_arguments
from ._evaluation import run_evaluation
from ._loggers import log_once, share_places
from ._record import TrainerRecord, without_clock

_present: ContextVar[Run | None] = ContextVar("present", default=None)
"""The run of this worker's Trainers: a process belongs to one."""

if TYPE_CHECKING:
    _Base: TypeAlias = Any  # Any: a Trainer of transformers, which it is mixed into
else:
    _Base = object


class VirtualNodeTrainer(_Base):
    """What is different on virtual nodes; comes before a Trainer of transformers among the bases.

    Args:
        virtual_nodes: V; by default one for each batch of a device that the arguments speak of, or 4 if
            there is only one such batch. The command line overrides it.
        devices: Devices that per-device batch size and accumulation were chosen for. The global batch is
            their product, and it stays so on any number of workers.
    """

    control: Any  # Any: transformers' TrainerControl

    def __init__(
        self, *positional: Any, virtual_nodes: int | None = None, devices: int = 1, **named: Any
    ) -> None:  # Any: transformers' own parameters, which are passed on
        args = named.get("args", positional[1] if len(positional) > 1 else None)
        if args is None:
            args = transformers.TrainingArguments(output_dir="tmp_trainer")
            named["args"] = args
        check_arguments(args)
        self.run = _join_run(args, virtual_nodes, devices)
        place_arguments(args, self.run)
        self._step: Step | None = None
        self._weight: torch.Tensor | None = None
        self._learning_rate = 0.0
        self._has_trained = False
        self._examples = 1
        self._tr_loss = torch.zeros((), dtype=torch.float64)
        self._total_loss_scalar = 0.0
        self._globalstep_last_logged = 0
        super().__init__(*positional, **named)

    # ---- who speaks ----

    def is_world_process_zero(self) -> bool:
        """Whether this worker speaks for the job: writes files and logs. None does in a run of `holdtrue verify`."""
        return self.run.is_main and not self.run.is_trial

    def is_local_process_zero(self) -> bool:
        """Whether this worker prints for the job: a job has one main worker."""
        return self.run.is_main

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As transformers, and once per job into the run directory: what no clock gave."""
        super().log(logs, start_time)
        numbers = {n: v for n, v in without_clock(logs).items() if isinstance(v, int | float)}
        if numbers:
            self.run.log(**numbers)

    # ---- accelerate's part ----

    def create_accelerator_and_postprocess(self) -> None:
        """Accelerate keeps mixed precision and compilation; data, optimizer and backward belong to the run."""
        super().create_accelerator_and_postprocess()
        keep = lambda obj, *_, **__: obj  # noqa: E731 - three times the same nothing
        self.accelerator.prepare_data_loader = keep
        self.accelerator.prepare_optimizer = keep
        self.accelerator.prepare_scheduler = keep
        self.accelerator.backward = self._backward

    def _backward(self, loss: torch.Tensor, **_: Any) -> None:  # Any: options of other backends
        if self._step is None:
            raise UsageError(
                "accelerator.backward was called outside train(); on virtual nodes a gradient belongs to a step. "
                "Override compute_loss or training_step, and let train() call them."
            )
        self._step.backward(loss, self._weight)

    # ---- training ----

    def set_initial_training_values(self, args: Any, dataloader: Any) -> tuple[Any, ...]:
        """As transformers, with steps counted in the plan's global batches."""
        if not has_length(dataloader) or not has_length(dataloader.sampler):
            raise UsageError(
                f"the training set is a {type(dataloader.dataset).__name__} without a length; a Trainer needs one for its "
                f"schedule. Pass a map-style data set, or write the loop with run.steps, which reads iterables by virtual node."
            )
        batch, examples = self.run.plan.global_batch_size, len(dataloader.sampler)
        per_epoch = examples // batch if args.dataloader_drop_last else -(-examples // batch)
        if per_epoch < 1:
            raise UsageError(
                f"the training set has {examples} examples and the global batch {batch}; with dataloader_drop_last there is no "
                f"step. Set it to False, or lower the batch size."
            )
        if args.max_steps > 0:
            max_steps, epochs = args.max_steps, -(-args.max_steps // per_epoch)
            samples = max_steps * batch
        else:
            max_steps = math.ceil(args.num_train_epochs * per_epoch)
            epochs = math.ceil(args.num_train_epochs)
            samples = examples * args.num_train_epochs
        self._examples = per_epoch * batch if args.dataloader_drop_last else examples
        return epochs, per_epoch, examples, samples, batch, per_epoch, max_steps

    def get_total_train_batch_size(self, args: Any) -> int:
        """The plan's global batch size."""
        return self.run.plan.global_batch_size

    def _inner_training_loop(
        self,
        batch_size: int | None = None,
        args: Any = None,
        resume_from_checkpoint: str | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> Any:  # Any: transformers' TrainOutput
        if self._has_trained:
            raise UsageError(
                "train() was called a second time in one run; its training state is fixed from the first. Ask for all epochs at "
                "once (num_train_epochs), or start another job that begins from the saved model."
            )
        self._has_trained = True
        self.accelerator.free_memory()
        loader = self.get_train_dataloader()
        epochs, per_epoch, _, samples, _, _, max_steps = self.set_initial_training_values(args, loader)
        self._init_training_state(max_steps, per_epoch, epochs, resume_from_checkpoint, trial)
        model, _ = self._prepare_for_training(max_steps, loader, resume_from_checkpoint)
        self._start_totals(resume_from_checkpoint)
        self._share_logs()
        self._hand_over()
        start_time = time.time()
        steps = self.run.steps(
            loader, epochs=epochs, drop_last=args.dataloader_drop_last, first_step=self.state.global_step
        )
        first = next(steps, None)  # a run that goes on has its state from here
        self._refresh_handler()
        if self.run.resumed_step is not None and self.is_world_process_zero():
            log_once(self.callback_handler.callbacks, self.state.global_step + 1)
        self.control = self.callback_handler.on_train_begin(args, self.state, self.control)
        if args.eval_on_start and self.state.global_step == 0:
            self._evaluate(trial, ignore_keys_for_eval, skip_scheduler=True)
        begins = self.state.global_step
        for step in _chain(first, steps):
            self._train_step(step, model, per_epoch, begins)
            self._after_step(step, model, trial, per_epoch, ignore_keys_for_eval, start_time)
            if self.control.should_training_stop and self.state.global_step < epochs * per_epoch:
                break
        if args.load_best_model_at_end:
            self._wait_for_all()  # the main worker may still be writing it
        return self._finalize_training(trial, samples, start_time)

    def _start_totals(self, checkpoint: str | None) -> None:
        self._initial_num_input_tokens_seen = self.state.num_input_tokens_seen
        self._initial_global_step = self.state.global_step
        self._tr_loss = torch.zeros((), dtype=torch.float64, device=self.args.device)
        self._total_loss_scalar = 0.0
        self._globalstep_last_logged = self.state.global_step
        self.current_gradient_accumulation_steps = 1  # a pass has the mean over its own items
        if checkpoint is not None:
            self._load_rng_state(checkpoint)

    def _hand_over(self) -> None:
        """Give everything that training changes to the run."""
        self.run.prepare(self.model, self.optimizer)
        if isinstance(self.lr_scheduler, torch.optim.lr_scheduler.LRScheduler):
            self.run.prepare(self.lr_scheduler)
        else:
            self.run.register("lr_scheduler", self.lr_scheduler)
        if getattr(self.accelerator, "scaler", None) is not None:
            self.run.prepare(self.accelerator.scaler)
        self.run.register("trainer", TrainerRecord(self))
        self.optimizer.register_step_pre_hook(lambda *_: self._before_update())
        self.optimizer.register_step_post_hook(lambda *_: self._after_update())

    def _share_logs(self) -> None:
        """One log of each kind for the job, whoever writes it and however often the job is started."""
        self._say_who()
        is_first = self.is_world_process_zero() and self.run.resumed_step is None
        share_places(
            self.callback_handler.callbacks,
            self.run.share,
            folder=self.args.output_dir,
            speaks=self.is_world_process_zero,
            begin=(lambda flow: flow.setup(self.args, self.state, self.model)) if is_first else None,
        )

    def _say_who(self) -> None:
        """Callbacks go by the state: whether this worker speaks for the job."""
        self.state.is_world_process_zero = self.is_world_process_zero()
        self.state.is_local_process_zero = self.is_local_process_zero()

    def _refresh_handler(self) -> None:
        self._say_who()
        if self.state.global_step > self._initial_global_step:
            self._initial_global_step = 0  # the run goes on, and its loss counts from the beginning

    def _before_update(self) -> None:
        handler = self.callback_handler
        self.control = handler.on_pre_optimizer_step(self.args, self.state, self.control)

    def _after_update(self) -> None:
        self.control = self.callback_handler.on_optimizer_step(self.args, self.state, self.control)
        self._learning_rate = self._get_learning_rate()  # before the scheduler moves on

    def _train_step(self, step: Step, model: Any, per_epoch: int, begins: int) -> None:
        if self.state.global_step % per_epoch == 0 or self.state.global_step == begins:
            self.control = self.callback_handler.on_epoch_begin(self.args, self.state, self.control)
        self.control = self.callback_handler.on_step_begin(self.args, self.state, self.control)
        self._learning_rate = self._get_learning_rate()
        self._step = step
        try:
            for inputs in step:
                self._train_pass(step, model, inputs)
        finally:
            self._step = None
        limit = self.args.max_grad_norm
        step.update(self.optimizer, max_grad_norm=limit if limit and limit > 0 else math.inf)
        self.state.total_flos += step.totals["flos"]
        self.state.num_input_tokens_seen += int(step.totals["tokens"])
        if self.args.logging_nan_inf_filter and not math.isfinite(step.loss):
            self._tr_loss += self._tr_loss / (1 + self.state.global_step - self._globalstep_last_logged)
        else:
            self._tr_loss += step.loss

    def _train_pass(self, step: Step, model: Any, inputs: Any) -> None:
        seen = self.state.num_input_tokens_seen
        self._track_num_input_tokens(inputs)
        seen, self.state.num_input_tokens_seen = self.state.num_input_tokens_seen - seen, seen
        step.sum(flos=float(self.floating_point_ops(inputs)), tokens=seen)
        items = self._get_num_items_in_batch([inputs], self.args.device)
        # A loss that its author calls a mean over examples is weighed by examples.
        self._weight = items if self.loss_is_scaled_for_ga is not False else None
        self.training_step(model, inputs, items)
        self.control = self.callback_handler.on_substep_end(self.args, self.state, self.control)

    def _after_step(
        self,
        step: Step,
        model: Any,
        trial: Any,
        per_epoch: int,
        ignore_keys: list[str] | None,
        start_time: float,
    ) -> None:
        """Position, callbacks, and what they ask for: logging, evaluation, saving."""
        norm, rate = step.grad_norm, self._learning_rate
        self.state.global_step += 1
        self.state.epoch = self._epoch_of(self.state.global_step, per_epoch)
        self.control = self.callback_handler.on_step_end(self.args, self.state, self.control)
        self._act(norm, model, trial, ignore_keys, start_time, rate)
        if self.control.should_epoch_stop:
            raise UsageError(
                f"a callback set should_epoch_stop in step {step.index}; an epoch of a run has a fixed number of steps, by which "
                f"it finds its place. Set should_training_stop, or give the data set fewer examples."
            )
        if self.state.global_step % per_epoch == 0 or self.control.should_training_stop:
            self.control = self.callback_handler.on_epoch_end(self.args, self.state, self.control)
            self._act(norm, model, trial, ignore_keys, start_time, rate)

    def _epoch_of(self, steps: int, per_epoch: int) -> float:
        """Epochs after so many steps, by examples: a short last batch counts for less."""
        whole, rest = divmod(steps, per_epoch)
        return whole + min(rest * self.run.plan.global_batch_size, self._examples) / self._examples

    def _act(
        self, norm: float | None, model: Any, trial: Any, ignore: Any, start_time: float, rate: float
    ) -> None:
        self._maybe_log_save_evaluate(
            self._tr_loss, norm, model, trial, self.state.epoch, ignore, start_time, learning_rate=rate
        )

    def _wait_for_all(self) -> None:
        """Blocks until all workers are here, at most the group's time-out."""
        self.run.share(None)

    # ---- saving ----

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        best = self.state.best_global_step
        if self.args.save_strategy in (SaveStrategy.STEPS, SaveStrategy.EPOCH, SaveStrategy.BEST) and best:
            # Not by looking at the disk: one worker writes, and all must know the same.
            self.state.best_model_checkpoint = f"{self._get_output_dir(trial=trial)}/checkpoint-{best}"
        if self.args.should_save:
            super()._save_checkpoint(model, trial)

    # ---- evaluation ----

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> Any:  # Any: transformers' EvalLoopOutput
        """As transformers, over virtual nodes: every example exactly once, the same numbers on any mapping."""
        loss_only = self.args.prediction_loss_only if prediction_loss_only is None else prediction_loss_only
        return run_evaluation(
            self, dataloader, loss_only=loss_only, ignore_keys=ignore_keys, prefix=metric_key_prefix
        )


def _chain(first: Step | None, rest: Iterator[Step]) -> Iterator[Step]:
    if first is not None:
        yield first
        yield from rest


def _join_run(args: Any, virtual_nodes: int | None, devices: int) -> Run:
    """The run of this worker: the one that an earlier Trainer joined, or a new one."""
    present = _present.get()
    if present is not None and not present.is_closed:
        return present
    division = divide_arguments(
        per_device=args.per_device_train_batch_size,
        accumulation=args.gradient_accumulation_steps,
        devices=devices,
        virtual_nodes=virtual_nodes,
    )
    run = holdtrue.init(
        virtual_nodes=division.virtual_nodes, global_batch_size=division.global_batch_size, seed=args.seed
    )
    _present.set(run)
    run.on_main(lambda: print(f"holdtrue: {division.reason}", file=sys.stderr, flush=True))
    return run


class Trainer(VirtualNodeTrainer, transformers.Trainer):
    """Stands in for `transformers.Trainer`: the same arguments, and the same bits on any number of workers."""


class Seq2SeqTrainer(VirtualNodeTrainer, transformers.Seq2SeqTrainer):
    """Stands in for `transformers.Seq2SeqTrainer`."""
