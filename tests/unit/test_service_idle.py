"""Connections that say nothing, beside those that are used."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn

from holdtrue.service import listen
from holdtrue.service.web import QuietServer, bounded

LIMIT_S = 20.0
ASK = b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n"


async def app(scope: Any, receive: Any, send: Any) -> None:
    """`/stream` sends a letter every 20 ms; other paths answer at once."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    leaving = asyncio.ensure_future(receive())  # the request's body, which is empty
    await leaving
    if scope["path"] == "/stream":
        leaving = asyncio.ensure_future(receive())
        while not leaving.done():
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            await asyncio.sleep(0.02)
    await send({"type": "http.response.body", "body": b"."})


@asynccontextmanager
async def serving(protocol: type[asyncio.Protocol]) -> AsyncIterator[int]:
    """A server with the protocol; its port."""
    listener: socket.socket = listen("127.0.0.1")
    server = QuietServer(
        uvicorn.Config(
            app, http=protocol, ws="none", lifespan="off", log_config=None, timeout_graceful_shutdown=1
        )
    )
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await task
        listener.close()


Line = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def connect(port: int, said: bytes = b"") -> Line:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(said)
    return reader, writer


async def wait_for_end(line: Line) -> None:
    try:
        assert await asyncio.wait_for(line[0].read(), LIMIT_S) == b""
    except ConnectionResetError:
        return


async def hear_more(line: Line) -> None:
    """Until it says something new."""
    await asyncio.wait_for(line[0].readuntil(b"x"), LIMIT_S)


async def end(*lines: Line) -> None:
    for _, writer in lines:
        writer.transport.abort()
    await asyncio.sleep(0)


def test_a_connection_that_says_nothing_ends_and_a_stream_does_not() -> None:
    async def try_it() -> None:
        async with serving(bounded(idle_s=0.2)) as port:
            stream = await connect(port, ASK % b"/stream")
            await hear_more(stream)
            silent = await connect(port)
            half = await connect(port, b"POST / HTTP/1.1\r\nHost: a\r\n")
            await wait_for_end(silent)
            await wait_for_end(half)
            stream[0]._buffer.clear()  # type: ignore[attr-defined]
            await hear_more(stream)
            await end(stream, silent, half)

    asyncio.run(try_it())


def test_what_is_no_http_after_a_requests_head_is_answered_once_and_breaks_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    head = b"POST %s HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n"

    async def try_it() -> None:
        async with serving(bounded()) as port:
            for path in (b"/", b"/stream"):
                line = await connect(port, head % path)
                await asyncio.wait_for(hear_out(line), LIMIT_S)
                await end(line)
            good = await connect(port, ASK % b"/")
            assert (await asyncio.wait_for(good[0].readline(), LIMIT_S)).startswith(b"HTTP/1.1 200")
            await end(good)

    asyncio.run(try_it())
    assert {record.levelname for record in caplog.records} == {"WARNING"}, caplog.text


def test_one_more_than_fit_takes_the_place_of_the_oldest_that_asks_nothing() -> None:
    async def try_it() -> None:
        async with serving(bounded(most=3)) as port:
            stream = await connect(port, ASK % b"/stream")
            await hear_more(stream)
            oldest, other = await connect(port), await connect(port)
            new = await connect(port, ASK % b"/")
            assert (await asyncio.wait_for(new[0].readline(), LIMIT_S)).startswith(b"HTTP/1.1 200")
            await wait_for_end(oldest)
            other[1].write(ASK % b"/")
            assert (await asyncio.wait_for(other[0].readline(), LIMIT_S)).startswith(b"HTTP/1.1 200")
            stream[0]._buffer.clear()  # type: ignore[attr-defined]
            await hear_more(stream)
            await end(stream, oldest, other, new)

    asyncio.run(try_it())


def test_a_life_ends_an_answer_too_and_its_oldest_makes_room() -> None:
    async def try_it() -> None:
        async with serving(bounded(most=2, life_s=0.3)) as port:
            oldest, other = await connect(port, ASK % b"/stream"), await connect(port, ASK % b"/stream")
            await hear_more(oldest)
            await hear_more(other)
            new = await connect(port, ASK % b"/stream")  # all that are open are being answered
            await hear_more(new)
            for line in (oldest, other, new):
                await asyncio.wait_for(hear_out(line), LIMIT_S)
            await end(oldest, other, new)

    asyncio.run(try_it())


async def hear_out(line: Line) -> None:
    """Until it is ended."""
    try:
        while await line[0].read(1024):
            pass
    except ConnectionResetError:
        return
