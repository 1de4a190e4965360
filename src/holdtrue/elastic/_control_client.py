"""What commands and the scheduler ask of a running job's controller, over HTTP.

`http.client` of the standard library: it asks one address and nobody else (no proxy from the environment is given
the token), follows no redirect, and loads in 30 ms.
"""

import http.client
import json
from collections.abc import Mapping
from typing import Any, final
from urllib.parse import urlsplit

from holdtrue.errors import GroupError, UsageError, WaitTimeoutError

_MOST_ANSWER_BYTES = 8 * 2**20


@final
class ControlClient:
    """One job's controller. Each call is one connection; safe to use from several threads."""

    def __init__(self, *, url: str, token: str, timeout_s: float = 10.0) -> None:
        """Prepare to ask; nothing is sent yet.

        Args:
            url: The controller's, such as `http://127.0.0.1:41000`.
            token: Of scope read to look, of scope admin to change.
            timeout_s: Bound of each call.

        Raises:
            UsageError: the URL is none.
        """
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname or parts.username or parts.query:
            raise UsageError(
                f"the controller's URL is {url!r}; it looks like http://127.0.0.1:41000, without user, token or query. "
                f"Take it from `holdtrue status`."
            )
        self._host, self._port = parts.hostname, parts.port or 80
        self._token = token
        self._timeout_s = timeout_s

    def job(self) -> dict[str, Any]:  # Any: JSON values
        """Members, hosts, target and progress: the fields of `GET /v1/job`."""
        return self._ask("GET", "/v1/job")

    def health(self) -> dict[str, Any]:  # Any: JSON values
        """Name and phase of the job."""
        return self._ask("GET", "/v1/health")

    def description(self) -> dict[str, Any]:  # Any: JSON values
        """What a host that joins is told of the job."""
        return dict(self._ask("GET", "/v1/description")["description"])

    def events(self, after: int = 0, *, limit: int = 200) -> dict[str, Any]:  # Any: JSON values
        """Events after a number, the oldest first: `events`, `newest` and `dropped`."""
        return self._ask("GET", f"/v1/events?after={after}&limit={limit}")

    def resize(self, workers: int) -> str:
        """Aim at another number of workers; returns what became of it, as sentences.

        Raises:
            UsageError: the job cannot have that number, or is ending.
        """
        return str(self._ask("POST", "/v1/resize", {"workers": workers})["reason"])

    def stop(self, reason: str = "asked by the user") -> str:
        """End the job at the next boundary, with a checkpoint."""
        return str(self._ask("POST", "/v1/stop", {"reason": reason})["reason"])

    def set_mapping(self, mapping: str | None) -> str:
        """Use another mapping of the same members from the next boundary on; None for the even one.

        Raises:
            UsageError: it does not fit the members, or the job is ending.
        """
        return str(self._ask("POST", "/v1/mapping", {"mapping": mapping})["reason"])

    def _ask(
        self, method: str, path: str, body: Mapping[str, object] | None = None
    ) -> dict[str, Any]:  # Any: JSON values
        where = f"http://{self._host}:{self._port}"
        try:
            status, text = self._exchange(method, path, body)
        except TimeoutError:
            raise WaitTimeoutError(
                f"the controller at {where} did not answer {method} {path} within {self._timeout_s:g} s. "
                f"Training goes on without it; ask again, or see its log."
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise GroupError(
                f"the controller at {where} cannot be reached ({type(error).__name__}). Training goes on without it; "
                f"its launcher starts it again. If the job has ended, `holdtrue status` says so."
            ) from None
        return _read_answer(status, text, where)

    def _exchange(self, method: str, path: str, body: Mapping[str, object] | None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)
        headers = {"Authorization": f"Bearer {self._token}", "X-Holdtrue": "1"}
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        try:
            connection.request(method, path, body=data, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read(_MOST_ANSWER_BYTES)
        finally:
            connection.close()


def _read_answer(status: int, text: bytes, where: str) -> dict[str, Any]:  # Any: JSON values
    try:
        values = json.loads(text)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise GroupError(
            f"the controller at {where} answered with status {status} and no JSON object; "
            f"something else may listen there. Take the URL from `holdtrue status`."
        )
    if status < 400:
        return values
    sentence = str(values.get("error", f"status {status}"))
    if status in (409, 413, 422):
        raise UsageError(sentence)
    raise GroupError(f"the controller at {where} refused: {sentence}")
