"""One request to a service of ours, over HTTP.

`http.client` of the standard library: it asks one address and nobody else (no proxy from the environment is given
the token), follows no redirect, and loads in 30 ms.
"""

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final
from urllib.parse import urlsplit

from holdtrue.errors import GroupError, UsageError, WaitTimeoutError

_MOST_ANSWER_BYTES = 8 * 2**20
_REFUSALS = (409, 413, 422)
"""Statuses of requests that the service understood and does not carry out: the user's to mend."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CallerWords:
    """How to speak of a service that does not answer."""

    who: str
    """The service, such as `the controller`."""
    silent: str
    """What to do when it does not answer in time: sentences."""
    gone: str
    """What to do when nobody listens: sentences."""
    found_by: str
    """The command that shows its URL."""
    token_way_out: str = ""
    """Where the user gave the token: what to do if it is not one of the service's, as a sentence."""


@final
class Caller:
    """One service's address and a token for it. Each call is one connection; safe to use from several threads."""

    def __init__(self, *, url: str, token: str, timeout_s: float, words: CallerWords) -> None:
        """Prepare to ask; nothing is sent yet.

        Args:
            url: Of the service, such as `http://127.0.0.1:41000`.
            token: Of scope read to look, of scope admin to change.
            timeout_s: Bound of each call.
            words: For sentences.

        Raises:
            UsageError: the URL is none.
        """
        try:
            parts = urlsplit(url)
            port = parts.port or 80
            is_one = (
                parts.scheme == "http" and parts.path in ("", "/") and not (parts.query or parts.fragment)
            )
        except ValueError:  # a port that is none, half an IPv6 address
            is_one = False
        if not is_one or not parts.hostname or parts.username:
            raise UsageError(
                f"the URL of {words.who} is {url!r}; it looks like http://127.0.0.1:41000, without user, path, token or query. "
                f"Take it from {words.found_by}."
            )
        self._host, self._port = parts.hostname, port
        self._token, self._timeout_s, self._words = token, timeout_s, words

    def ask(
        self, method: str, path: str, body: Mapping[str, object] | None = None
    ) -> dict[str, Any]:  # Any: JSON values
        """The service's answer.

        Raises:
            UsageError: it refuses the request as it is, or does not know the token that the user gave.
            WaitTimeoutError: it does not answer in time.
            GroupError: it cannot be reached, something else listens there, or its answer is longer than 8 MiB.
        """
        who = f"{self._words.who} at http://{self._host}:{self._port}"
        try:
            status, text = self._exchange(method, path, body)
        except TimeoutError:
            raise WaitTimeoutError(
                f"{who} did not answer {method} {path} within {self._timeout_s:g} s. {self._words.silent}"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise GroupError(
                f"{who} cannot be reached ({type(error).__name__}). {self._words.gone}"
            ) from None
        if len(text) > _MOST_ANSWER_BYTES:
            raise GroupError(
                f"{who} answered {method} {path} with more than {_MOST_ANSWER_BYTES:,} bytes; answers are shorter. "
                f"Ask for fewer things at once."
            )
        return self._read(status, text, who)

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
            return answer.status, answer.read(_MOST_ANSWER_BYTES + 1)
        finally:
            connection.close()

    def _read(self, status: int, text: bytes, who: str) -> dict[str, Any]:  # Any: JSON values
        try:
            values = json.loads(text)
        except ValueError:
            values = None
        if not isinstance(values, dict):
            raise GroupError(
                f"{who} answered with status {status} and no JSON object; "
                f"something else may listen there. Take the URL from {self._words.found_by}."
            )
        if status < 400:
            return values
        sentence = str(values.get("error", f"status {status}"))
        if status == 401 and self._words.token_way_out:
            raise UsageError(
                f"{who} does not know the token; it has tokens of its own. {self._words.token_way_out}"
            )
        if status in _REFUSALS:
            raise UsageError(sentence)
        raise GroupError(f"{who} refused: {sentence}")
