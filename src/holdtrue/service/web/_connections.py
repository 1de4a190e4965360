"""HTTP whose connections cannot be held open by silence, nor by their number."""

import asyncio
from abc import ABC
from typing import Any, ClassVar, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

MOST = 2048
"""Open at once."""
IDLE_S = 60.0
"""Seconds that a connection has for the next whole request."""


def bounded(
    *, most: int = MOST, idle_s: float = IDLE_S, life_s: float | None = None
) -> type[asyncio.Protocol]:
    """HTTP/1.1 that cannot be held open by clients that say nothing, or half of something; for `uvicorn.Config(http=...)`.

    Args:
        most: Connections open at once that are no WebSocket. For one more the oldest that asks nothing is ended.
        idle_s: Seconds that a connection has for the next whole request, or for becoming a WebSocket.
        life_s: Seconds after which a connection is ended even while it is answered; None for answers that may take long,
            such as a stream of events.

    Returns:
        A class of its own, with a count of its own: one for each server.
    """
    bounds: dict[str, object] = {"most": most, "idle_s": idle_s, "life_s": life_s, "others": {}}
    return cast(type[asyncio.Protocol], type("BoundedProtocol", (_BoundedProtocol,), bounds))


class _BoundedProtocol(H11Protocol, ABC):
    """What `bounded` returns, but for its bounds."""

    most: ClassVar[int]
    idle_s: ClassVar[float]
    life_s: ClassVar[float | None]
    others: ClassVar[dict["_BoundedProtocol", None]]
    """Open connections that are no WebSocket, the oldest first."""
    _timer: asyncio.TimerHandle | None = None
    _ends_s: float | None = None

    def connection_made(self, transport: Any) -> None:  # Any: as asyncio has it
        """Take a connection up in place of another if there are too many; it ends if none can be ended for it."""
        super().connection_made(transport)
        if self.life_s is not None:
            self._ends_s = self.loop.time() + self.life_s
        if len(self.others) >= self.most:
            found = next((other for other in self.others if not other._is_answering()), None)
            if found is None and self.life_s is not None:
                found = next(iter(self.others))
            if found is None:
                transport.abort()
                return
            found._end()
        self.others[self] = None
        self._wait_for_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a connection."""
        self._forget()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self, event: Any) -> None:  # Any: as h11 has it
        """Let a connection become a WebSocket, which has bounds of its own."""
        self._forget()
        super().handle_websocket_upgrade(event)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP; a request that it is the rest of has no other answer."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:  # in the middle of an answer
            self.transport.close()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        super().on_response_complete()
        if self in self.others:
            self._wait_for_request()

    def _wait_for_request(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        left_s = self.idle_s if self._ends_s is None else min(self.idle_s, self._ends_s - self.loop.time())
        self._timer = self.loop.call_later(max(0.0, left_s), self._look)

    def _is_answering(self) -> bool:
        cycle = self.cycle
        return cycle is not None and not cycle.more_body and not cycle.response_complete

    def _look(self) -> None:
        is_over = self._ends_s is not None and self.loop.time() >= self._ends_s
        if self._is_answering() and not is_over:
            self._wait_for_request()  # the whole request is here and is being answered: that has a bound of its own
        else:
            self._end()

    def _forget(self) -> None:
        self.others.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()

    def _end(self) -> None:
        self._forget()
        self.transport.abort()
