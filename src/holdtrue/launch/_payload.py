"""The function of `holdtrue.launch` and its value, in files of a private folder.

Only files that this user wrote in a folder of mode 0700 are unpickled, never anything from a network.
"""

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cloudpickle

from holdtrue.errors import UsageError


def write_payload(path: Path, main: Callable[[], object], module_folders: Sequence[str]) -> None:
    """Write the function, and where its modules are found.

    Raises:
        UsageError: the function, or something it refers to, cannot be pickled.
    """
    try:
        function = cloudpickle.dumps(main)
    except Exception as error:
        raise UsageError(
            f"main cannot be sent to the workers: {error}; it is pickled with everything it refers to. "
            f"Build models and open files inside main."
        ) from error
    path.write_bytes(pickle.dumps({"path": list(module_folders), "main": function}))


def read_payload(path: Path, module_folders: list[str]) -> Callable[[], object]:
    """The function that `write_payload` wrote; its module folders are added to `module_folders`."""
    payload = pickle.loads(path.read_bytes())
    module_folders.extend(folder for folder in payload["path"] if folder not in module_folders)
    main: Callable[[], object] = pickle.loads(payload["main"])
    return main


def write_result(payload: Path, value: object) -> None:
    """Write the function's value beside it.

    Raises:
        UsageError: the value cannot be pickled.
    """
    try:
        data = cloudpickle.dumps(value)
    except Exception as error:
        raise UsageError(
            f"the value of main, a {type(value).__name__}, cannot be sent back: {error}; it is pickled. "
            f"Return numbers, texts, lists, dictionaries or tensors."
        ) from error
    _result_path(payload).write_bytes(data)


def read_result(payload: Path) -> Any:  # Any: whatever main returned
    """The value that `write_result` wrote."""
    return pickle.loads(_result_path(payload).read_bytes())


def _result_path(payload: Path) -> Path:
    return payload.with_suffix(".result")
