"""Checkpoints on disk: whole or absent, and refused by name when damaged.

    DIR/checkpoints/step-00000040/   model.safetensors  state.pt  manifest.json
                    .writing-...     being written, or being removed; never read
                    .aside-...       the old one while another of the same step takes its place

A folder gets its name by a rename, when all in it is on disk. The manifest holds size and SHA-256 of
every file, and of itself; nothing is parsed before they are checked.
"""

import os
import pickle
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from safetensors import SafetensorError

from holdtrue.errors import CheckpointError, PlanError, UsageError
from holdtrue.plan import Plan
from holdtrue.record import sync_folder

from ._manifest import (
    MANIFEST,
    Damage,
    check_file,
    encode_manifest,
    read_manifest,
    sync_and_hash,
    write_synced,
)
from ._pack import unpack_state, write_state, write_weights

STATE, WEIGHTS_SUFFIX = "state.pt", ".safetensors"
PREFIX, WRITING, ASIDE = "step-", ".writing-", ".aside-"

Point = Literal["folder", "weights", "state", "manifest", "aside", "renamed", "done"]
"""What has just been done when a fault is asked for; `aside` comes only where a step is written again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint that was read and found whole."""

    path: Path
    """Its folder."""
    step: int
    """The step that it was written for."""
    generation: int
    """Membership that wrote it."""
    plan: Plan
    """Plan of the run."""
    digest: str
    """SHA-256 of the training state that it holds, as the run computed it."""
    weights: Mapping[str, Mapping[str, torch.Tensor]]
    """State dict of each model by file stem, in the order in which they were written; on the CPU."""
    state: Any  # Any: nested values, as they were given
    """The rest of the training state; on the CPU."""


def write_checkpoint(
    root: str | os.PathLike[str],
    *,
    step: int,
    weights: Mapping[str, Mapping[str, torch.Tensor]],
    state: object,
    plan: Plan,
    digest: str,
    keep: int,
    generation: int,
    fault: Callable[[Point], None] | None = None,
) -> Path:
    """Writes a checkpoint, then removes those that are older than the last `keep`.

    Args:
        root: The run directory.
        step: Step of the checkpoint; it names the folder. One of the same step is replaced.
        weights: State dict of each model by file stem: `{"model": model.state_dict()}`.
        state: The rest: what `flatten_state` takes. Subclasses of dict, list and tuple come back plain.
        plan: Plan of the run.
        digest: SHA-256 of the training state.
        keep: Checkpoints to keep, this one included; 1 or more. Those of later steps are let be.
        generation: Membership of the writer.
        fault: Called at each point, for tests that stop there.

    Returns:
        The folder of the checkpoint.

    Raises:
        UsageError: a value cannot be saved; the message names it.
        OSError: the disk refuses; what was there before is still there.

    Guarantee:
        At every moment, also after a kill or loss of power, every checkpoint that was complete before
        and is not yet due for removal can be loaded.
    """
    if keep < 1:
        raise UsageError(f"keep_checkpoints is {keep}; at least 1 checkpoint is kept. Pass 1 or more.")
    reach: Callable[[Point], None] = fault or (lambda point: None)
    store = Path(root) / "checkpoints"
    _open_store(store)
    writing = store / f"{WRITING}{_folder_name(step)}"
    writing.mkdir()
    reach("folder")
    try:
        files = _write_files(writing, weights, state, reach)
        values = {
            "step": step,
            "generation": generation,
            "plan": plan.to_dict(),
            "digest": digest,
            "files": files,
        }
        write_synced(writing / MANIFEST, encode_manifest(values))
        sync_folder(writing)
        reach("manifest")
        path = _put_in_place(writing, store / _folder_name(step), reach)
    except BaseException:
        shutil.rmtree(writing, ignore_errors=True)
        raise
    _remove_old(store, step, keep)
    reach("done")
    return path


