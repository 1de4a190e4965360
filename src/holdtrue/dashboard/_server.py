"""The dashboard in this process."""

import asyncio
import os
import secrets
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import uvicorn

from holdtrue.service import hosts_of, listen, raise_file_limit, url_of
from holdtrue.service.web import QuietServer, bounded

from ._app import build_app
from ._cluster import ClusterSight
from ._facts import Observatory


def run_dashboard(
    *, jobs: Path, runs: Path, cluster: Path, host: str, port: int, say: Callable[[str], None]
) -> None:
    """See `serve_dashboard`."""
    listener = listen(host, port)
    file = jobs.parent / f"dashboard-{os.getpid()}.token"
    token = secrets.token_urlsafe(24)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as private:
        os.fchmod(descriptor, 0o600)
        private.write(token)
    say(f"the dashboard is on {url_of(listener)}; to resize or stop jobs there, give it the token in {file}")
    try:
        asyncio.run(_serve(listener, Observatory(jobs=jobs, runs=runs), ClusterSight(cluster), token))
    finally:
        listener.close()
        file.unlink(missing_ok=True)


async def _serve(
    listener: socket.socket, observatory: Observatory, cluster: ClusterSight, token: str
) -> None:
    raise_file_limit()
    app = build_app(observatory, cluster, hosts=hosts_of(listener), token=token)
    server = QuietServer(
        uvicorn.Config(
            app,
            http=bounded(),
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_graceful_shutdown=2,
            proxy_headers=False,
            h11_max_incomplete_event_size=16_384,
        )
    )

    def end() -> None:
        app.state.closing.set()  # the streams end, which would otherwise hold the server
        server.should_exit = True

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, end)
    await server.serve(sockets=[listener])
