"""Where in the user's own code an error was raised."""

import os
import traceback
from types import TracebackType

import torch

_LIBRARIES = tuple(
    os.path.dirname(path) + os.sep
    for path in (os.path.dirname(os.path.abspath(__file__)), os.path.abspath(torch.__file__))
)
"""Folders of holdtrue and torch."""


def user_frame(trace: TracebackType | None) -> traceback.FrameSummary | None:
    """The innermost frame outside holdtrue and torch: of other installed packages only if there is none of the user's; None
    if there is neither."""
    found = [f for f in traceback.extract_tb(trace) if not f.filename.startswith((*_LIBRARIES, "<"))]
    own = [f for f in found if "-packages" + os.sep not in f.filename]
    innermost = own or found
    return innermost[-1] if innermost else None
