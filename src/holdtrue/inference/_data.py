"""Data of a prediction, from a file: rows that are read when they are needed."""

import warnings
import zipfile
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file

from holdtrue.errors import DataError

ENDINGS = ".npy, .npz, .safetensors, .csv, .txt"
_WAY_OUT = {
    ".npy": "Write it with numpy.save.",
    ".npz": "Write it with numpy.savez.",
    ".safetensors": "Write it with safetensors.numpy.save_file.",
    ".csv": "Give rows of numbers with commas between them, without a heading.",
    ".txt": "Give text in UTF-8.",
}
_NUMBERS = "biufc"
"""Kinds of NumPy's elements that a tensor has."""


@final
class Rows(torch.utils.data.Dataset[Any]):
    """Rows of one array, or of several by name; floating numbers become float32.

    Args:
        arrays: The array, or arrays of one length by name.

    Raises:
        DataError: there is no row, the lengths differ, or it is not numbers.
    """

    def __init__(self, arrays: Any) -> None:  # Any: an array or a dict of them
        self._arrays = arrays
        several = list(arrays.values()) if isinstance(arrays, dict) else [arrays]
        for array in several:
            if array.dtype.kind not in _NUMBERS or array.ndim == 0:
                kind = array.dtype if array.dtype.kind not in _NUMBERS else "one number without rows"
                raise DataError(
                    f"the data has an array of {kind}; a prediction reads rows of numbers or booleans. Convert it."
                )
        lengths = {len(a) for a in several}
        if len(lengths) != 1 or 0 in lengths:
            shown = " and ".join(str(n) for n in sorted(lengths)[:2]) or "no"
            raise DataError(
                f"the data has arrays of {shown} rows; a prediction reads as many rows of each, and at least one. "
                f"Give arrays of one length."
            )
        self._length = lengths.pop()

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Any:  # Any: a tensor, or tensors by name
        if isinstance(self._arrays, dict):
            return {name: _row(array, index) for name, array in self._arrays.items()}
        return _row(self._arrays, index)


def _row(array: Any, index: int) -> torch.Tensor:
    row = np.array(array[index])  # a copy: the file may be mapped
    return torch.from_numpy(row.astype(np.float32 if row.dtype.kind == "f" else row.dtype.newbyteorder("=")))


def load_data(path: str | Path) -> Rows | list[str]:
    """The rows of a data file: an `.npy` file stays on disk; a `.txt` file gives its lines.

    Raises:
        DataError: the file is not there, is of a kind that is not known, or is not what its name says.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} is no file; the data is one of {ENDINGS}. Check the path.")
    try:
        return _read(path)
    except DataError:
        raise
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, SafetensorError) as error:
        reason = (str(error).splitlines() or ["it is empty"])[0].rstrip(".")
        if "pickled" in reason:  # so NumPy speaks of whatever it does not know
            reason = "it is no array of numbers"
        raise DataError(
            f"{path} cannot be read as {path.suffix}: {reason}. {_WAY_OUT[path.suffix]}"
        ) from error


def _read(path: Path) -> Rows | list[str]:
    match path.suffix:
        case ".npy":
            return Rows(np.load(path, mmap_mode="r", allow_pickle=False))
        case ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return Rows(dict(arrays))
        case ".safetensors":
            return Rows(load_file(path))
        case ".csv":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of an empty file, which Rows refuses
                return Rows(np.loadtxt(path, delimiter=",", dtype=np.float32, ndmin=2))
        case ".txt":
            lines = path.read_text(encoding="utf-8").splitlines()
            if not lines:
                raise DataError(f"{path} has no line; a prediction reads at least one. Give some text.")
            return lines
        case other:
            raise DataError(f"{path} ends in {other or 'nothing'}; the data is one of {ENDINGS}. Convert it.")
