"""Numbers with units, ids and reasons, as people read them."""


def format_bytes(size_bytes: float) -> str:
    """`size_bytes` in the largest binary unit that keeps it at 1 or more.

    >>> format_bytes(512), format_bytes(1536), format_bytes(3 * 1024**3)
    ('512 B', '1.5 KiB', '3.0 GiB')
    """
    if size_bytes < 1024:
        return f"{size_bytes:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        size_bytes /= 1024
        if size_bytes < 1024 or unit == "GiB":
            return f"{size_bytes:.1f} {unit}"
    raise AssertionError("the loop returns at its last unit")


def cut_text(text: str, most: int) -> str:
    """`text`, or its first `most` characters and dots where it is longer.

    >>> cut_text("0-3/4-7", 7), cut_text("0-3/4-7", 3)
    ('0-3/4-7', '0-3...')
    """
    return text if len(text) <= most else f"{text[:most]}..."


def reason_of(error: Exception) -> str:
    """Why a file could not be read or written: the system's words, without the path, which the message names.

    >>> reason_of(FileNotFoundError(2, "No such file or directory", "trace.csv"))
    'No such file or directory'
    >>> reason_of(EOFError("the file ends early"))
    'the file ends early'
    """
    return getattr(error, "strerror", None) or str(error)


def format_ids(ids: tuple[int, ...]) -> str:
    """Ascending ids as runs: the inverse of `parse_ids`.

    >>> format_ids((0, 1, 2, 5, 7, 8))
    '0-2,5,7-8'
    >>> format_ids(())
    'none'
    """
    runs: list[list[int]] = []
    for i in ids:
        if runs and i == runs[-1][1] + 1:
            runs[-1][1] = i
        else:
            runs.append([i, i])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs) or "none"


MOST_IDS = 1 << 20
"""Ids that a text may name: more are a slip of the pen, or ill will."""


def parse_ids(text: str) -> tuple[int, ...]:
    """Ids from runs such as `0-2,5`; `none` or an empty text gives no ids.

    Raises:
        ValueError: the text is not runs of whole numbers.

    >>> parse_ids("0-2,5")
    (0, 1, 2, 5)
    """
    text = text.strip()
    if text in ("", "none"):
        return ()
    ids: list[int] = []
    for run in text.split(","):
        first, _, last = run.strip().partition("-")
        begin, end = int(first), int(last or first) + 1
        if len(ids) + end - begin > MOST_IDS:
            raise ValueError(f"more than {MOST_IDS} ids")
        ids.extend(range(begin, end))
    return tuple(ids)
