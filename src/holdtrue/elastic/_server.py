"""The service in its process: sockets, bounds, signals."""

import asyncio
import gc
import logging
import resource
import socket as sockets
from collections.abc import Mapping
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from holdtrue.wire import MOST_MESSAGE_BYTES

from ._controller import Controller
from ._guard import App, Guard
from ._service import build_app
from ._state import JobSettings
from ._tokens import Tokens

_log = logging.getLogger("holdtrue.elastic")

MOST_PLAIN = 512
"""Connections that are no WebSocket; beyond it the oldest is ended."""
PLAIN_LIFE_S = 10.0
"""Seconds that a connection has for its one request, or for becoming a WebSocket."""
MOST_HEADER_BYTES = 16_384
LINGER_S = 60.0
"""After the end of the job: for those who come back, or look."""

_plain: dict["BoundedProtocol", asyncio.TimerHandle] = {}
"""Open connections that are no WebSocket, the oldest first, with the timers that end them. One process, one service."""


class BoundedProtocol(H11Protocol):
    """HTTP that cannot be held open: neither by clients that say nothing nor by many of them."""

    def connection_made(self, transport: Any) -> None:  # Any: as asyncio has it
        """Take a connection up; if there are too many, the oldest ends."""
        super().connection_made(transport)
        _plain[self] = self.loop.call_later(PLAIN_LIFE_S, self._end)
        if len(_plain) > MOST_PLAIN:
            next(iter(_plain))._end()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a connection."""
        self._forget()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self, event: Any) -> None:  # Any: as h11 has it
        """Let a connection become a WebSocket, which has bounds of its own."""
        self._forget()
        super().handle_websocket_upgrade(event)

    def _forget(self) -> None:
        timer = _plain.pop(self, None)
        if timer is not None:
            timer.cancel()

    def _end(self) -> None:
        self._forget()
        self.transport.abort()


def hosts_of(listener: sockets.socket) -> frozenset[str]:
    """What the Host header may be for a service on this socket."""
    address, port = listener.getsockname()[:2]
    names = [f"[{address}]" if ":" in address else address]
    if address in ("127.0.0.1", "::1"):
        names.append("localhost")
    return frozenset(f"{name}:{port}" for name in names)


async def serve(
    settings: JobSettings,
    tokens: Tokens,
    listener: sockets.socket,
    *,
    description: Mapping[str, Any],  # Any: JSON values
    linger_s: float = LINGER_S,
) -> None:
    """Serve one job until SIGTERM, or until it has been over for `linger_s`."""
    _raise_file_limit()
    _calm_collector()
    controller = Controller(settings)
    guarded = Guard(cast(App, build_app(controller, description)), tokens=tokens, hosts=hosts_of(listener))
    server = uvicorn.Server(
        uvicorn.Config(
            guarded,
            http=BoundedProtocol,
            ws="websockets-sansio",
            ws_max_size=MOST_MESSAGE_BYTES,
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
    lingering = asyncio.create_task(_end_after(controller, server, linger_s))
    try:
        await server.serve(sockets=[listener])
    finally:
        lingering.cancel()
        controller.close()


async def _end_after(controller: Controller, server: uvicorn.Server, linger_s: float) -> None:
    await controller.over.wait()
    await asyncio.sleep(linger_s)
    server.should_exit = True


def _calm_collector() -> None:
    """States are trees of frozen values, freed by their counts: looking for cycles among them costs pauses only."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)


def _raise_file_limit() -> None:
    """A thousand connections need a thousand files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, 8192) if hard != resource.RLIM_INFINITY else 8192
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
