"""A server in this process: its name among the user's jobs, its socket, its end."""

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import final

import uvicorn

from holdtrue.launch import JobEntry, register
from holdtrue.service import hosts_of, listen, read_tokens, url_of
from holdtrue.service.web import QuietServer, bounded
from holdtrue.units import format_ids

from ._app import build_app
from ._gate import Gate
from ._pool import Kind, WorkerPool
from ._settings import ServeSettings
from ._start import Place

_EMPTY_TIMEOUT_S = 60.0
_LOOPBACK = ("127.0.0.1", "::1")


def run_server(settings: ServeSettings, place: Place, say: Callable[[str], None]) -> None:
    """See `serve`."""
    listener = listen(place.host, place.port)
    name, registration = register(place.jobs, place.name, is_given=place.is_name_given)
    try:
        (place.run_dir / "logs").mkdir(parents=True, exist_ok=True)
        server = _Server(settings, place, name, listener, say)
        url = url_of(listener)
        entry = JobEntry(
            name=name,
            url=url,
            pid=os.getpid(),
            run_dir=str(place.run_dir.resolve()),
            token_file=str(registration.token_file),
            join_file=str(registration.join_file),
            script=settings.model,
            started_s=time.time(),
        )
        exit_code, ending = 1, "It failed."
        try:
            asyncio.run(server.run(registration.token_file, lambda: registration.publish(entry), url))
            exit_code, ending = 0, f"It ended: {server.reason}."
        finally:
            registration.end(exit_code=exit_code, ending=ending, ended_s=time.time())
    finally:
        registration.close()
        listener.close()


@final
class _Server:
    def __init__(
        self,
        settings: ServeSettings,
        place: Place,
        name: str,
        listener: socket.socket,
        say: Callable[[str], None],
    ) -> None:
        self._settings, self._place, self._name, self._listener, self._say = (
            settings,
            place,
            name,
            listener,
            say,
        )
        self.reason = "its process was ended"

    async def run(self, token_file: Path, publish: Callable[[], None], url: str) -> None:
        self._ending = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop, number.name)
        with open(self._place.run_dir / "events.jsonl", "a", buffering=1) as self._events:
            self._pool = WorkerPool(
                self._settings,
                logs=self._place.run_dir / "logs",
                devices=self._place.devices,
                note=self._note,
            )
            try:
                await self._first_worker()
                if not self._ending.is_set():
                    await self._serve(token_file, publish, url)
            finally:
                await self._pool.close()

    async def _first_worker(self) -> None:
        """Until a worker is ready, or somebody ends the server before."""
        starting = asyncio.ensure_future(self._pool.start())
        ending = asyncio.ensure_future(self._ending.wait())
        await asyncio.wait((starting, ending), return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        if not self._ending.is_set():
            await starting
        else:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)

    async def _serve(self, token_file: Path, publish: Callable[[], None], url: str) -> None:
        settings, pool = self._settings, self._pool
        gate = Gate(
            build_app(settings, pool, name=self._name, stop=self._stop),
            tokens=read_tokens(token_file),
            hosts=hosts_of(self._listener),
            is_loopback=self._listener.getsockname()[0] in _LOOPBACK,
            most_inside=settings.queue,
            most_body_bytes=settings.most_body_bytes,
            count=pool.metrics.inside.set,
            answered=lambda status: pool.metrics.requests.labels(str(status)).inc(),
        )
        server = QuietServer(
            uvicorn.Config(
                gate,
                http=bounded(),
                ws="none",
                h11_max_incomplete_event_size=16_384,
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,
                lifespan="off",
                timeout_keep_alive=60,
                timeout_graceful_shutdown=2,
                proxy_headers=False,
            )
        )
        publish()
        self._say(
            f"serving {self._name} ({settings.model}) on {url} · {pool.sentence} · {describe_mapping(pool)}"
        )
        serving = asyncio.ensure_future(server.serve(sockets=[self._listener]))
        await asyncio.wait(
            (serving, asyncio.ensure_future(self._ending.wait())), return_when=asyncio.FIRST_COMPLETED
        )
        gate.is_ending = True
        await gate.empty(min(_EMPTY_TIMEOUT_S, settings.timeout_s))
        server.should_exit = True
        await serving

    def _stop(self, reason: str) -> None:
        if not self._ending.is_set():
            self.reason = reason
            self._note("stopped", f"The server ends ({reason}) when it has answered those who are inside.")
            self._ending.set()

    def _note(self, kind: Kind, sentence: str) -> None:
        line: dict[str, object] = {
            "kind": kind,
            "step": None,
            "reason": sentence,
            "details": {},
            "time_s": time.time(),
            "generation": self._pool.generation if hasattr(self, "_pool") else 0,
        }
        self._events.write(json.dumps(line) + "\n")
        self._say(sentence)


def describe_mapping(pool: WorkerPool) -> str:
    """Who runs which virtual nodes."""
    members = [w for w in pool.workers() if w["rank"] is not None]
    return " · ".join(f"{w['device']} -> {format_ids(w['virtual_nodes'])}" for w in members)
