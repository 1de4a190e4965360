"""A listening socket on one address of this machine."""

import ipaddress
import os
import socket

from holdtrue.errors import UsageError


def listen(host: str, port: int = 0) -> socket.socket:
    """A listening socket on one address.

    Args:
        host: An address of this machine, or its name.
        port: 0 for any that is free.

    Raises:
        UsageError: it is every address, or none of this machine's, or the port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=1024)
        # asyncio sets it only for sockets that name their protocol; without it each answer waits 40 ms for an ACK.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        if isinstance(error, OSError) and error.errno and not isinstance(error, socket.gaierror):
            reason = os.strerror(error.errno)  # create_server's own text repeats the address
        raise UsageError(
            f"nothing can listen on {host} port {port} ({reason}); --listen is an address of this machine (see "
            f"`ip address`) and a port that is free. Give another, or port 0."
        ) from error
    # `0` and an empty text are every address too: what the system made of the text counts, not the text.
    if ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_unspecified:
        listener.close()
        raise UsageError(
            f"--listen is {host or 'empty'!r}, which is every address of this machine; a service has one, by which "
            f"requests must call it. Give that address."
        )
    return listener


def url_of(listener: socket.socket) -> str:
    """The URL of whoever serves on a listening socket."""
    return url_at(*listener.getsockname()[:2])


def url_at(host: str, port: int) -> str:
    """The URL of whoever serves at an address.

    >>> url_at("127.0.0.1", 80), url_at("::1", 80)
    ('http://127.0.0.1:80', 'http://[::1]:80')
    """
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
