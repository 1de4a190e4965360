"""Who may do what with a controller, and that nobody can disturb a job by asking wrongly."""

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import websockets.exceptions
from websockets.sync.client import connect

from control_plane import TOKENS, WAIT_S, Service, listening, serving
from holdtrue.elastic import ControlClient, ControllerAgent
from holdtrue.errors import GroupError, UsageError, WaitTimeoutError
from holdtrue.wire import MOST_MESSAGE_BYTES, Leaving, encode_control

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One controller for the module."""
    with listening() as listener, serving(tmp_path_factory.mktemp("job"), listener, {}) as running:
        yield running


@pytest.fixture(scope="module")
def job(service: Service) -> Iterator[ControllerAgent]:
    """The only worker of the job, which trains while others attack."""
    agent = service.agent(0)
    agent.start(timeout_s=WAIT_S)
    view = agent.wait_for_view(0, timeout_s=WAIT_S, what="the first view")
    agent.say_entered(view.generation, 0, seconds=0.0)
    yield agent
    agent.close()


def ask(
    service: Service,
    method: str,
    path: str,
    *,
    scope: str | None = "admin",
    body: bytes | None = None,
    **headers: str,
) -> tuple[int, dict[str, object]]:
    """Status and answer of one request; header names have `_` for `-`."""
    sent = {"Host": f"127.0.0.1:{service.port}", "X-Holdtrue": "1", "Content-Type": "application/json"}
    if scope is not None:
        sent["Authorization"] = f"Bearer {TOKENS[scope]}"
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=WAIT_S)
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in (sent | ({"Content-Length": str(len(body))} if body is not None else {})).items():
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read() or b"{}")
    finally:
        connection.close()


def test_a_token_that_is_not_the_jobs_is_the_error_of_who_gave_it_with_the_way_out(service: Service) -> None:
    url, wrong = f"http://127.0.0.1:{service.port}", "0" * 32
    with pytest.raises(UsageError, match=r"does not know the token; .* of its own\. Take another\.$"):
        ControlClient(url=url, token=wrong, token_way_out="Take another.").description()
    with pytest.raises(GroupError, match="the request has no token of this service"):
        ControlClient(url=url, token=wrong).description()


def check_undisturbed(service: Service, job: ControllerAgent) -> None:
    """The job's worker has the connection that it had, and is heard and answered."""
    assert job.is_connected
    before = service.client("read").job()
    mark = f"mark {os.urandom(4).hex()}"
    job.say_progress({"step": 1, "mark": mark})
    assert job._link.flush(WAIT_S)
    after = service.client("read").job()
    assert after["progress"]["mark"] == mark
    assert (after["phase"], after["generation"]) == (before["phase"], before["generation"]) == ("running", 1)


READS = ["/v1/health", "/v1/job", "/v1/events", "/openapi.json"]
ACTIONS = {"/v1/resize": b'{"workers": 1}', "/v1/mapping": b'{"mapping": null}', "/v1/stop": b"{}"}


@pytest.mark.parametrize("path", [*READS, *ACTIONS, "/v1/nothing", "/"])
def test_without_a_token_or_with_a_wrong_one_nothing_is_answered(
    service: Service, job: ControllerAgent, path: str
) -> None:
    method = "POST" if path in ACTIONS else "GET"
    for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": f"Basic {TOKENS['admin']}"}):
        status, answer = ask(service, method, path, scope=None, body=ACTIONS.get(path), **headers)
        assert (status, list(answer)) == (401, ["error"])
    query = f"?token={TOKENS['admin']}"
    assert ask(service, method, path + query, scope=None, body=ACTIONS.get(path))[0] == 401
    check_undisturbed(service, job)


def test_scopes_allow_what_they_say_and_no_more(service: Service, job: ControllerAgent) -> None:
    for path in READS:
        assert [ask(service, "GET", path, scope=scope)[0] for scope in TOKENS] == [200, 200, 200]
    for path, body in ACTIONS.items():
        refused = [ask(service, "POST", path, scope=scope, body=body) for scope in ("read", "join")]
        assert [status for status, _ in refused] == [403, 403]
        assert "needs admin" in str(refused[0][1]["error"])
    for path in ("/v1/worker", "/v1/host"):
        assert refused_upgrade(service, path, Authorization=f"Bearer {TOKENS['read']}") == 403
    assert ask(service, "POST", "/v1/resize", body=ACTIONS["/v1/resize"])[0] == 200
    check_undisturbed(service, job)


