"""The manifest of a checkpoint: what its files were when they were written."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FORMAT = 1
"""Version of the files; a reader refuses any other."""
MANIFEST = "manifest.json"


class Damage(Exception):  # noqa: N818 - a finding about a file, turned into a CheckpointError or a sentence
    """What is wrong with a checkpoint: file and finding."""


def encode_manifest(values: Mapping[str, object]) -> bytes:
    """Bytes of a manifest: its values, the format, and the hash of both."""
    content = {"format": FORMAT, **values}
    own = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return json.dumps({**content, "manifest_sha256": own}, indent=2).encode() + b"\n"


def read_manifest(folder: Path) -> dict[str, Any]:  # Any: JSON values
    """Values of the manifest in a folder.

    Raises:
        Damage: it is missing, of another format, or not byte for byte as it was written.
    """
    data = _read_bytes(folder / MANIFEST)
    try:
        values = json.loads(data)
    except ValueError as error:
        raise Damage(f"{MANIFEST} is not JSON ({error})") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        found = values.get("format") if isinstance(values, dict) else None
        raise Damage(f"{MANIFEST} has the format {found!r}; this version of holdtrue reads format {FORMAT}")
    content = {key: value for key, value in values.items() if key not in ("format", "manifest_sha256")}
    # Byte for byte: a flipped bit in a name, a number or the hash itself is found alike.
    if encode_manifest(content) != data:
        raise Damage(f"{MANIFEST} is not as it was written")
    return values


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise Damage(f"{path.name} is missing") from error
    except OSError as error:
        raise Damage(f"{path.name} cannot be read ({error.strerror})") from error


def check_file(path: Path, facts: Mapping[str, Any]) -> None:  # Any: JSON values
    """Compares a file with what the manifest says of it, size first.

    Raises:
        Damage: they differ.
    """
    try:
        with open(path, "rb") as file:
            size_bytes = os.fstat(file.fileno()).st_size
            if size_bytes != facts["bytes"]:
                raise Damage(f"{path.name} has {size_bytes} bytes and its manifest says {facts['bytes']}")
            if hashlib.file_digest(file, "sha256").hexdigest() != facts["sha256"]:
                raise Damage(f"{path.name} does not have the SHA-256 that its manifest says")
    except FileNotFoundError as error:
        raise Damage(f"{path.name} is missing") from error
    except OSError as error:
        raise Damage(f"{path.name} cannot be read ({error.strerror})") from error


def sync_and_hash(path: Path) -> str:
    """Waits until a file is on disk; returns its SHA-256."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_synced(path: Path, data: bytes) -> None:
    """Writes a file and waits until it is on disk."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
