"""`python -m holdtrue.inference predict`: one worker of a prediction job."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

import holdtrue
from holdtrue.errors import UsageError
from holdtrue.run import Outputs

from ._data import Rows, load_data
from ._models import LoadedModel, ask, check_row, load_model

VIRTUAL_NODES = 64
"""Of a prediction: as many workers can take part. Outputs do not depend on it."""


def predict_file(
    model: str, data: str, out: str, *, weights: str | None, pass_size: int, pad_value: float | None
) -> None:
    """Predict a data file into a folder, or into one `.npy` file.

    Args:
        model: See `load_model`.
        data: See `load_data`.
        out: A folder, or a file that ends in `.npy`.
        weights: See `load_model`.
        pass_size: Examples in a pass; an exported program of one size has its own.
        pad_value: See `Run.predict`.

    Raises:
        UsageError, DataError: model, data or folder are not what they should be.
    """
    # First, so that what is wrong with the rest reaches the launcher as a sentence.
    run = holdtrue.init(virtual_nodes=VIRTUAL_NODES, global_batch_size=VIRTUAL_NODES * pass_size)
    loaded = load_model(model, weights=weights, device=run.device)
    rows = rows_for(loaded, data)
    size = loaded.pass_size or pass_size
    run.prepare(loaded.module)
    is_file = out.endswith(".npy")
    folder = f"{out}.parts" if is_file else out
    outputs = run.predict(ask(loaded, data), rows, batch_size=size, pad_value=pad_value, out=folder)
    if is_file:
        run.on_main(write_array, outputs, out)
        run.on_main(shutil.rmtree, folder)
    run.print(f"{outputs.examples} predictions in {out}")


def rows_for(loaded: LoadedModel, data: str) -> Rows:
    """The data as the model takes it.

    Raises:
        UsageError: it is text, and the model takes none.
    """
    found = load_data(data)
    if isinstance(found, Rows):
        check_row(loaded, found[0], data)
        return found
    if loaded.tokenize is None:
        raise UsageError(
            f"{data} is text and the model takes numbers; only a transformers folder has a tokenizer. Give arrays."
        )
    return loaded.tokenize(found, None)


def write_array(outputs: Outputs, out: str) -> None:
    """Write outputs as one array, one shard in memory at a time: aside, then renamed.

    Raises:
        UsageError: they are several arrays, or of unlike lengths.
    """
    aside = Path(f"{out}.aside")
    array: Any = None  # Any: a memory-mapped array
    at = 0
    for part in outputs:
        if not isinstance(part, torch.Tensor) or (array is not None and part.shape[1:] != array.shape[1:]):
            raise UsageError(
                f"the outputs are not one array with rows of one shape, as an .npy file is. Give --out a folder; "
                f"they are in {outputs.path}."
            )
        values = (part.float() if part.dtype == torch.bfloat16 else part).numpy()
        if array is None:
            array = np.lib.format.open_memmap(
                aside, mode="w+", dtype=values.dtype, shape=(outputs.examples, *values.shape[1:])
            )
        array[at : at + len(values)] = values
        at += len(values)
    array.flush()
    aside.rename(out)
