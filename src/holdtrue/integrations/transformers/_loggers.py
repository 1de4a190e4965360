"""transformers' loggers when the worker that writes dies, or a killed job goes on: logs are written on, each scalar once."""

import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, final

from transformers.integrations import MLflowCallback, TensorBoardCallback
from transformers.integrations.integration_utils import default_logdir

from holdtrue.integrations._mlflow import Unlogged


def share_places(
    callbacks: Iterable[Any],
    share: Callable[[Any], Any],
    *,
    folder: str,
    speaks: Callable[[], bool],
    begin: Callable[[Any], None] | None,
) -> None:  # Any: transformers' callbacks; texts by name
    """Let all workers know where the first main one writes, and write on there when they come to it.

    Args:
        callbacks: The Trainer's. Those for TensorBoard and MLflow are meant.
        share: `run.share`: the first main worker's value, also in a run that goes on with --resume.
        folder: The Trainer's output folder, in which transformers puts TensorBoard's log if nobody names a place.
        speaks: Whether this worker speaks for the job now.
        begin: Sets an MLflow callback up, on the main worker of a new run; None on others.

    Blocks:
        Until all workers are here, once, at most the group's time-out.

    Called by:
        All workers, once, before the first step.
    """
    boards, flows = _boards(callbacks), _flows(callbacks)
    if not boards and not flows:
        return
    own: dict[str, str | None] = {"board": os.path.join(folder, default_logdir()), "mlflow": None}
    for callback in flows:
        if begin is not None:
            begin(callback)
            own["mlflow"] = callback._ml_flow.active_run().info.run_id
    place = share(own)
    for callback in (*boards, *flows):
        callback.on_log = partial(_log_as, callback.on_log, speaks)
    for callback in boards:
        callback.logging_dir = callback.logging_dir or place["board"]
    for callback in flows:
        callback._ml_flow = _SameRun(callback._ml_flow, place["mlflow"], None if begin is not None else 0)


def log_once(callbacks: Iterable[Any], step: int) -> None:  # Any: transformers' callbacks
    """In a run that goes on, on its main worker: what was logged from `step` on is logged again, and counts once.

    Args:
        callbacks: The Trainer's, after `share_places`.
        step: The first `global_step` that is logged again.
    """
    for callback in _boards(callbacks):  # readers leave out what was written before from that step on
        callback._SummaryWriter = partial(callback._SummaryWriter, purge_step=step)
    for callback in _flows(callbacks):
        callback._ml_flow.step = step


def _log_as(
    write: Callable[..., Any], speaks: Callable[[], bool], args: Any, state: Any, control: Any, **named: Any
) -> Any:  # Any: as transformers' events
    """`on_log` by who speaks now. Other callbacks go by who did at the beginning: a progress bar began there, or not."""
    before, state.is_world_process_zero = state.is_world_process_zero, speaks()
    try:
        return write(args, state, control, **named)
    finally:
        state.is_world_process_zero = before


def _boards(callbacks: Iterable[Any]) -> list[Any]:
    return [c for c in callbacks if isinstance(c, TensorBoardCallback)]


def _flows(callbacks: Iterable[Any]) -> list[Any]:
    return [c for c in callbacks if isinstance(c, MLflowCallback)]


@final
class _SameRun:
    """Stands in for the module mlflow: one MLflow run for the whole job, which is given what it has not.

    Args:
        mlflow: The module.
        run_id: The job's. None: the one that is active.
        step: From which `global_step` on the MLflow run is asked what it has; None: it is new and has nothing.
    """

    def __init__(self, mlflow: Any, run_id: str | None, step: int | None) -> None:  # Any: no dependency
        self._mlflow = mlflow
        self._run_id = run_id
        self.step = step
        self._left: Unlogged | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._mlflow, name)

    def start_run(self, **options: Any) -> Any:
        """As MLflow's, for the job's run if it has one."""
        return self._mlflow.start_run(**(options if self._run_id is None else {"run_id": self._run_id}))

    def log_metrics(self, metrics: Mapping[str, float], step: int, **_: Any) -> None:
        """Log what is new; not aside in a thread, so that what a checkpoint follows is there whatever dies then."""
        active = self._mlflow.active_run() or self.start_run()  # none on a worker that became the main one
        if self.step is not None:
            if self._left is None:
                self._left = Unlogged(self._mlflow.MlflowClient(), active.info.run_id, self.step)
            left = self._left
            metrics = {name: value for name, value in metrics.items() if left.takes(name, step)}
        if metrics:
            self._mlflow.log_metrics(metrics, step=step)
