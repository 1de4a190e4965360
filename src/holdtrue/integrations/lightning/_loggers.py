"""Lightning's loggers when the worker that writes them dies or leaves: the next main worker writes on where it did."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

_PLACES = ((CSVLogger, "_version"), (TensorBoardLogger, "_version"), (MLFlowLogger, "_run_id"))
"""Loggers that can be written on, and where each keeps what names its log."""


def share_places(
    loggers: Sequence[Any], share: Callable[[Any], Any]
) -> None:  # Any: Lightning's loggers; a name
    """Let all workers know where the main one writes: a logger that chooses by what is on the disk chooses once."""
    for logger in loggers:
        for kind, name in _PLACES:
            if isinstance(logger, kind):
                setattr(logger, name, share(logger.version))


def can_take_over(loggers: Sequence[Any]) -> bool:  # Any: Lightning's loggers
    """Whether every logger can be written on by another process."""
    return all(isinstance(logger, tuple(kind for kind, _ in _PLACES)) for logger in loggers)


def take_over(loggers: Sequence[Any]) -> None:  # Any: Lightning's loggers
    """Write where the former main worker wrote."""
    for logger in loggers:
        if isinstance(logger, CSVLogger):
            logger._experiment = ContinuingWriter(log_dir=logger.log_dir)


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
        self.metrics_keys = whole.decode().splitlines()[0].split(",") if whole else []
