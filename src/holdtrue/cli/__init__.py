"""The `holdtrue` command.

    in:  words on a command line
    out: a screen, and an exit status: 0, 1 for a failed job or a difference, 2 for wrong use

Each command is a module with `add_to(app)`, loaded when it is run (`_commands`); `_main` turns errors into sentences.
"""

from ._main import build_app, main

__all__ = ["build_app", "main"]
