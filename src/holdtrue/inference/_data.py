"""Data of a prediction, from a file: rows that are read when they are needed."""

from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from safetensors.numpy import load_file

from holdtrue.errors import DataError

ENDINGS = ".npy, .npz, .safetensors, .csv, .txt"


@final
class Rows(torch.utils.data.Dataset[Any]):
    """Rows of one array, or of several by name; floating numbers become float32.

    Args:
        arrays: The array, or arrays of one length by name.

    Raises:
        DataError: there is no row, or the lengths differ.
    """

    def __init__(self, arrays: Any) -> None:  # Any: an array or a dict of them
        self._arrays = arrays
        lengths = {len(a) for a in (arrays.values() if isinstance(arrays, dict) else [arrays])}
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
    return torch.from_numpy(row.astype(np.float32) if row.dtype.kind == "f" else row)


def load_data(path: str | Path) -> Rows | list[str]:
    """The rows of a data file: an `.npy` file stays on disk; a `.txt` file gives its lines.

    Raises:
        DataError: the file is not there, or of a kind that is not known.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} is no file; the data is one of {ENDINGS}. Check the path.")
    match path.suffix:
        case ".npy":
            return Rows(np.load(path, mmap_mode="r", allow_pickle=False))
        case ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return Rows(dict(arrays))
        case ".safetensors":
            return Rows(load_file(path))
        case ".csv":
            return Rows(np.loadtxt(path, delimiter=",", dtype=np.float32, ndmin=2))
        case ".txt":
            return path.read_text().splitlines()
        case other:
            raise DataError(f"{path} ends in {other or 'nothing'}; the data is one of {ENDINGS}. Convert it.")
