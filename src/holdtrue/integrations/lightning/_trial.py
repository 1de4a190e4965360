"""Files of a run of `holdtrue verify`: in its own folder, so that a check overwrites nothing."""

from pathlib import Path
from typing import Any

from holdtrue.run import Run


def keep_apart(trainer: Any, run: Run) -> None:  # Any: Lightning's Trainer
    """Let every ModelCheckpoint save into a folder of the trial: what it calls its best is there afterwards."""
    for i, callback in enumerate(trainer.checkpoint_callbacks):
        if hasattr(callback, "dirpath"):
            callback.dirpath = str(run.path_for(f"checkpoints-{i}"))


def place_saved(run: Run, path: Any) -> Any:  # Any: a path or address, as Lightning takes it
    """Where a checkpoint that Lightning saves at `path` goes."""
    inside, own = Path(path).absolute(), run.path_for("checkpoints").parent
    return path if inside.is_relative_to(own) else str(run.path_for(path))


def find_saved(run: Run, path: Any) -> Any:  # Any: as above
    """Where a checkpoint at `path` is: where the trial saved it, or else where the script says."""
    if not run.is_trial:
        return path
    own = place_saved(run, path)
    return own if Path(own).exists() else path
