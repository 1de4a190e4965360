"""Outputs of `run.predict(out=...)` on disk: written shard by shard as they come, read in the order of the data set.

    OUT/manifest.json                       what was asked for; is_complete at the end, until then a mark of this folder
    OUT/part-000000000000.safetensors       rows from that example on: 32 passes, whole or absent
    OUT/.NAME.WRITER.aside                  what is being written, or was when its writer was killed

Whoever is asked for the same again computes what is not there. A file has the same bytes whoever writes it.
"""

import json
import os
import secrets
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch.utils import _pytree as pytree

from holdtrue.errors import UsageError
from holdtrue.record import sync_folder

from ._identity import Identity, say_differences
from ._predict import fill_up, join_passes, longest_row, one_structure

PASSES_IN_SHARD = 32
"""Passes whose outputs are in memory at once, and in one file."""
FORMAT = 2
"""Version of the layout above."""


class ShardFolder:
    """The folder as a worker writes it.

    Args:
        path: The folder; made if it is not there.
        identity: What is asked for.
        writer: Who writes, in the names of files that are not whole yet: no two writers may share one.

    Raises:
        UsageError: the path is a file, or cannot be made.
    """

    def __init__(self, path: str | Path, identity: Identity, *, writer: str) -> None:
        self.path, self.identity, self._writer = Path(path), identity, writer
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(
                f"{self.path} is a file; outputs are a folder of files, so that they can grow. Name a folder."
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"{self.path} cannot be made ({error.strerror}). Name another folder."
            ) from error

    def begin(self, shards: Sequence[tuple[int, int]]) -> tuple[list[int], str]:
        """Say in the manifest what is asked for, if it does not yet; by one worker, before the others write.

        Args:
            shards: Examples of each, half open.

        Returns:
            Numbers of the shards that are not there, and the mark by which the others know the folder. `identity` is
            the folder's own from then on.

        Raises:
            UsageError: the folder holds something else.
        """
        found = read_manifest(self.path)
        # A kill before the manifest had its name leaves a file aside.
        if found is None and any(not is_aside(held) for held in self.path.iterdir()):
            raise UsageError(
                f"{self.path} holds files and no manifest of a prediction; outputs have a folder of their own. Name another."
            )
        if found is not None and (differences := say_differences(found["identity"], self.identity)):
            raise UsageError(
                f"{self.path} holds outputs of another prediction, with other {differences}; what is there can only be "
                f"completed by the same data, model, sizes and options. Give another out, or remove that folder."
            )
        if found is not None:
            self.identity = found["identity"]  # may have data as they were seen on another kind of device
        mark = "" if found is None else found.get("mark", "")
        missing = [i for i, (start, stop) in enumerate(shards) if not self.has(start, stop)]
        if missing and not mark:
            mark = secrets.token_hex(8)
            self._write_manifest({"is_complete": False, "mark": mark})
        return missing, mark

    def name_of(self, start: int) -> Path:
        """File of the shard that begins with example `start`."""
        return self.path / f"part-{start:012d}.safetensors"

    def has(self, start: int, stop: int) -> bool:
        """Whether the shard of these examples is there, whole."""
        return self.notes(start, stop) is not None

    def notes(self, start: int, stop: int) -> dict[str, str] | None:
        """Notes of the shard of these examples if it is there, whole: its structure is `tree`."""
        try:
            with safetensors.safe_open(self.name_of(start), "pt") as file:
                notes: dict[str, str] = file.metadata() or {}
        except (FileNotFoundError, safetensors.SafetensorError):
            return None
        is_ours = notes.get("stop") == str(stop) and notes.get("identity") == self._identity_text()
        return notes if is_ours else None

    def write(self, start: int, stop: int, passes: list[Any], pad_value: float | None) -> None:
        """Write the outputs of a shard's passes: aside, then renamed, so that a kill leaves all or nothing."""
        spec = pytree.tree_structure(passes[0])
        columns = [pytree.tree_leaves(p) for p in passes]
        joined = {
            f"{k:04d}": join_passes([leaves[k] for leaves in columns], pad_value).contiguous()
            for k in range(spec.num_leaves)
        }
        notes = {
            "format": "pt",
            "start": str(start),
            "stop": str(stop),
            "identity": self._identity_text(),
            "tree": pytree.treespec_dumps(spec),
        }
        self._write(self.name_of(start).name, shard_bytes(joined, notes))

    def end(self, shards: Sequence[tuple[int, int]]) -> None:
        """Complete the manifest; by one worker, when all have written.

        Args:
            shards: Examples of each, half open.

        Raises:
            UsageError: a shard is not there, though some worker wrote it; shards are of unlike structures.
        """
        trees = []
        for start, stop in shards:
            notes = self.notes(start, stop)
            if notes is None:
                raise UsageError(
                    f"{self.name_of(start)} is not there, or of another prediction, though a worker wrote it; all workers "
                    f"write into one folder, and one prediction at a time. Name a folder that they share."
                )
            trees.append(notes["tree"])
        one_structure(trees)
        for left in filter(is_aside, self.path.iterdir()):
            left.unlink(missing_ok=True)  # of writers that were killed
        starts = [start for start, _ in shards]
        self._write_manifest({"is_complete": True, "tree": trees[0], "shards": starts})

    def _identity_text(self) -> str:
        return json.dumps(self.identity, sort_keys=True)

    def _write_manifest(self, values: dict[str, Any]) -> None:  # Any: JSON values
        text = json.dumps({"format": FORMAT, "identity": self.identity} | values, indent=2) + "\n"
        self._write("manifest.json", (text.encode(),))

    def _write(self, name: str, parts: Sequence[bytes | memoryview]) -> None:
        """Write a file aside, whole and on the disk, then give it its name.

        Raises:
            UsageError: the folder is gone.
        """
        aside = self.path / f".{name}.{self._writer}.aside"
        # Another command that completes the same folder takes away what is aside; its files have the same bytes.
        for is_last in (False, True):
            try:
                with open(aside, "wb") as file:
                    file.writelines(parts)
                    file.flush()
                    os.fsync(file.fileno())
                aside.rename(self.path / name)
                sync_folder(self.path)
                return
            except FileNotFoundError as error:
                if is_last or not self.path.exists():
                    raise UsageError(
                        f"{self.path / name} could not be written: another command uses the folder, or removed it. Give each "
                        f"command an out of its own."
                    ) from error