def load_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Reads a checkpoint, after its sizes and hashes were found right.

    Args:
        path: The folder of one checkpoint, such as `DIR/checkpoints/step-00000040`.

    Raises:
        CheckpointError: it is missing or damaged; the message names the file and what is wrong with it.
    """
    try:
        return _read(Path(path))
    except Damage as damage:
        raise CheckpointError(
            f"checkpoint {path} is damaged: {damage}. A checkpoint is read only if every file is as it was "
            f"written. Load an older one."
        ) from damage.__cause__


def newest_checkpoint(root: str | os.PathLike[str]) -> tuple[Checkpoint | None, tuple[str, ...]]:
    """The newest checkpoint that is whole, and a sentence for each newer one that is not.

    Args:
        root: The run directory.

    Returns:
        The checkpoint, or None if there is none that is whole; sentences, the newest checkpoint first.
    """
    refused: list[str] = []
    found: Checkpoint | None = None
    for path in reversed(_complete_folders(Path(root) / "checkpoints")):
        try:
            found = _read(path)
            break
        except Damage as damage:
            refused.append(f"checkpoint {path.name.removeprefix(ASIDE)} is damaged: {damage}")
    instead = f"using {found.path.name.removeprefix(ASIDE)}" if found else "no older one is whole"
    return found, tuple(f"{sentence}; {instead}" for sentence in refused)


def checkpoints_to_remove(steps: Sequence[int], keep: int) -> tuple[int, ...]:
    """Steps whose checkpoints are older than the last `keep`, ascending.

    >>> checkpoints_to_remove([40, 10, 30, 20], keep=3)
    (10,)
    """
    return tuple(sorted(steps)[: max(0, len(steps) - keep)])


def _folder_name(step: int) -> str:
    if step < 0:
        raise UsageError(
            f"the step of a checkpoint is {step}; steps count from 0. Pass the number of a step."
        )
    return f"{PREFIX}{step:08d}"


def _steps_in(store: Path, mark: str = "") -> dict[int, Path]:
    """Folders with the name of a checkpoint, behind a mark, by step."""
    prefix = f"{mark}{PREFIX}"
    names = [path.name for path in store.iterdir()] if store.is_dir() else []
    return {
        int(n.removeprefix(prefix)): store / n
        for n in names
        if re.fullmatch(re.escape(prefix) + r"\d{8,}", n)
    }


def _complete_folders(store: Path) -> list[Path]:
    """Folders that were complete once, by step; one that was set aside comes before the one in its place."""
    places, aside = _steps_in(store), _steps_in(store, ASIDE)
    return [folders[s] for s in sorted({*places, *aside}) for folders in (aside, places) if s in folders]


def _open_store(store: Path) -> None:
    """Makes the folder of checkpoints, or clears it of what crashed writes left."""
    if not store.is_dir():
        store.mkdir(parents=True)
        sync_folder(store.parent)
    for left in store.glob(f"{WRITING}*"):
        shutil.rmtree(left)
    for left in store.glob(f"{ASIDE}*"):
        place = store / left.name.removeprefix(ASIDE)
        if place.exists():
            shutil.rmtree(left)
        else:  # the writer died between its two renames
            os.rename(left, place)
            sync_folder(store)


def _write_files(
    folder: Path,
    weights: Mapping[str, Mapping[str, torch.Tensor]],
    state: object,
    reach: Callable[[Point], None],
) -> dict[str, dict[str, str | int]]:
    """Writes weights and state; returns size and SHA-256 of each file by name."""
    files: list[Path] = []
    for stem, tensors in weights.items():
        files.append(folder / f"{stem}{WEIGHTS_SUFFIX}")
        write_weights(files[-1], stem, tensors)
    reach("weights")
    files.append(folder / STATE)
    write_state(files[-1], state)
    reach("state")
    return {file.name: {"bytes": file.stat().st_size, "sha256": sync_and_hash(file)} for file in files}


def _put_in_place(writing: Path, place: Path, reach: Callable[[Point], None]) -> Path:
    """Gives a complete folder its name; one that has the name is set aside until then."""
    store, aside = place.parent, place.with_name(f"{ASIDE}{place.name}")
    if place.exists():
        os.rename(place, aside)
        reach("aside")
    os.rename(writing, place)
    sync_folder(store)
    reach("renamed")
    if aside.exists():
        shutil.rmtree(aside)
    return place


def _remove_old(store: Path, step: int, keep: int) -> None:
    # Checkpoints of later steps were refused when the run was resumed; they are replaced when it gets there.
    present = _steps_in(store)
    for old in checkpoints_to_remove([s for s in present if s <= step], keep):
        # Renamed first: a removal that is cut short leaves no damaged checkpoint behind.
        going = store / f"{WRITING}{present[old].name}"
        os.rename(present[old], going)
        shutil.rmtree(going)


def _read(folder: Path) -> Checkpoint:
    if not folder.is_dir():
        raise Damage("the folder is missing")
    manifest = read_manifest(folder)
    for name, facts in manifest["files"].items():
        check_file(folder / name, facts)
    # The files are as they were written: what fails from here on is a version that reads them otherwise.
    try:
        weights = {
            name.removesuffix(WEIGHTS_SUFFIX): safetensors.torch.load_file(folder / name)
            for name in manifest["files"]
            if name.endswith(WEIGHTS_SUFFIX)
        }
        state = unpack_state(torch.load(folder / STATE, map_location="cpu", weights_only=True))
        return Checkpoint(
            path=folder,
            step=manifest["step"],
            generation=manifest["generation"],
            plan=Plan.from_dict(manifest["plan"]),
            digest=manifest["digest"],
            weights=weights,
            state=state,
        )
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, PlanError, KeyError, OSError) as error:
        raise Damage(f"its files are as they were written and cannot be read here ({error})") from error
