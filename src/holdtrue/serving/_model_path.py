"""Where a model is, judged by its path alone: without torch, before a process is started for it."""

from pathlib import Path
from typing import Literal

from holdtrue.errors import UsageError

KINDS = "a Python file (model.py or model.py:NAME), an exported program (.pt2) or a transformers folder"


def check_model_path(name: str) -> Literal["python", "program", "folder"]:
    """What kind of model is at `name`.

    Args:
        name: A Python file, with `:NAME` for something in it; an exported program; a folder that transformers saved.

    Raises:
        UsageError: there is none.
    """
    path = Path(name.partition(":")[0])
    if path.suffix == ".py":
        if not path.is_file():
            raise UsageError(f"{path} is no file; a model is {KINDS}. Check the path.")
        return "python"
    if path.suffix == ".pt2" and path.is_file():
        return "program"
    if (path / "config.json").is_file():
        return "folder"
    raise UsageError(f"{name} is no model; it is {KINDS}. Check the path.")
