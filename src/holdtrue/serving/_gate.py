"""Before the application: who may ask what, how large a body is, and how many requests are inside at once."""

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any, final

from holdtrue.service import Tokens, judge_request, refuse

PREDICT = "/v1/predict"
OPEN = (PREDICT, "/v1/health", "/v1/ready", "/v1/model", "/metrics", "/openapi.json")

Scope = Any  # Any: as ASGI has it
Receive = Any  # Any: as ASGI has it
Send = Any  # Any: as ASGI has it


def scopes_beyond(*, is_loopback: bool) -> Callable[[str, str, str], str | None]:
    """Which scope of token a request needs; on loopback, asking the model needs none. Pure.

    >>> [scopes_beyond(is_loopback=True)("http", m, p) for m, p in (("POST", PREDICT), ("GET", "/v1/job"), ("POST", "/v1/stop"))]
    [None, 'read', 'admin']
    """

    def scope_of(kind: str, method: str, path: str) -> str | None:
        if path in OPEN:
            return None if is_loopback else "read"
        return "read" if method in ("GET", "HEAD") else "admin"

    return scope_of


@final
class Gate:
    """ASGI middleware. A request that finds the house full is answered 429 before its body is read: nothing piles up."""

    def __init__(
        self,
        app: Any,  # Any: an ASGI application
        *,
        tokens: Tokens,
        hosts: frozenset[str],
        is_loopback: bool,
        most_inside: int,
        most_body_bytes: int,
        count: Callable[[int], None],
        answered: Callable[[int], None],
    ) -> None:
        """Stand before an application.

        Args:
            app: The application.
            tokens: Known tokens.
            hosts: What the Host header may be.
            is_loopback: Whether only this machine can ask.
            most_inside: Predictions that may be inside at once.
            most_body_bytes: Bound of a body.
            count: Told how many are inside.
            answered: Told the status of each answer to a prediction.
        """
        self._app, self._tokens, self._hosts = app, tokens, hosts
        self._scope_of = scopes_beyond(is_loopback=is_loopback)
        self._most_inside, self._most_body_bytes = most_inside, most_body_bytes
        self._count, self._answered = count, answered
        self.inside = 0
        """Predictions that are not answered yet."""
        self._nobody = asyncio.Event()
        self._nobody.set()
        self.is_ending = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] != "http":
            return
        verdict = judge_request(
            kind="http",
            method=scope["method"],
            path=scope["path"],
            headers=list(scope["headers"]),
            tokens=self._tokens,
            hosts=self._hosts,
            scope_of=self._scope_of,
            most_body_bytes=self._most_body_bytes,
        )
        is_prediction = scope["path"] == PREDICT and scope["method"] == "POST"
        if verdict is not None:
            if is_prediction:
                self._answered(verdict.status)
            await refuse(scope, receive, send, verdict)
        elif not is_prediction:
            await self._app(scope, receive, send)
        elif self.is_ending:
            await self._turn_away(
                send, 503, "the server is ending. Ask another one, or this name again later."
            )
        elif self.inside >= self._most_inside:
            await self._turn_away(
                send,
                429,
                f"{self.inside} requests are inside and no more fit. Wait as Retry-After says, and ask again.",
            )
        else:
            await self._let_in(scope, receive, send)

    async def _let_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_part(message: Any) -> None:  # Any: as ASGI has it
            if message["type"] == "http.response.start":
                self._answered(int(message["status"]))
            await send(message)

        self.inside += 1
        self._nobody.clear()
        self._count(self.inside)
        try:
            await self._app(scope, receive, send_part)
        finally:
            self.inside -= 1
            self._count(self.inside)
            if not self.inside:
                self._nobody.set()

    async def _turn_away(self, send: Send, status: int, sentence: str) -> None:
        self._answered(status)
        body = json.dumps({"error": sentence}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"retry-after", b"1"),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def empty(self, timeout_s: float) -> bool:
        """Whether all who are inside were answered in time."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._nobody.wait(), timeout_s)
        return not self.inside
