"""The dashboard over HTTP: a page, its JSON, its events, its two actions."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import Field

from holdtrue.elastic import MOST_WORKERS
from holdtrue.errors import GroupError, HoldtrueError, UsageError
from holdtrue.service import Tokens, Verdict, judge_request, make_tokens
from holdtrue.service.web import Body, add_refusals
from holdtrue.wire import escape_text

from ._cluster import ClusterSight, look_or_say
from ._facts import Observatory

PAGE = Path(__file__).with_name("page")
FILES = {
    "/": ("index.html", "text/html"),
    "/app.js": ("app.js", "text/javascript"),
    "/cluster.js": ("cluster.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    "/style.css": ("style.css", "text/css"),
}
LIVE_EVERY_S = 1.0
MOST_STREAMS = 32
MOST_BODY_BYTES = 4096
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

Headers = list[tuple[bytes, bytes]]
Key = Annotated[str, Query(min_length=1, max_length=300)]
Until = Annotated[float | None, Query(ge=0, le=1e12, allow_inf_nan=False)]
Look = Callable[[], Mapping[str, Any]]  # Any: JSON values
"""What a page shows, by the kind of event that carries it: each is sent when it changed."""


class ActBody(Body):
    """What to do with a job."""

    id: Annotated[str, Field(min_length=1, max_length=300)]
    what: Annotated[str, Field(pattern="^(resize|stop)$")]
    workers: Annotated[int | None, Field(ge=1, le=MOST_WORKERS)] = None


def build_app(
    observatory: Observatory, cluster: ClusterSight, *, hosts: frozenset[str], token: str
) -> FastAPI:
    """The application.

    Args:
        observatory: What it shows of jobs and runs.
        cluster: What it shows of the shared cluster.
        hosts: What the Host header may be.
        token: Without it nothing is changed.
    """
    app = FastAPI(title="holdtrue dashboard", version="1", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.closing = asyncio.Event()
    _add_guard(app, Tokens(by_scope={**make_tokens().by_scope, "admin": token}), hosts)
    _add_page(app)
    _add_reads(app, observatory, cluster)
    _add_live(app, observatory, cluster)
    _add_actions(app, observatory)
    return app


def _refuse(status: int, sentence: str) -> JSONResponse:
    return JSONResponse({"error": escape_text(sentence)}, status_code=status, headers=HEADERS)


_OWN_SENTENCES = {
    401: "to change a job the dashboard needs its token; it is in the file that the command named.",
    421: "the Host header does not name this dashboard. Use the address that it printed.",
}


def scope_of(kind: str, method: str, path: str) -> str | None:
    """Looking needs no token; everything else needs the dashboard's. Pure."""
    return None if method in ("GET", "HEAD") else "admin"


def judge_call(
    method: str, path: str, headers: Headers, tokens: Tokens, hosts: frozenset[str]
) -> Verdict | None:
    """Whether a request may go on before any of its body was read; None if it may. Pure."""
    verdict = judge_request(
        kind="http",
        method=method,
        path=path,
        headers=headers,
        tokens=tokens,
        hosts=hosts,
        scope_of=scope_of,
        most_body_bytes=MOST_BODY_BYTES,
    )
    if verdict is not None:
        return Verdict(status=verdict.status, sentence=_OWN_SENTENCES.get(verdict.status, verdict.sentence))
    names = {name for name, _ in headers}
    if b"transfer-encoding" in names or (scope_of("http", method, path) and b"content-length" not in names):
        return Verdict(status=411, sentence="a body says how long it is, by the header Content-Length.")
    return None


def _add_guard(app: FastAPI, tokens: Tokens, hosts: frozenset[str]) -> None:
    @app.middleware("http")
    async def guard(request: Request, go_on: Any) -> Response:  # Any: as starlette has it
        verdict = judge_call(request.method, request.url.path, request.headers.raw, tokens, hosts)
        if verdict is not None:
            refusal = _refuse(verdict.status, verdict.sentence)
            refusal.headers["Connection"] = "close"  # its body is not waited for
            return refusal
        answer: Response = await go_on(request)
        for name, value in HEADERS.items():
            answer.headers[name] = value
        return answer

    add_refusals(app, way_out="Go to the list of jobs, at /.")

    @app.exception_handler(HoldtrueError)
    async def say_error(request: Request, error: HoldtrueError) -> JSONResponse:
        return _refuse(404 if isinstance(error, UsageError) else 502, str(error))


