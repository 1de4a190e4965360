"""Where an elastic job runs on this machine, and one worker's own socket."""

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import final

from holdtrue.errors import UsageError


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One machine's part of an elastic job."""

    url: str
    """Where the controller listens."""
    token_file: Path
    """File with the token of scope `join`."""
    address: str
    """Address of this machine by which the other workers reach its workers."""
    logs: Path
    """Folder of the workers' logs."""
    group_timeout_s: float
    """Bound of every wait between workers."""


def bind(address: str, port: int = 0) -> socket.socket:
    """A listening socket on one address: one that a library binds by itself listens on every interface.

    Raises:
        UsageError: the address is not this machine's, or the port is taken.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return socket.create_server((address, port), family=family, backlog=1024)
    except OSError as error:
        where = address if port == 0 else f"{address}:{port}"
        raise UsageError(
            f"nothing can listen on {where} ({error.strerror}); the job listens on an address of this machine and "
            f"a free port. See `ip address`, and pass --listen ADDRESS."
        ) from error


def url_of(listener: socket.socket) -> str:
    """The URL of whoever serves on a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
