"""Lightning's loggers when the worker that writes them dies or leaves, or a run goes on: logs are written on where they were."""

import contextlib
import csv
import os
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from holdtrue.integrations._mlflow import Unlogged

_PLACES = ((CSVLogger, "_version"), (TensorBoardLogger, "_version"), (MLFlowLogger, "_run_id"))
"""Loggers that can be written on, and where each keeps what names its log."""


def keep_first_log(loggers: Sequence[Any], step: int) -> None:  # Any: Lightning's loggers
    """In a run that goes on at `step`: a CSVLogger with a version of its own would begin its file anew when it is opened."""
    for logger in loggers:
        if isinstance(logger, CSVLogger) and logger._version is not None:
            _write_on(logger, step)


def share_places(
    loggers: Sequence[Any], share: Callable[[Any], Any], *, is_main: bool, step: int | None = None
) -> None:  # Any: Lightning's loggers; a name
    """Let all workers know where the first main one wrote: a logger that chooses by what is on the disk chooses once.

    Args:
        loggers: The Trainer's.
        share: `run.share`: the first main worker's value, also in a run that goes on with --resume.
        is_main: Whether this worker writes. Where its logger has chosen another place, it writes on in the first one.
        step: Where a run goes on: what the first one logged from there on is logged again, and goes. None for a new run.

    Blocks:
        Until all workers are here, once for each logger, at most the group's time-out.

    Called by:
        All workers, once, before the first step.
    """
    for logger in loggers:
        for kind, name in _PLACES:
            if isinstance(logger, kind):
                own = logger.version
                place = share(own)
                setattr(logger, name, place)
                if is_main and place != own and isinstance(logger, MLFlowLogger):
                    _drop_empty_run(logger.experiment, own)
                if is_main and (place != own or step is not None):
                    _write_on(logger, step)


def can_take_over(loggers: Sequence[Any]) -> bool:  # Any: Lightning's loggers
    """Whether every logger can be written on by another process."""
    return all(isinstance(logger, tuple(kind for kind, _ in _PLACES)) for logger in loggers)


def take_over(loggers: Sequence[Any], step: int | None = None) -> None:  # Any: Lightning's loggers
    """Write where the former main worker wrote.

    Args:
        loggers: The Trainer's.
        step: Where the run went on with --resume. None for a new run. Files were cut there by the first main worker.
    """
    for logger in loggers:
        _write_on(logger, step if isinstance(logger, MLFlowLogger) else None)


def _write_on(logger: Any, step: int | None) -> None:  # Any: Lightning's logger
    """Have what it opened, in another place or never, opened where its place now is. MLflow's goes by its run's id alone.

    What a killed run logged from `step` on goes out of a CSV file, is hidden from readers of TensorBoard, and is not logged
    again to MLflow, which takes nothing back.
    """
    if isinstance(logger, CSVLogger):
        logger._experiment = ContinuingWriter(log_dir=logger.log_dir)
        if step is not None:
            logger._experiment.drop_from(step)
    elif isinstance(logger, TensorBoardLogger):
        if step is not None:
            logger._kwargs["purge_step"] = step  # readers leave out what was written before from that step on
        opened, logger._experiment = logger._experiment, None
        if opened is not None:
            opened.close()
            _drop_stray(Path(opened.log_dir), Path(logger.log_dir))
    elif isinstance(logger, MLFlowLogger) and step is not None:
        client, own = logger.experiment, logger.run_id
        left, write = Unlogged(client, own, step), client.log_batch

        def log_batch(
            run_id: str, metrics: Sequence[Any] = (), *more: Any, **named: Any
        ) -> Any:  # as MLflow's
            if run_id == own:
                metrics = [m for m in metrics if left.takes(m.key, m.step)]
            return write(run_id, metrics, *more, **named)

        client.log_batch = log_batch


def _drop_stray(opened: Path, place: Path) -> None:
    """Lightning opens a log before it is known that another one goes on: nothing of an empty second one stays."""
    if opened != place:
        for file in opened.glob(f"events.out.tfevents.*.{os.getpid()}.*"):
            file.unlink()
        with contextlib.suppress(OSError):  # it has other files
            opened.rmdir()


def _drop_empty_run(client: Any, run_id: str) -> None:  # Any: an MlflowClient
    """Likewise for MLflow, where Lightning makes a run as it logs the hyperparameters; one that the script began stays."""
    active = import_module("mlflow").active_run()  # no dependency, and the logger has imported it
    if (active is None or active.info.run_id != run_id) and not client.get_run(run_id).data.metrics:
        client.delete_run(run_id)


class ContinuingWriter(ExperimentWriter):
    """Writes on in a file that is there, where Lightning's own writer would begin it anew."""

    def _check_log_dir_exists(self) -> None:
        path = Path(self.metrics_file_path)
        if not path.is_file():
            return
        text = path.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        if whole != text:
            path.write_bytes(whole)  # whoever wrote it was killed within a line
        self.metrics_keys = next(csv.reader(whole.decode().splitlines()), [])

    def drop_from(self, step: int) -> None:
        """Leave out the rows of `step` and of those after it: a killed run had gone beyond its checkpoint."""
        path = Path(self.metrics_file_path)
        if not path.is_file():
            return
        with path.open(newline="") as file:
            kept = [row for row in csv.DictReader(file) if not row["step"] or int(row["step"]) < step]
        aside = path.with_name(path.name + ".aside")
        with aside.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=self.metrics_keys)
            writer.writeheader()
            writer.writerows(kept)
        aside.replace(path)