def name_writer(worker: int, generation: int) -> str:
    """A name for files aside that no other process has: hosts that share a folder may share process ids."""
    return f"{worker}-{generation}-{os.getpid()}-{secrets.token_hex(4)}"


def is_aside(path: Path) -> bool:
    """Whether a file of the folder is one that was not whole when its writer last touched it.

    >>> is_aside(Path("out/.manifest.json.0-1-77-2f.aside")), is_aside(Path("out/part-000000000000.safetensors"))
    (True, False)
    """
    return path.name.startswith((".part-", ".manifest.json.")) and path.name.endswith(".aside")


def shard_bytes(columns: dict[str, torch.Tensor], notes: dict[str, str]) -> tuple[bytes, bytes, memoryview]:
    """A safetensors file in three parts, the same bytes for the same content.

    safetensors itself writes its notes in an order that it draws anew for each file.
    """
    raw = safetensors.torch.save(columns, notes)
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format's own alignment of what follows
    return len(text).to_bytes(8, "little"), text, memoryview(raw)[8 + size :]


def read_manifest(path: Path) -> dict[str, Any] | None:  # Any: JSON values
    """The manifest of a folder, or None if there is none.

    Raises:
        UsageError: it is not one that this version writes.
    """
    try:
        values = json.loads((path / "manifest.json").read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UsageError(f"{path}/manifest.json is no JSON ({error}). Name another folder.") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT or "identity" not in values:
        found = values.get("format") if isinstance(values, dict) else None
        raise UsageError(
            f"{path}/manifest.json is of format {found}, and this version of holdtrue reads format {FORMAT} alone. Name "
            f"another folder, or remove that one and predict anew."
        )
    return values


def is_marked(path: str | Path, identity: Identity, mark: str) -> bool:
    """Whether this is, from where this worker stands, the folder in which another one has begun."""
    try:
        found = read_manifest(Path(path))
    except (OSError, UsageError):
        return False
    return found is not None and found["identity"] == identity and found.get("mark", "") == mark


def outputs_if_whole(path: str) -> "Outputs | None":
    """The complete prediction in a folder; None if there is none."""
    manifest = read_manifest(Path(path))
    return Outputs(path) if manifest is not None and manifest["is_complete"] else None


class Outputs:
    """Outputs of `run.predict(out=...)`, read from disk in the order of the data set.

    Args:
        path: The folder that was given as `out`.

    Raises:
        UsageError: the folder holds no complete prediction.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        manifest = read_manifest(self.path)
        if manifest is None or not manifest["is_complete"]:
            state = "no prediction" if manifest is None else "a prediction that is not complete"
            raise UsageError(
                f"{self.path} holds {state}; it is complete once run.predict has returned. Call it again with the same out."
            )
        self.starts: tuple[int, ...] = tuple(manifest["shards"])
        """The first example of each file, in order."""
        self._spec = pytree.treespec_loads(manifest["tree"])
        self.examples = int(manifest["identity"]["examples"])
        """Examples of the data set."""
        self.computed = 0
        """Examples that the call of `run.predict` which gave this computed, all its workers together; the others' outputs
        were in the folder before it."""

    def __iter__(self) -> Iterator[Any]:  # Any: what the function returned, for many examples
        """What the function returned for each file's examples, in order: one file in memory at a time."""
        return (self.read(index) for index in range(len(self.starts)))

    def read(self, index: int, *, pad_value: float | None = None) -> Any:  # Any: what the function returned
        """What the function returned for the examples of one file.

        Args:
            index: Number of the file, from 0: its examples begin with `starts[index]`.
            pad_value: Fill every axis but the first up with this, to the longest of all files; without it the
                outputs are as long as the longest of this file.

        Raises:
            UsageError: the file has not a row for each of its examples; outputs that are to be filled up have unlike
                numbers of axes.
        """
        path = self._path_of(index)
        columns = safetensors.torch.load_file(path)
        start, stop = (*self.starts, self.examples)[index : index + 2]
        if any(len(column) != stop - start for column in columns.values()):
            raise UsageError(
                f"{path} does not hold {stop - start} rows, one for each of its examples. Remove it, and call run.predict "
                f"again with the same out."
            )
        if pad_value is not None:
            rows = {n: longest_row(shapes, pad_value) for n, shapes in self._row_shapes.items()}
            columns = {name: fill_up(column, rows[name], pad_value) for name, column in columns.items()}
        return pytree.tree_unflatten([columns[name] for name in sorted(columns)], self._spec)

    def load(self, *, pad_value: float | None = None) -> Any:  # Any: as run.predict without out
        """Everything in memory, as `run.predict` without `out` returns it.

        Args:
            pad_value: See `Run.predict`; needed here too where outputs are of unlike lengths.
        """
        shards = [pytree.tree_leaves(shard) for shard in self]
        columns = [join_passes([s[k] for s in shards], pad_value) for k in range(self._spec.num_leaves)]
        return pytree.tree_unflatten(columns, self._spec)

    def _path_of(self, index: int) -> Path:
        return self.path / f"part-{self.starts[index]:012d}.safetensors"

    @cached_property
    def _row_shapes(self) -> dict[str, set[tuple[int, ...]]]:
        """Shapes of an example in the files, by output: from their headers alone."""
        shapes: dict[str, set[tuple[int, ...]]] = {}
        for index in range(len(self.starts)):
            with safetensors.safe_open(self._path_of(index), "pt") as file:
                for name in file.keys():  # noqa: SIM118 - no mapping
                    shapes.setdefault(name, set()).add(tuple(file.get_slice(name).get_shape()[1:]))
        return shapes
