"""What services say of requests that they do not answer."""

import asyncio
import json
from typing import Any

import pytest

from holdtrue.elastic import ControlClient
from holdtrue.elastic._service import build_app as build_controller
from holdtrue.errors import UsageError
from holdtrue.scheduler._service import build_app as build_scheduler
from holdtrue.serving._app import build_app as build_server

NOBODY: Any = None  # nothing here is asked of the job or the cluster
APPS = {
    "controller": lambda: build_controller(NOBODY, {}),
    "scheduler": lambda: build_scheduler(NOBODY, NOBODY, NOBODY),
    "server": lambda: build_server(NOBODY, NOBODY, name="digits", stop=lambda reason: None),
}


async def ask(app: Any, method: str, path: str, body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"",
        "headers": [(b"content-type", b"application/json")], "http_version": "1.1", "scheme": "http",
        "server": ("127.0.0.1", 1), "client": ("127.0.0.1", 2), "root_path": "",
    }  # fmt: skip
    await app(scope, receive, send)
    headers = {k.decode(): v.decode() for k, v in sent[0]["headers"]}
    return sent[0]["status"], headers, b"".join(m.get("body", b"") for m in sent[1:])


@pytest.mark.parametrize(
    "url",
    [
        *(
            "foo",
            "http://",
            "https://h:1",
            "http://h:1/bogus",
            "http://h:1/#x",
            "http://h:1?t=2",
            "http://u@h:1",
        ),
        *("http://h:99999", "http://h:x", "http://[::1"),
    ],
)
def test_what_is_no_url_of_a_service_is_refused_with_where_it_stands(url: str) -> None:
    with pytest.raises(UsageError) as refusal:
        ControlClient(url=url, token="t")
    assert str(refusal.value).startswith(f"the URL of the controller is {url!r}; it looks like http://")
    assert str(refusal.value).endswith("Take it from `holdtrue status JOB`.")


@pytest.mark.parametrize("name", APPS)
def test_a_wrong_method_is_told_which_is_allowed(name: str) -> None:
    status, headers, text = asyncio.run(ask(APPS[name](), "POST", "/v1/health"))
    assert (status, headers["allow"]) == (405, "GET")
    assert json.loads(text)["error"] == ("POST is not answered here: Method Not Allowed. See /openapi.json.")


@pytest.mark.parametrize("name", APPS)
def test_a_body_that_does_not_fit_is_a_sentence(name: str) -> None:
    status, _, text = asyncio.run(ask(APPS[name](), "POST", "/v1/stop", b'{"\\u001b": 1}'))
    assert status == 422
    assert json.loads(text)["error"].startswith("the request's body.\\x1b is refused: Extra inputs")
