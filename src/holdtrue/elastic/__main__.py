"""The controller's process: `python -m holdtrue.elastic --job JOB.json --tokens FILE (--fd N | --listen ADDRESS:PORT)`.

With `--memory FILE` it writes there what a controller that is started again must know, and begins with it.
"""

import argparse
import asyncio
import json
import logging
import socket
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from holdtrue.errors import UsageError
from holdtrue.service import read_tokens, write_private

from ._memory import Memory, memory_from_text, memory_to_text
from ._state import JobSettings


def main(arguments: list[str] | None = None) -> int:
    """Serve one job; the exit status is 2 for wrong use."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("uvicorn").setLevel(
        logging.WARNING
    )  # its lines would have paths, and what somebody put into them
    options = _parse(arguments)
    try:
        settings = read_settings(options.job)
        tokens = read_tokens(options.tokens)
        description = read_description(options.describe) if options.describe is not None else {}
        listener = _listen(options.fd, options.listen)
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    from ._server import serve  # the web framework takes a third of a second: not for a command that is wrong

    address, port = listener.getsockname()[:2]
    logging.getLogger("holdtrue.elastic").info(
        "the controller of job %s listens on %s:%d", settings.name, address, port
    )
    memory = read_memory(options.memory) if settings.life else None
    asyncio.run(
        serve(
            settings,
            tokens,
            listener,
            description=description,
            memory=memory,
            keep=lambda known: write_memory(options.memory, known),
        )
    )
    return 0


def read_memory(path: Path | None) -> Memory | None:
    """What the controller before this one wrote down; None, with a word in the log, where that cannot be read."""
    if path is None:
        return None
    try:
        found = memory_from_text(path.read_text())
    except (OSError, ValueError):
        found = None
    if found is None:
        logging.getLogger("holdtrue.elastic").warning(
            "the memory %s cannot be read: what was asked for before is forgotten", path
        )
    return found


def write_memory(path: Path | None, memory: Memory) -> None:
    """Write it down whole or not at all; where there is no room for it the job goes on, with a word in the log."""
    if path is None:
        return
    try:
        write_private(path, memory_to_text(memory))
    except OSError as error:
        logging.getLogger("holdtrue.elastic").warning(
            "the memory %s could not be written (%s): a controller that is started again would not know it",
            path,
            error.strerror,
        )


def read_settings(path: Path) -> JobSettings:
    """The job's settings in a JSON file; other keys are refused.

    Raises:
        UsageError: the file cannot be read, or a setting is unknown, missing or out of its range.
    """
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(
            f"the job's file {path} cannot be read: {type(error).__name__}. Write it anew."
        ) from None
    known = {field.name for field in fields(JobSettings)}
    if not isinstance(values, dict) or set(values) - known:
        raise UsageError(
            f"the job's file {path} may have the keys {', '.join(sorted(known))}. Leave out the rest."
        )
    try:
        return JobSettings(**values)
    except TypeError as error:
        raise UsageError(f"the job's file {path} is wrong: {error}. Write it anew.") from None


def read_description(path: Path) -> dict[str, Any]:  # Any: JSON values
    """What hosts that join are told of the job: a JSON object, passed on as it is.

    Raises:
        UsageError: the file cannot be read, or holds something else.
    """
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(
            f"the job's description {path} cannot be read: {type(error).__name__}. Write it anew."
        ) from None
    if not isinstance(values, dict):
        raise UsageError(f"the job's description {path} is no JSON object. Write it anew.")
    return values


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m holdtrue.elastic", description="The controller of one elastic job."
    )
    parser.add_argument("--job", type=Path, required=True, help="JSON file with the job's settings")
    parser.add_argument(
        "--tokens", type=Path, required=True, help="JSON file with a token for each scope, mode 0600"
    )
    parser.add_argument(
        "--describe", type=Path, help="JSON file with what hosts that join are told of the job"
    )
    parser.add_argument(
        "--memory", type=Path, help="file for what a controller that is started again must know"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--fd", type=int, help="an inherited listening socket")
    where.add_argument("--listen", default="127.0.0.1:0", help="address and port; loopback unless told")
    return parser.parse_args(arguments)


def _listen(fd: int | None, listen: str) -> socket.socket:
    if fd is not None:
        try:
            return socket.socket(fileno=fd)
        except OSError as error:
            raise UsageError(
                f"descriptor {fd} is no socket ({error.strerror}). Pass a listening one."
            ) from None
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host or "127.0.0.1", int(port)), family=family, backlog=1024)
    except (OSError, ValueError, OverflowError):
        raise UsageError(
            f"nothing can listen on {listen!r}; it is an address of this machine and a free port, such as 127.0.0.1:0."
        ) from None


if __name__ == "__main__":
    sys.exit(main())