def _add_page(app: FastAPI) -> None:
    for path, (name, kind) in FILES.items():
        content = (PAGE / name).read_bytes()

        def give(content: bytes = content, kind: str = kind) -> Response:
            return Response(content, media_type=kind)

        app.get(path, include_in_schema=False)(give)


def _add_reads(app: FastAPI, observatory: Observatory, cluster: ClusterSight) -> None:
    @app.get("/api/jobs", response_model=None)
    def read_jobs() -> JSONResponse:
        return JSONResponse(observatory.overview())

    @app.get("/api/view", response_model=None)
    def read_view(id: Key) -> Response:
        return Response(_json(observatory.view(id)), media_type="application/json")

    @app.get("/api/cluster", response_model=None)
    def read_cluster(until: Until = None) -> Response:
        return Response(
            _json(look_or_say(cluster, until, observatory.run_dirs())), media_type="application/json"
        )

    @app.get("/api/compare", response_model=None)
    def read_comparison(a: Key, b: Key) -> Response:
        return Response(_json(observatory.comparison(a, b)), media_type="application/json")


def _json(values: Any) -> str:  # Any: JSON values
    return json.dumps(values, allow_nan=False, separators=(",", ":"), default=str)


def _add_live(app: FastAPI, observatory: Observatory, cluster: ClusterSight) -> None:
    streams = 0

    def answer(look: Look, request: Request) -> Response:
        if streams >= MOST_STREAMS:
            return _refuse(429, f"{streams} pages are open already; close one.")

        async def send() -> AsyncIterator[str]:
            nonlocal streams
            streams += 1
            try:
                async for text in _follow(look, app.state.closing):
                    if await request.is_disconnected():
                        return
                    yield text
            finally:
                streams -= 1

        return StreamingResponse(send(), media_type="text/event-stream")

    @app.get("/api/live", response_model=None)
    async def live(request: Request, id: Annotated[str | None, Query(max_length=300)] = None) -> Response:
        """Server-sent events: the list of jobs, or one job's view, whenever it changed."""
        return answer(
            lambda: {"message": observatory.view(id) if id is not None else observatory.overview()}, request
        )

    @app.get("/api/live/cluster", response_model=None)
    async def live_cluster(request: Request, until: Until = None) -> Response:
        """Server-sent events: the cluster's queue and its chart, each whenever it changed."""
        return answer(lambda: look_or_say(cluster, until, observatory.run_dirs()), request)


async def _follow(look: Look, closing: asyncio.Event) -> AsyncIterator[str]:
    """What changed, about once a second, after the time here by which ages are counted."""
    before: dict[str, str] = {}
    while not closing.is_set():
        try:
            # in the thread too: a view of a long run takes a while to be written
            now = await asyncio.to_thread(lambda: {kind: _json(values) for kind, values in look().items()})
        except (UsageError, GroupError) as error:
            yield f"event: gone\ndata: {json.dumps(str(error))}\n\n"
            return
        yield f"event: clock\ndata: {time.time():.1f}\n\n"
        for kind, text in now.items():
            if before.get(kind) != text:
                yield f"event: {kind}\ndata: {text}\n\n"
        before = now
        await _pause(closing)


async def _pause(closing: asyncio.Event) -> None:
    try:
        await asyncio.wait_for(closing.wait(), LIVE_EVERY_S)
    except TimeoutError:
        return


def _add_actions(app: FastAPI, observatory: Observatory) -> None:
    @app.post("/api/act", response_model=None)
    async def act(body: ActBody) -> JSONResponse:
        if body.what == "resize" and body.workers is None:
            return _refuse(422, "a resize needs a number of workers. Give one.")
        try:
            said = await asyncio.to_thread(observatory.act, body.id, body.what, body.workers)
        except UsageError as error:
            return _refuse(409, str(error))
        return JSONResponse({"reason": escape_text(said)})
