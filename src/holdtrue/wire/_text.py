"""Text from another process, made safe to show."""

import re

# C0 and C1 controls but for the newline, and the marks that reorder text in a terminal.
_UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def escape_text(text: str) -> str:
    r"""`text` with control characters written out, so that showing it cannot drive a terminal.

    Newlines stay; a tab becomes four spaces.

    >>> escape_text("loss\x1b[2J is\tnan")
    'loss\\x1b[2J is    nan'
    """
    return _UNSAFE.sub(_written_out, text)


def _written_out(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code == 9:
        return "    "
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
