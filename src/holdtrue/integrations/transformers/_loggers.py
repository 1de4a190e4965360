"""transformers' loggers in a run that goes on: what a killed job logged beyond its newest checkpoint is logged again, and counts once."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, final

from transformers.integrations import MLflowCallback, TensorBoardCallback

from holdtrue.integrations._mlflow import Unlogged


def log_once(callbacks: Iterable[Any], step: int) -> None:  # Any: transformers' callbacks
    """Before training begins on the worker that logs: leave to TensorBoard and MLflow what is new from `step` on.

    Args:
        callbacks: The Trainer's. Those that write into the log of before are meant; a new one has nothing twice.
        step: The first `global_step` that is logged again.
    """
    for callback in callbacks:
        if isinstance(
            callback, TensorBoardCallback
        ):  # readers leave out what was written before from that step on
            callback._SummaryWriter = partial(callback._SummaryWriter, purge_step=step)
        elif isinstance(callback, MLflowCallback):
            callback._ml_flow = _NewMetrics(callback._ml_flow, step)


@final
class _NewMetrics:
    """Stands in for the module mlflow: logs the metrics that the active run has not."""

    def __init__(self, mlflow: Any, step: int) -> None:  # Any: a module that is no dependency
        self._mlflow = mlflow
        self._step = step
        self._left: Unlogged | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._mlflow, name)

    def log_metrics(self, metrics: Mapping[str, float], step: int, **options: Any) -> None:
        if self._left is None:
            run_id = self._mlflow.active_run().info.run_id
            self._left = Unlogged(self._mlflow.MlflowClient(), run_id, self._step)
        left = self._left
        if new := {name: value for name, value in metrics.items() if left.takes(name, step)}:
            self._mlflow.log_metrics(new, step=step, **options)
