"""Before the application: connections that say too little end themselves, and an empty house is noticed at once."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from holdtrue.service import SCOPES, Tokens
from holdtrue.service.web import bounded
from holdtrue.service.web._connections import IDLE_S
from holdtrue.serving._gate import PREDICT, Gate

HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: here\r\nContent-Length: 10\r\n\r\n"


class Timer:
    def __init__(self, at_s: float, act: Callable[[], None]) -> None:
        self.at_s, self.act, self.is_off = at_s, act, False

    def cancel(self) -> None:
        self.is_off = True


class Task:
    def add_done_callback(self, act: Callable[[Any], None]) -> None:
        pass


class Loop:
    """Time is an argument, and the application never answers."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._timers: list[Timer] = []

    def time(self) -> float:
        return self.now_s

    def call_later(self, after_s: float, act: Callable[..., None], *words: Any) -> Timer:
        self._timers.append(Timer(self.now_s + after_s, lambda: act(*words)))
        return self._timers[-1]

    def create_task(self, work: Coroutine[Any, Any, None], **named: Any) -> Task:
        work.close()
        return Task()

    def go_on(self, seconds: float) -> None:
        until_s = self.now_s + seconds
        while due := [t for t in self._timers if not t.is_off and t.at_s <= until_s]:
            first = min(due, key=lambda t: t.at_s)
            self.now_s, first.is_off = first.at_s, True
            first.act()
        self.now_s = until_s


class Transport:
    def __init__(self) -> None:
        self.is_aborted = False

    def abort(self) -> None:
        self.is_aborted = True

    def is_closing(self) -> bool:
        return self.is_aborted

    def get_extra_info(self, name: str) -> None:
        return None

    def close(self) -> None:
        pass

    pause_reading = resume_reading = close


async def silent_app(scope: Any, receive: Any, send: Any) -> None:
    """Never called: the loop runs no task."""


def connect(loop: Loop, kind: Any = None) -> tuple[Any, Transport]:
    kind = kind or bounded()
    config = Config(silent_app, log_config=None, lifespan="off", timeout_keep_alive=10**6)
    protocol = kind(config, ServerState(), {}, _loop=loop)
    protocol.connection_made(transport := Transport())
    return protocol, transport


@pytest.mark.parametrize("said", [b"", HEAD[:30], HEAD, HEAD + b"half"])
def test_a_connection_without_a_whole_request_ends_after_its_time(said: bytes) -> None:
    loop = Loop()
    protocol, transport = connect(loop)
    if said:  # nothing at all would be the end of the other side
        protocol.data_received(said)
    loop.go_on(IDLE_S - 1)
    assert not transport.is_aborted
    loop.go_on(2)
    assert transport.is_aborted


def test_the_protocol_of_uvicorn_alone_would_hold_it() -> None:
    """The control."""
    loop = Loop()
    protocol, transport = connect(loop, H11Protocol)
    protocol.data_received(HEAD)
    loop.go_on(100 * IDLE_S)
    assert not transport.is_aborted


def test_a_request_that_is_being_answered_keeps_its_connection_and_then_the_time_runs_anew() -> None:
    loop = Loop()
    protocol, transport = connect(loop)
    protocol.data_received(HEAD + b"0123456789")
    loop.go_on(5.5 * IDLE_S)
    assert not transport.is_aborted
    protocol.cycle.response_complete = True
    protocol.on_response_complete()
    loop.go_on(IDLE_S - 1)
    assert not transport.is_aborted
    loop.go_on(2)
    assert transport.is_aborted


def test_the_last_answer_is_noticed_without_looking_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        may_answer = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await may_answer.wait()

        gate = Gate(
            app,
            tokens=Tokens(by_scope={scope: scope * 40 for scope in SCOPES}),
            hosts=frozenset({"here"}),
            is_loopback=True,
            most_inside=2,
            most_body_bytes=100,
            count=lambda inside: None,
            answered=lambda status: None,
        )
        headers = [(b"host", b"here"), (b"content-length", b"0")]
        scope = {"type": "http", "method": "POST", "path": PREDICT, "headers": headers}
        assert await gate.empty(0.0)
        asked = [asyncio.ensure_future(gate(scope, None, None)) for _ in range(2)]
        for _ in range(10):
            await asyncio.sleep(0)
        assert gate.inside == 2

        async def never(seconds: float) -> None:
            raise AssertionError(f"it looked again after {seconds} s")

        monkeypatch.setattr(asyncio, "sleep", never)
        assert not await gate.empty(0.01)
        may_answer.set()
        assert await gate.empty(20.0)
        await asyncio.gather(*asked)

    asyncio.run(work())
