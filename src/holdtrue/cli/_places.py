"""Files that commands write for people: refused before the work begins where they cannot be."""

from pathlib import Path

from holdtrue.errors import UsageError


def unwritable(path: Path, problem: object) -> UsageError:
    """The error of a file that cannot be written."""
    return UsageError(f"{path} cannot be written ({problem}). Name a file in a folder that exists.")


def check_place(path: Path) -> None:
    """Refuse a file that could not be written.

    Raises:
        UsageError: it is a folder, or its folder is not there.
    """
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise unwritable(path, "it is a folder" if path.is_dir() else "there is no such folder")


def write_text(path: Path, text: str) -> None:
    """Write a file.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        path.write_text(text)
    except OSError as problem:
        raise unwritable(path, problem.strerror or problem) from problem
