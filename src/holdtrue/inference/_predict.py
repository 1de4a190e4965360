"""`python -m holdtrue.inference predict`: one worker of a prediction job."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import holdtrue
from holdtrue.errors import UsageError
from holdtrue.run import Outputs

from ._data import Rows, load_data
from ._identity import digest_of, identity_of
from ._models import LoadedModel, ask, check_row, load_model

VIRTUAL_NODES = 64
"""Of a prediction: as many workers can take part. Outputs do not depend on it."""
WRITE_S = 2.0
"""How long the main worker writes an array before all meet again, in seconds."""


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
        UsageError, DataError: model, data or folder are not what they should be, or the outputs cannot be one array
            though `out` is an `.npy` file.
    """
    # First, so that what is wrong with the rest reaches the launcher as a sentence.
    run = holdtrue.init(virtual_nodes=VIRTUAL_NODES, global_batch_size=VIRTUAL_NODES * pass_size)
    check_out(out)
    run.on_main(remove_done, out)
    loaded = load_model(model, weights=weights, device=run.device)
    rows = rows_for(loaded, data)
    size = loaded.pass_size or pass_size
    run.prepare(loaded.module)
    is_file = is_array(out)
    folder = f"{out}.parts" if is_file else out
    answer = ask(loaded, data)
    before, identity = os.stat(data), identity_of(model, data)
    outputs = run.predict(
        one_array(answer, out, is_padded=pad_value is not None) if is_file else answer,
        rows,
        batch_size=size,
        pad_value=pad_value,
        out=folder,
        identity=identity,
    )
    refuse_changed(data, before, identity["data"], folder)
    if is_file:
        write_together(run, outputs, out, pad_value)
    run.print(say_done(outputs, out, folder))


def refuse_changed(data: str, before: os.stat_result, digest: str, folder: str) -> None:
    """Refuse outputs whose rows were read from a file that changed meanwhile.

    Args:
        data: The data file; one that is no `.npy` is read whole before the first pass.
        before: Its facts at the start, as `digest`, which is that of its bytes.
        folder: Where the outputs are.

    Raises:
        UsageError: it has changed.
    """
    now = os.stat(data)
    is_touched = (now.st_mtime_ns, now.st_size) != (before.st_mtime_ns, before.st_size)
    if data.endswith(".npy") and is_touched and digest_of(data) != digest:
        raise UsageError(
            f"{data} changed while it was being predicted; {folder} may hold outputs of old and of new rows. Remove that folder, "
            f"and give the command again."
        )


def say_done(outputs: Outputs, out: str, folder: str) -> str:
    """What was done, in a line.

    Args:
        outputs: What the prediction gave.
        out: Where the user finds them.
        folder: Where they were written while they came.
    """
    there, line = outputs.examples - outputs.computed, f"{outputs.examples} predictions in {out}"
    if not there:
        return line
    where = "there" if folder == out else f"in {folder}"
    if outputs.computed:
        return f"{line} ({there} were {where} already)"
    return f"{line}; all {there} were {where} already, and nothing was computed"


def is_array(out: str) -> bool:
    """Whether `out` names one `.npy` file, and not a folder."""
    return out.endswith(".npy")


def check_out(out: str) -> None:
    """Refuse, before anything is computed, a place where nothing can be written; nothing is made.

    Args:
        out: A folder, or a file that ends in `.npy`.

    Raises:
        UsageError: something else has its name, or the folder it would be in cannot be written.
    """
    if is_array(out) and os.path.isdir(out):
        raise UsageError(
            f"{out} is a folder; a name that ends in .npy is that of one file. Name another file, or a folder without .npy."
        )
    if not is_array(out) and os.path.isfile(out):
        raise UsageError(
            f"{out} is a file; outputs are a folder of files, or one file whose name ends in .npy. Name such a one."
        )
    try:
        held = next(p for p in (Path(out).absolute(), *Path(out).absolute().parents) if _is_there(p))
    except OSError as error:
        raise UsageError(f"{out} cannot be written ({error.strerror}). Name another place.") from error
    if not (is_array(out) and held.is_file() and held == Path(out).absolute()) and not held.is_dir():
        raise UsageError(f"{out} cannot be written, since {held} is no folder. Name another place.")
    folder = held if held.is_dir() else held.parent
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(
            f"{out} cannot be written, since nothing may be made in {folder}. Name another place, or ask its owner."
        )


