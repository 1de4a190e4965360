"""The dashboard in this process."""

import asyncio
import contextlib
import os
import secrets
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import uvicorn

from holdtrue.errors import UsageError
from holdtrue.service import hosts_of

from ._app import build_app
from ._facts import Observatory


def run_dashboard(*, jobs: Path, runs: Path, host: str, port: int, say: Callable[[str], None]) -> None:
    """See `serve_dashboard`."""
    if host in ("0.0.0.0", "::", ""):
        raise UsageError(
            f"--listen is {host!r}, which is every address; the dashboard has one. Give that address."
        )
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as error:
        raise UsageError(
            f"nothing can listen on {host} port {port} ({error.strerror}); --listen is an address of this machine and a free "
            f"port. Give another, or port 0."
        ) from None
    file = jobs.parent / f"dashboard-{os.getpid()}.token"
    token = secrets.token_urlsafe(24)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as private:
        os.fchmod(descriptor, 0o600)
        private.write(token)
    address, real_port = listener.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address
    say(
        f"the dashboard is on http://{shown}:{real_port}; to resize or stop jobs there, give it the token in {file}"
    )
    try:
        asyncio.run(_serve(listener, Observatory(jobs=jobs, runs=runs), token))
    finally:
        listener.close()
        file.unlink(missing_ok=True)


async def _serve(listener: socket.socket, observatory: Observatory, token: str) -> None:
    app = build_app(observatory, hosts=hosts_of(listener), token=token)
    server = _Uvicorn(
        uvicorn.Config(
            app,
            http="h11",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_graceful_shutdown=2,
            proxy_headers=False,
            limit_concurrency=256,
        )
    )

    def end() -> None:
        app.state.closing.set()  # the streams end, which would otherwise hold the server
        server.should_exit = True

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, end)
    await server.serve(sockets=[listener])


class _Uvicorn(uvicorn.Server):
    """Without signal handlers of its own: they would end the process before the token's file is removed."""

    def capture_signals(self) -> contextlib.AbstractContextManager[None]:  # type: ignore[override]
        """Nothing to capture."""
        return contextlib.nullcontext()