def refused_upgrade(service: Service, path: str, **headers: str) -> int:
    """Status with which a WebSocket is refused."""
    with (
        pytest.raises(websockets.exceptions.InvalidStatus) as refused,
        connect(f"ws://127.0.0.1:{service.port}{path}", additional_headers=headers, proxy=None),
    ):
        pass
    return refused.value.response.status_code


@pytest.mark.parametrize("path", ["/v1/worker", "/v1/host"])
def test_a_websocket_needs_token_host_and_origin_like_everything_else(
    service: Service, job: ControllerAgent, path: str
) -> None:
    good = {"Authorization": f"Bearer {TOKENS['join']}"}
    assert refused_upgrade(service, path) == 401
    assert refused_upgrade(service, f"{path}?token={TOKENS['join']}") == 401
    assert refused_upgrade(service, path, Authorization="Bearer wrong") == 401
    assert refused_upgrade(service, path, **good, Origin="http://evil.example") == 403
    check_undisturbed(service, job)


def test_a_wrong_host_or_origin_is_refused(service: Service, job: ControllerAgent) -> None:
    for host in (
        "evil.example",
        f"evil.example:{service.port}",
        "127.0.0.1",
        f"127.0.0.1:{service.port}.evil",
    ):
        assert ask(service, "GET", "/v1/job", Host=host)[0] == 421
    assert ask(service, "GET", "/v1/job", Host=f"localhost:{service.port}")[0] == 200
    for origin in ("http://evil.example", "null", f"http://127.0.0.1:{service.port + 1}"):
        assert ask(service, "GET", "/v1/job", Origin=origin)[0] == 403
    assert ask(service, "GET", "/v1/job", Origin=f"http://127.0.0.1:{service.port}")[0] == 200
    check_undisturbed(service, job)


def test_an_action_needs_its_header(service: Service, job: ControllerAgent) -> None:
    for path, body in ACTIONS.items():
        status, answer = ask(service, "POST", path, body=body, X_Holdtrue="0")
        assert (status, "X-Holdtrue" in str(answer["error"])) == (403, True)
    check_undisturbed(service, job)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"workers": "2"}',
        b'{"workers": 0}',
        b'{"workers": 2, "x": 1}',
        b"\xff\x00",
    ],
)
def test_a_body_that_is_not_as_described_is_refused_with_a_sentence(
    service: Service, job: ControllerAgent, body: bytes
) -> None:
    status, answer = ask(service, "POST", "/v1/resize", body=body)
    assert status == 422
    assert str(answer["error"]).startswith("the request's ")
    check_undisturbed(service, job)


def test_long_bodies_and_headers_are_refused(service: Service, job: ControllerAgent) -> None:
    assert ask(service, "POST", "/v1/stop", body=b'{"reason": "' + b"x" * 70_000 + b'"}')[0] == 413
    assert ask(service, "POST", "/v1/stop", body=b'{"reason": "' + b"x" * 2_000 + b'"}')[0] == 422
    with socket.create_connection(("127.0.0.1", service.port), WAIT_S) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000)
        assert raw.recv(100).startswith(b"HTTP/1.1 400")
    chunks = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
    with socket.create_connection(("127.0.0.1", service.port), WAIT_S) as raw:
        head = f"POST /v1/stop HTTP/1.1\r\nHost: 127.0.0.1:{service.port}\r\nX-Holdtrue: 1\r\nTransfer-Encoding: chunked\r\n"
        raw.sendall(f"{head}Authorization: Bearer {TOKENS['admin']}\r\n\r\n".encode())
        with pytest.raises(OSError):  # reset or broken pipe, as the kernel likes
            raw.sendall(chunks * 10_000)
    check_undisturbed(service, job)


GARBAGE = [
    b"\x00" * 64,
    b"\x80\x04\x95pickle",
    b"not json",
    b"[" * 100_000,
    b'{"version": 1, "event": "hello"}',
    b'{"version": 2, "event": "ready", "after": 0}',
    b'{"version": 1, "event": "ready", "after": 1e999}',
    encode_control(Leaving(reason="no hello before")).encode(),
]


@pytest.mark.parametrize("path", ["/v1/worker", "/v1/host"])
@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_ends_its_own_connection_alone(
    service: Service, job: ControllerAgent, path: str, garbage: bytes
) -> None:
    headers = {"Authorization": f"Bearer {TOKENS['join']}"}
    with connect(f"ws://127.0.0.1:{service.port}{path}", additional_headers=headers, proxy=None) as raw:
        raw.send(garbage.decode(errors="replace") if garbage[:1] != b"\x80" else garbage)
        with pytest.raises(websockets.exceptions.ConnectionClosedError) as closed:
            raw.recv(WAIT_S)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008
    check_undisturbed(service, job)


