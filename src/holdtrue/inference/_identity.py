"""What the outputs of `holdtrue predict` depend on, by the bytes of its files."""

import hashlib
from pathlib import Path

from holdtrue.serving import check_model_path

WEIGHTS = (".bin", ".h5", ".msgpack", ".onnx", ".pt", ".pth", ".safetensors")
"""Ends of files in a transformers folder that hold weights, which the run digests as they are loaded."""


def identity_of(model: str, data: str) -> dict[str, str]:
    """Digests of a model's code and of its data, for `Run.predict`.

    Args:
        model: A Python file, whose source counts and not that of what it imports, with the name in it; an exported
            program; a transformers folder, of which the files beside the weights count.
        data: The data file.

    Raises:
        UsageError: there is no such model.

    Blocks:
        While the files are read, about a second for a GB.
    """
    path, _, attribute = model.partition(":")
    kind = check_model_path(model)
    code = hashlib.sha256()
    if kind == "folder":
        for file in sorted(Path(path).iterdir()):
            if file.is_file() and not file.name.startswith(".") and file.suffix not in WEIGHTS:
                code.update(f"{len(file.name)}|{file.name}|{digest_of(file)}|".encode(errors="surrogatepass"))
    else:
        name = f"{attribute or 'model'}|" if kind == "python" else ""
        code.update(f"{name}{digest_of(path)}".encode())
    return {"data": digest_of(data), "code": code.hexdigest()[:32]}


def digest_of(path: str | Path) -> str:
    """32 hex digits of SHA-256 of a file's bytes, read in blocks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]
