"""HTTP whose connections are few and short."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_PLAIN = 512
"""Connections that are no WebSocket; beyond it the oldest is ended."""
PLAIN_LIFE_S = 10.0
"""Seconds that a connection has for its one request, or for becoming a WebSocket."""

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