def _is_there(path: Path) -> bool:
    """Whether there is a file or folder; a name that there can never be is an error.

    Raises:
        OSError: such as for a name that is too long.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def one_array(answer: Callable[..., Any], out: str, *, is_padded: bool) -> Callable[..., Any]:
    """The model, whose first output that has no place in one `.npy` file is refused, and not the last.

    Args:
        answer: The model.
        out: The file.
        is_padded: Whether rows of unlike lengths are filled up.

    Raises:
        UsageError: by what is returned, for several outputs, or rows of another shape than before.
    """
    first: list[tuple[int, ...]] = []

    def check(*inputs: Any) -> Any:  # Any: as LoadedModel
        found = answer(*inputs)
        if not isinstance(found, torch.Tensor):
            raise UsageError(f"the model gives {type(found).__name__} and not one tensor; {_no_array(out)}")
        row = tuple(found.shape[1:])
        first.extend([row] if not first else [])
        if row != first[0] and (not is_padded or len(row) != len(first[0])):
            raise UsageError(f"the model gives rows of shape {first[0]} and {row}; {_no_array(out)}")
        return found

    return check


def _no_array(out: str) -> str:
    return f"{out} holds one array with rows of one shape. Give --out a folder."


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


def write_together(run: Any, outputs: Outputs, out: str, pad_value: float | None) -> None:  # Any: the run
    """Write outputs as one array and remove their folder: the main worker, while the others wait.

    Args:
        run: The run, on every worker.
        outputs: The outputs; their folder goes once the array is whole.
        out: The file.
        pad_value: Fills up rows of unlike lengths.

    Raises:
        UsageError: they are several arrays, or of unlike lengths without `pad_value`.

    Guarantee:
        If the main worker dies, another goes on where all had met last.
    """
    done = 0
    while (done := run.share(done)) < len(outputs.starts):
        done = run.on_main(write_some, outputs, out, done, pad_value) or done
    is_whole = False
    while not (is_whole := run.share(is_whole)):
        is_whole = run.on_main(take_name, outputs, out) is not None


def write_some(outputs: Outputs, out: str, done: int, pad_value: float | None) -> int:
    """Write the rows of some files into the array aside, one file in memory at a time, for about two seconds.

    Args:
        outputs: The outputs.
        out: The file that the array is to be.
        done: Files whose rows are there.
        pad_value: See `write_together`.

    Returns:
        Files whose rows are there then, on the disk.

    Raises:
        UsageError: see `write_together`.
    """
    until_s = time.monotonic() + WRITE_S
    array: Any = np.lib.format.open_memmap(aside_of(out), mode="r+") if done else None  # Any: memory-mapped
    first = done
    while done == first or (done < len(outputs.starts) and time.monotonic() < until_s):
        part = outputs.read(done, pad_value=pad_value)
        if not isinstance(part, torch.Tensor) or (array is not None and part.shape[1:] != array.shape[1:]):
            raise UsageError(
                f"the outputs are not one array with rows of one shape, as an .npy file is. Give --out a folder; "
                f"they are in {outputs.path}."
            )
        values = (part.float() if part.dtype == torch.bfloat16 else part).numpy()
        if array is None:
            array = np.lib.format.open_memmap(
                aside_of(out), mode="w+", dtype=values.dtype, shape=(outputs.examples, *values.shape[1:])
            )
        start = outputs.starts[done]
        array[start : start + len(values)] = values
        done += 1
    array.flush()
    return done


def take_name(outputs: Outputs, out: str) -> bool:
    """Give the whole array its name, and remove the folder; again after a kill in the middle."""
    if aside_of(out).exists():
        aside_of(out).rename(out)
    remove_done(out)
    # Under another name first: half a folder would be refused by the same command, as one that holds other things.
    if outputs.path.exists():
        outputs.path.rename(done_of(out))
    remove_done(out)
    return True


def remove_done(out: str) -> None:
    """Remove the folder of an array that is whole, if a kill left some of it."""
    if is_array(out):
        shutil.rmtree(done_of(out), ignore_errors=True)


def done_of(out: str) -> Path:
    """Where the folder of parts is once the array is whole, until it is removed."""
    return Path(f"{out}.parts.done")


def aside_of(out: str) -> Path:
    """Where the array is until it is whole."""
    return Path(f"{out}.aside")
