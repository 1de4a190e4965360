"""Serving an application on a socket, behind the guard and within bounds."""

import contextlib
import gc
import resource
import signal
import socket as sockets
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING

from ._guard import App, Guard
from ._tokens import Tokens

if TYPE_CHECKING:
    import uvicorn

MOST_HEADER_BYTES = 16_384
MOST_PLAIN = 512
"""Connections that are no WebSocket."""
PLAIN_LIFE_S = 10.0
"""Seconds that a connection has for its one request, or for becoming a WebSocket."""


def hosts_of(listener: sockets.socket) -> frozenset[str]:
    """What the Host header may be for a service on this socket."""
    address, port = listener.getsockname()[:2]
    names = [f"[{address}]" if ":" in address else address]
    if address in ("127.0.0.1", "::1"):
        names.append("localhost")
    return frozenset(f"{name}:{port}" for name in names)


async def serve_app(
    app: App,
    *,
    tokens: Tokens,
    listener: sockets.socket,
    most_message_bytes: int,
    beside: "Callable[[uvicorn.Server], Awaitable[None]]",
) -> None:
    """Serve `app` until SIGTERM, or until `beside` sets the server's `should_exit`.

    Args:
        app: The application; the guard is put before it here.
        tokens: Who may ask what.
        listener: A listening socket.
        most_message_bytes: Bound of one WebSocket message.
        beside: Runs while the service does; what it raises ends the service and is raised here.

    Guarantee:
        After SIGTERM it returns, so that the caller cleans up. Only in the main thread are signals heard.
    """
    import asyncio

    import uvicorn

    from .web import bounded

    raise_file_limit()
    _calm_collector()
    server = uvicorn.Server(
        uvicorn.Config(
            Guard(app, tokens=tokens, hosts=hosts_of(listener)),
            http=bounded(most=MOST_PLAIN, idle_s=PLAIN_LIFE_S, life_s=PLAIN_LIFE_S),
            ws="websockets-sansio",
            ws_max_size=most_message_bytes,
            ws_per_message_deflate=False,
            ws_ping_interval=20.0,
            ws_ping_timeout=40.0,
            h11_max_incomplete_event_size=MOST_HEADER_BYTES,
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            lifespan="off",
            timeout_graceful_shutdown=2,
            proxy_headers=False,
        )
    )

    async def run_beside() -> None:
        try:
            await beside(server)
        except BaseException:
            server.should_exit = True
            raise

    task = asyncio.create_task(run_beside())
    try:
        with _outliving_sigterm():
            await server.serve(sockets=[listener])
    finally:
        task.cancel()
    ended = (await asyncio.gather(task, return_exceptions=True))[0]
    if isinstance(ended, Exception):
        raise ended


@contextlib.contextmanager
def _outliving_sigterm() -> Iterator[None]:
    """uvicorn ends in order at SIGTERM and then raises it again, which by default ends the process on the spot."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def _calm_collector() -> None:
    """States are trees of frozen values, freed by their counts: looking for cycles among them costs pauses only."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)


def raise_file_limit() -> None:
    """A thousand connections need a thousand files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, 8192) if hard != resource.RLIM_INFINITY else 8192
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
