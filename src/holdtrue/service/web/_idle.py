"""HTTP whose connections may stay open as long as they are used."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_CONNECTIONS = 2048
"""Open at once; for one more the oldest that asks nothing is ended."""
IDLE_S = 60.0
"""Seconds that a connection has for the next whole request."""

_open: dict["BoundedProtocol", None] = {}
"""Open connections of this process, the oldest first."""


class BoundedProtocol(H11Protocol):
    """HTTP/1.1 that cannot be held open by clients that say nothing, or half of something.

    An answer that takes long, such as a stream of events, is not cut.
    """

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:  # Any: as asyncio has it
        """Take a connection up, in place of an idle one if there are too many; without an idle one it ends."""
        super().connection_made(transport)
        if len(_open) >= MOST_CONNECTIONS:
            idle = next((other for other in _open if not other._is_answering()), None)
            if idle is None:
                transport.abort()
                return
            _open.pop(idle)
            idle.transport.abort()
        _open[self] = None
        self._wait_for_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a connection."""
        _open.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        super().on_response_complete()
        if self in _open:
            self._wait_for_request()

    def _wait_for_request(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(IDLE_S, self._look)

    def _is_answering(self) -> bool:
        cycle = self.cycle
        return cycle is not None and not cycle.more_body and not cycle.response_complete

    def _look(self) -> None:
        if self._is_answering():
            self._wait_for_request()  # the whole request is here and is being answered: that has a bound of its own
        else:
            self.transport.abort()