def test_an_oversized_message_ends_its_own_connection_alone(service: Service, job: ControllerAgent) -> None:
    headers = {"Authorization": f"Bearer {TOKENS['join']}"}
    url = f"ws://127.0.0.1:{service.port}/v1/worker"
    with connect(url, additional_headers=headers, proxy=None) as raw:
        raw.send("x" * (MOST_MESSAGE_BYTES + 1))
        with pytest.raises(websockets.exceptions.ConnectionClosedError) as closed:
            raw.recv(WAIT_S)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009
    check_undisturbed(service, job)


def test_somebody_who_takes_a_workers_number_does_not_get_its_place(
    service: Service, job: ControllerAgent
) -> None:
    thief = service.agent(0)
    thief._book = type(thief._book)(me=thief._book.me, pid=1)
    with pytest.raises(GroupError, match="a number is never given twice"):
        thief.start(timeout_s=WAIT_S)
    thief.close()
    check_undisturbed(service, job)


def test_a_thousand_connections_that_say_nothing_do_not_disturb_the_job(
    service: Service, job: ControllerAgent
) -> None:
    silent = [socket.create_connection(("127.0.0.1", service.port), WAIT_S) for _ in range(1000)]
    try:
        check_undisturbed(service, job)
        half = b"POST /v1/stop HTTP/1.1\r\nHost: "
        for raw in silent[-50:]:
            raw.sendall(half)  # they are the newest, so they are still open: slow clients
        check_undisturbed(service, job)
        for raw in silent[:400]:
            raw.settimeout(WAIT_S)
            assert raw.recv(1) == b"", "the oldest are ended when there are too many"
    finally:
        for raw in silent:
            raw.close()
    check_undisturbed(service, job)


def test_a_thousand_wrong_requests_at_once_do_not_disturb_the_job(
    service: Service, job: ControllerAgent
) -> None:
    statuses: list[int] = []

    def ask_many() -> None:
        statuses.extend(ask(service, "GET", "/v1/job", scope=None)[0] for _ in range(50))

    threads = [threading.Thread(target=ask_many) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert statuses == [401] * 1000
    check_undisturbed(service, job)


def test_what_is_logged_and_recorded_cannot_drive_a_terminal_and_has_no_token(
    service: Service, job: ControllerAgent
) -> None:
    with pytest.raises(UsageError, match="members now"):
        service.client().set_mapping("0\x1b[2J/1")
    assert ask(service, "GET", "/v1/%1b%5b2J?token=" + TOKENS["read"])[0] == 404
    log = service.log.read_text()
    assert "\x1b" not in log
    assert [token for token in TOKENS.values() if token in log] == []
    arguments = Path(f"/proc/{service.pid}/cmdline").read_text()
    assert [token for token in TOKENS.values() if token in arguments] == []


def test_the_service_listens_on_the_socket_it_was_given_and_no_other(service: Service) -> None:
    import psutil

    listening_at = [c.laddr for c in psutil.Process(service.pid).net_connections() if c.status == "LISTEN"]
    assert [tuple(address) for address in listening_at] == [("127.0.0.1", service.port)]


def test_a_command_is_told_in_a_sentence_what_is_wrong(service: Service) -> None:
    from holdtrue.elastic import ControlClient

    with pytest.raises(GroupError, match=r"needs admin. Use the token of that scope"):
        service.client("read").resize(1)
    with pytest.raises(UsageError, match="workers is refused"):
        service.client().resize(0)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        client = ControlClient(url=f"http://127.0.0.1:{deaf.getsockname()[1]}", token="x", timeout_s=0.05)
        with pytest.raises(WaitTimeoutError, match=r"did not answer GET /v1/job within 0\.05 s"):
            client.job()
    with pytest.raises(GroupError, match="cannot be reached"):
        client.job()
    with pytest.raises(UsageError, match="looks like http://"):
        ControlClient(url="http://token@127.0.0.1:1", token="x")


def test_a_token_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    job, tokens = tmp_path / "job.json", tmp_path / "tokens.json"
    job.write_text(json.dumps({"name": "test", "workers": 1, "least": 1}))
    tokens.write_text(json.dumps(TOKENS))
    tokens.chmod(0o640)
    command = [sys.executable, "-m", "holdtrue.elastic", "--job", str(job), "--tokens", str(tokens)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "mode 0640" in done.stderr) == (2, True)
