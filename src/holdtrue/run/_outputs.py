"""Outputs of `run.predict(out=...)` on disk: written shard by shard as they come, read in the order of the data set.

    OUT/manifest.json                       what was asked for; is_complete at the end
    OUT/part-000000000000.safetensors       rows from that example on: 32 passes, whole or absent

A shard belongs to one virtual node. Whoever is asked for the same again computes what is not there.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch.utils import _pytree as pytree

from holdtrue.errors import UsageError
from holdtrue.record import sync_folder

PASSES_IN_SHARD = 32
"""Passes whose outputs are in memory at once, and in one file."""
FORMAT = 1
"""Version of the layout above."""

Identity = dict[str, str | int]
"""What two predictions have in common if one may go on where the other was cut off."""


class ShardFolder:
    """The folder as a worker writes it.

    Args:
        path: The folder; made if it is not there.
        identity: What is asked for.

    Raises:
        UsageError: the folder holds something else.
    """

    def __init__(self, path: str | Path, identity: Identity) -> None:
        self.path, self.identity = Path(path), identity
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(
                f"{self.path} is a file; outputs are a folder of files, so that they can grow. Name a folder."
            )
        self.path.mkdir(parents=True, exist_ok=True)
        found = read_manifest(self.path)
        if found is None and any(self.path.iterdir()):
            raise UsageError(
                f"{self.path} holds files and no manifest of a prediction; outputs have a folder of their own. Name another."
            )
        if found is not None and found["identity"] != identity:
            names = [n for n in identity if found["identity"].get(n) != identity[n]]
            raise UsageError(
                f"{self.path} holds outputs of another prediction, with other {', '.join(names)}; what is there can only be "
                f"completed by the same model, data and sizes. Name another folder, or remove that one."
            )

    def begin(self) -> None:
        """Say in the manifest what is asked for; by one worker, before the others write."""
        if read_manifest(self.path) is None:
            self._write_manifest({"is_complete": False})

    def name_of(self, start: int) -> Path:
        """File of the shard that begins with example `start`."""
        return self.path / f"part-{start:012d}.safetensors"

    def has(self, start: int, stop: int) -> bool:
        """Whether the shard of these examples is there, whole."""
        try:
            with safetensors.safe_open(self.name_of(start), "pt") as file:
                notes = file.metadata() or {}
        except (FileNotFoundError, safetensors.SafetensorError):
            return False
        return notes.get("stop") == str(stop) and notes.get("identity") == self._identity_text()

    def write(self, start: int, stop: int, passes: list[Any], pad_value: float | None) -> None:
        """Write the outputs of a shard's passes: aside, then renamed, so that a kill leaves all or nothing."""
        from ._evaluate import join_passes

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
        aside = self.path / f".{self.name_of(start).name}.{os.getpid()}.aside"
        aside.write_bytes(safetensors.torch.save(joined, notes))
        with open(aside, "rb") as file:
            os.fsync(file.fileno())
        aside.rename(self.name_of(start))
        sync_folder(self.path)

    def end(self, starts: list[int]) -> None:
        """Complete the manifest; by one worker, when all have written.

        Raises:
            UsageError: a shard is not there, though some worker wrote it.
        """
        missing = [s for s in starts if not self.name_of(s).exists()]
        if missing:
            raise UsageError(
                f"{self.name_of(missing[0])} is not there though a worker wrote it; all workers write into one folder. "
                f"Name a folder that they share."
            )
        for left in self.path.glob(".part-*.aside"):
            left.unlink(missing_ok=True)  # of writers that were killed
        with safetensors.safe_open(self.name_of(starts[0]), "pt") as file:
            tree = (file.metadata() or {})["tree"]
        self._write_manifest({"is_complete": True, "tree": tree, "shards": starts})

    def _identity_text(self) -> str:
        return json.dumps(self.identity, sort_keys=True)

    def _write_manifest(self, values: dict[str, Any]) -> None:  # Any: JSON values
        aside = self.path / ".manifest.json.aside"
        aside.write_text(json.dumps({"format": FORMAT, "identity": self.identity} | values, indent=2) + "\n")
        aside.rename(self.path / "manifest.json")
        sync_folder(self.path)


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
        raise UsageError(
            f"{path}/manifest.json is not of format {FORMAT}, which this version of holdtrue reads. Name another folder."
        )
    return values


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
        self._starts: list[int] = manifest["shards"]
        self._spec = pytree.treespec_loads(manifest["tree"])
        self.examples = int(manifest["identity"]["examples"])
        """Examples of the data set."""

    def __iter__(self) -> Iterator[Any]:  # Any: what the function returned, for many examples
        """What the function returned for each shard's examples, in order: one file in memory at a time."""
        for start in self._starts:
            columns = safetensors.torch.load_file(self.path / f"part-{start:012d}.safetensors")
            yield pytree.tree_unflatten([columns[name] for name in sorted(columns)], self._spec)

    def load(self, *, pad_value: float | None = None) -> Any:  # Any: as run.predict without out
        """Everything in memory, as `run.predict` without `out` returns it.

        Args:
            pad_value: See `Run.predict`; needed here too where outputs are of unlike lengths.
        """
        from ._evaluate import join_passes

        shards = [pytree.tree_leaves(shard) for shard in self]
        columns = [join_passes([s[k] for s in shards], pad_value) for k in range(self._spec.num_leaves)]
        return pytree.tree_unflatten(columns, self._spec)
