"""The command's entry: assembles the commands, turns errors into sentences and exit codes."""

import importlib.metadata
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from holdtrue.errors import HoldtrueError

from ._commands import Commands
from ._say import say_error

# Typer brings its own copy of click from some version on; this finds the right root in either case.
_WRONG_USE: type[Exception] = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)
INTERRUPTED = 130


def build_app() -> typer.Typer:
    """The command; a subcommand's module is loaded when it is run."""
    app = typer.Typer(
        name="holdtrue",
        cls=Commands,
        help="Train PyTorch models on virtual nodes: [bold]change the hardware; the run holds true.[/bold]",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with its status.

    Args:
        arguments: The words after `holdtrue`; those of this process by default.

    Raises:
        SystemExit: always; 0, 1 for a failed job, 2 for wrong use, 130 after Ctrl-C.
    """
    try:
        status = build_app()(
            args=None if arguments is None else list(arguments), prog_name="holdtrue", standalone_mode=False
        )
    except _WRONG_USE as error:
        sys.exit(_say_wrong_use(error))
    except HoldtrueError as error:
        say_error(str(error))
        sys.exit(2 if isinstance(error, ValueError) else 1)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has gone; nothing more can be said there, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)
    sys.exit(status or 0)


def _say_wrong_use(error: Exception) -> int:
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()  # type: ignore[attr-defined]  # it is click's, whose class differs by typer version
        return 0
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "holdtrue"
    sentence = message if message.endswith("?") else f"{message.rstrip('.')}."
    say_error(f"{sentence} See `{command} --help`.")
    return 2


def _show_version(is_asked: bool) -> None:
    if is_asked:
        print(f"holdtrue {importlib.metadata.version('holdtrue')}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", metavar="", help="Show the version.", callback=_show_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Options of `holdtrue` itself; the help text is the app's."""
    from holdtrue.wire import describe_unknown_variables  # the help page does not need it

    for sentence in describe_unknown_variables(os.environ):
        print(f"warning: {sentence}", file=sys.stderr)
