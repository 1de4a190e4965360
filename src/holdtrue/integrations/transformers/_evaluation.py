"""Evaluation and prediction of a Trainer over virtual nodes: passes of fixed size, metrics over all of them."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree
from transformers.trainer_pt_utils import find_batch_size
from transformers.trainer_utils import EvalLoopOutput, EvalPrediction, denumpify_detensorize

from holdtrue.errors import UsageError

PADDING = -100
"""What fills up outputs of unlike lengths, as in transformers."""


def run_evaluation(
    trainer: Any,  # Any: a Trainer of this package
    dataloader: Any,  # Any: a DataLoader
    *,
    loss_only: bool,
    ignore_keys: list[str] | None,
    prefix: str,
) -> EvalLoopOutput:
    """What transformers' evaluation loop returns, with every example exactly once on any number of workers.

    Raises:
        UsageError: the data has no length, or a pass gives nothing to collect.

    Blocks:
        Until every worker has done its share, at most the group's time-out.
    """
    run, size = trainer.run, trainer.args.eval_batch_size
    model = trainer.accelerator.prepare_model(trainer.model, evaluation_mode=True)
    _cast(trainer, model)
    model.eval()
    if callable(getattr(trainer.optimizer, "eval", None)):
        trainer.optimizer.eval()
    trainer.callback_handler.eval_dataloader = dataloader

    def predict_batch(*batch: Any) -> dict[str, Any]:  # Any: what the collator makes
        return _predict_batch(trainer, model, batch[0], loss_only, ignore_keys)

    source, collate = _source_of(dataloader)
    found = run.predict(predict_batch, source, batch_size=size, collate_fn=collate, pad_value=PADDING)
    if found is None:  # a resumed run, before its live call
        return EvalLoopOutput(
            predictions=None,
            label_ids=None,
            metrics=_keep(trainer, None),
            num_samples=len(dataloader.dataset),
        )
    columns = {name: _to_arrays(value) for name, value in found.items()}
    metrics = _metrics(trainer, columns, size)
    if "losses" in columns:
        metrics[f"{prefix}_loss"] = _mean_loss(columns["losses"], trainer.args.logging_nan_inf_filter)
    named = {n if n.startswith(f"{prefix}_") else f"{prefix}_{n}": v for n, v in metrics.items()}
    return EvalLoopOutput(
        predictions=columns.get("logits"),
        label_ids=columns.get("labels"),
        metrics=_keep(trainer, named),
        num_samples=len(dataloader.dataset),
    )


def _predict_batch(
    trainer: Any, model: Any, inputs: Any, loss_only: bool, ignore_keys: list[str] | None
) -> dict[str, Any]:
    args = trainer.args
    loss, logits, labels = trainer.prediction_step(model, inputs, loss_only, ignore_keys=ignore_keys)
    examples = find_batch_size(inputs)
    found: dict[str, Any] = {}
    if loss is not None:
        found["losses"] = loss.reshape(1).repeat(examples)
    if logits is not None:
        if trainer.preprocess_logits_for_metrics is not None:
            logits = trainer.preprocess_logits_for_metrics(logits, labels)
        found["logits"] = logits
    if labels is not None:
        found["labels"] = labels
    if "inputs" in args.include_for_metrics:
        found["inputs"] = inputs[getattr(trainer.model, "main_input_name", "input_ids")]
    if not found:
        raise UsageError(
            f"the evaluation gave nothing to collect: the batch has no {' or '.join(trainer.label_names) or 'labels'}, so there "
            f"is no loss, and predictions were not asked for. Put labels into the data set, or set compute_metrics."
        )
    trainer.control = trainer.callback_handler.on_prediction_step(args, trainer.state, trainer.control)
    return found


def _source_of(dataloader: Any) -> tuple[Any, Any]:
    """What to read and how to collate it; the DataLoader itself where a sampler of its own decides the order."""
    if isinstance(dataloader.dataset, torch.utils.data.IterableDataset):
        raise UsageError(
            f"the evaluation set is a {type(dataloader.dataset).__name__}, which has no length; every example is counted once, "
            f"by its index. Pass a map-style data set, such as list(dataset)."
        )
    if type(dataloader.sampler) is torch.utils.data.SequentialSampler:
        return dataloader.dataset, dataloader.collate_fn
    return dataloader, None


def _cast(trainer: Any, model: Any) -> None:
    if trainer.is_in_train:
        return
    if trainer.args.fp16_full_eval or trainer.args.bf16_full_eval:
        model.to(dtype=torch.float16 if trainer.args.fp16_full_eval else torch.bfloat16)


def _to_arrays(value: Any) -> Any:
    return pytree.tree_map(lambda t: t.float().numpy() if t.dtype == torch.bfloat16 else t.numpy(), value)


def _mean_loss(losses: Any, is_filtered: bool) -> float:
    finite = np.isfinite(losses)
    return float((losses[finite] if is_filtered and finite.any() else losses).mean())


def _metrics(trainer: Any, columns: dict[str, Any], size: int) -> dict[str, Any]:
    """What `compute_metrics` returns: of everything at once, or batch by batch."""
    if trainer.compute_metrics is None or "logits" not in columns or "labels" not in columns:
        return {}
    if not trainer.args.batch_eval_metrics:
        metrics = trainer.compute_metrics(_prediction(trainer, columns))
    else:
        metrics = {}
        for part, is_last in _batches(columns, size):
            metrics = trainer.compute_metrics(_prediction(trainer, part), compute_result=is_last)
    return dict(denumpify_detensorize(metrics))


def _batches(columns: dict[str, Any], size: int) -> Iterator[tuple[dict[str, Any], bool]]:
    total = len(pytree.tree_leaves(columns)[0])
    for start in range(0, total, size):
        part = pytree.tree_map(lambda a, s=start: torch.from_numpy(a[s : s + size]), columns)
        yield part, start + size >= total


def _prediction(trainer: Any, columns: dict[str, Any]) -> EvalPrediction:
    wanted = trainer.args.include_for_metrics
    return EvalPrediction(
        predictions=columns["logits"],
        label_ids=columns["labels"],
        losses=columns.get("losses") if "loss" in wanted else None,
        inputs=columns.get("inputs") if "inputs" in wanted else None,
    )


def _keep(trainer: Any, metrics: dict[str, Any] | None) -> dict[str, Any]:
    """Outside training, metrics go through the run's record: a run that goes on gets those of the first time."""
    if trainer.is_in_train:
        return metrics or {}
    numbers = {n: float(v) for n, v in (metrics or {}).items() if isinstance(v, int | float)}
    kept = trainer.run.share(numbers)
    return dict(metrics or kept or {})
