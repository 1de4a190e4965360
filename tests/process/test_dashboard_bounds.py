"""The dashboard and clients that mean no good, without a browser."""

import http.client
import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from commands import HOLDTRUE, call
from dashboard_pages import Dashboard, dashboard

__all__ = ["dashboard"]
pytestmark = pytest.mark.process

SILENT = 300


def test_silent_connections_keep_nobody_out(dashboard: Dashboard) -> None:
    where = urlsplit(dashboard.url)
    assert where.hostname is not None
    silent = [socket.create_connection((where.hostname, where.port or 0), timeout=20) for _ in range(SILENT)]
    try:
        asking = http.client.HTTPConnection(where.hostname, where.port, timeout=20)
        asking.request("GET", "/api/jobs")
        assert asking.getresponse().status == 200
        asking.close()
    finally:
        for line in silent:
            line.close()


def test_a_long_body_without_the_token_is_answered_before_it_is_sent(dashboard: Dashboard) -> None:
    where = urlsplit(dashboard.url)
    with socket.create_connection((where.hostname, where.port or 0), timeout=20) as line:
        head = f"POST /api/act HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Type: application/json\r\n"
        line.sendall(head.encode() + b"Content-Length: 1000000000\r\n\r\n{")
        with line.makefile("rb") as answer:
            text = answer.read()  # until it closes
    assert text.startswith(b"HTTP/1.1 401"), text
    assert b"needs its token" in text


def test_every_address_is_refused_however_it_is_written(tmp_path: Path) -> None:
    done = call(
        [HOLDTRUE, "dashboard", "--listen", "0:0"],
        cwd=tmp_path,
        env={"XDG_RUNTIME_DIR": str(tmp_path / "xdg")},
    )
    assert (done.status, "every address" in done.err) == (2, True), done.text


@pytest.mark.parametrize("option", ["--runs", "--cluster"])
def test_a_file_for_a_folder_is_refused(tmp_path: Path, option: str) -> None:
    (tmp_path / "file").touch()
    done = call([HOLDTRUE, "dashboard", option, "file"], cwd=tmp_path)
    assert done.status == 2
    assert f"{option} is file, which is a file" in " ".join(done.err.split()), done.text
