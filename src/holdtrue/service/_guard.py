"""What every request must pass before anything else looks at it: Host, Origin, token, scope, header, size."""

import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, final

from ._tokens import Tokens, allows

ACTION_HEADER = b"x-holdtrue"
MOST_BODY_BYTES = 65_536
_SAFE_METHODS = ("GET", "HEAD")
_WEBSOCKETS = ("/v1/worker", "/v1/host")

Scope = MutableMapping[str, Any]  # Any: as ASGI has it
Message = MutableMapping[str, Any]  # Any: as ASGI has it
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
ScopeOf = Callable[[str, str, str], str | None]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Why a request is refused."""

    status: int
    sentence: str


def judge_request(
    *,
    kind: str,
    method: str,
    path: str,
    headers: list[tuple[bytes, bytes]],
    tokens: Tokens,
    hosts: frozenset[str],
    scope_of: ScopeOf | None = None,
    most_body_bytes: int = MOST_BODY_BYTES,
) -> Verdict | None:
    """Whether a request may go on; None if it may. Pure.

    Args:
        kind: `http` or `websocket`.
        method: Of the request, empty for a WebSocket.
        path: Of the request.
        headers: Names in small letters, and values.
        tokens: Known tokens.
        hosts: What the Host header may be: the addresses that the service listens on, with their port.
        scope_of: Scope that kind, method and path need, None for no token at all; the controller's by default.
        most_body_bytes: Bound of Content-Length.
    """
    values = _values_of(headers)
    host = values.get(b"host", [""])
    if len(host) != 1 or host[0].lower() not in hosts:
        return Verdict(
            status=421, sentence="the Host header does not name this service. Use the URL that the job gave."
        )
    origins = values.get(b"origin", [])
    if any(origin not in (f"http://{host[0]}", f"https://{host[0]}") for origin in origins):
        return Verdict(
            status=403, sentence="the request comes from a page of another origin, which is refused."
        )
    needed = (scope_of or _scope_needed)(kind, method, path)
    verdict = None if needed is None else _judge_token(values.get(b"authorization", []), tokens, needed)
    if verdict is not None:
        return verdict
    if needed == "admin" and values.get(ACTION_HEADER) != ["1"]:
        return Verdict(
            status=403, sentence="a request that changes something needs the header X-Holdtrue: 1."
        )
    length = values.get(b"content-length", ["0"])
    if len(length) != 1 or not length[0].isdecimal() or int(length[0][:12]) > most_body_bytes:
        return Verdict(status=413, sentence=f"the body may have at most {most_body_bytes} bytes.")
    return None


def _values_of(headers: list[tuple[bytes, bytes]]) -> Mapping[bytes, list[str]]:
    values: dict[bytes, list[str]] = {}
    for name, value in headers:
        values.setdefault(name, []).append(value.decode("latin-1"))
    return values


def _scope_needed(kind: str, method: str, path: str) -> str:
    if kind == "websocket":
        return "join"
    return "read" if method in _SAFE_METHODS else "admin"


def _judge_token(given: list[str], tokens: Tokens, needed: str) -> Verdict | None:
    scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    scope = tokens.scope_of(token) if scheme.lower() == "bearer" else None
    if scope is None:
        return Verdict(
            status=401,
            sentence="the request has no token of this service; send `Authorization: Bearer TOKEN`.",
        )
    if not allows(scope, needed):
        return Verdict(
            status=403,
            sentence=f"the token has scope {scope}, and this needs {needed}. Use the token of that scope.",
        )
    return None


@final
class Guard:
    """ASGI middleware: refuses what `judge_request` refuses, bounds bodies, and ends each HTTP connection."""

    def __init__(self, app: App, *, tokens: Tokens, hosts: frozenset[str]) -> None:
        """Stand before an application."""
        self._app, self._tokens, self._hosts = app, tokens, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        verdict = judge_request(
            kind=scope["type"],
            method=scope.get("method", ""),
            path=scope["path"],
            headers=list(scope["headers"]),
            tokens=self._tokens,
            hosts=self._hosts,
        )
        if verdict is not None:
            await refuse(scope, receive, send, verdict)
        elif scope["type"] == "websocket":
            await self._app(scope, receive, send)
        else:
            await self._app(scope, _bounded(receive), _closing(send))


def _bounded(receive: Receive) -> Receive:
    """A body without Content-Length is counted; too long a one looks like a client that went away."""
    seen = 0

    async def receive_part() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        return {"type": "http.disconnect"} if seen > MOST_BODY_BYTES else message

    return receive_part


def _closing(send: Send) -> Send:
    """One request for a connection: a client that keeps connections open holds nothing here."""

    async def send_part(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
        await send(message)

    return send_part


async def refuse(scope: Scope, receive: Receive, send: Send, verdict: Verdict) -> None:
    """Answer a request with its verdict, and close the connection."""
    body = json.dumps({"error": verdict.sentence}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    if verdict.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    kind = "http"
    if scope["type"] == "websocket":
        await receive()
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 1008})
            return
        kind = "websocket.http"
    await send({"type": f"{kind}.response.start", "status": verdict.status, "headers": headers})
    await send({"type": f"{kind}.response.body", "body": body})
