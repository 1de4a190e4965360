"""A connection to the controller that is made again whenever it breaks."""

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar, final

from holdtrue.errors import GroupError, HoldtrueError, UsageError, WaitTimeoutError
from holdtrue.wire import MOST_MESSAGE_BYTES, ControlMessage, decode_control, encode_control

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

_log = logging.getLogger("holdtrue.elastic")

FIRST_PAUSE_S = 0.05
LAST_PAUSE_S = 1.0
_OPEN_TIMEOUT_S = 5.0
_MOST_WAITING = 1024
"""Messages that wait to be sent: beyond it the oldest are dropped. What still holds is said again in any case."""

M = TypeVar("M", bound=ControlMessage)


def websocket_url(url: str, path: str) -> str:
    """The WebSocket address below the controller's URL.

    >>> websocket_url("http://127.0.0.1:41000/", "/v1/worker")
    'ws://127.0.0.1:41000/v1/worker'
    """
    scheme, found, rest = url.partition("://")
    if not found or scheme not in ("http", "https") or "@" in rest or "?" in rest:
        raise UsageError(
            f"the controller's URL is {url!r}; it looks like http://127.0.0.1:41000, without user, token or query. "
            f"Take it from `holdtrue status JOB`."
        )
    return f"{'wss' if scheme == 'https' else 'ws'}://{rest.rstrip('/')}{path}"


@final
class Link(Generic[M]):
    """Two daemon threads, one that reads and connects, one that sends; all methods may be called from any thread.

    Messages that were not sent when a connection broke are dropped: the first words of the next one say what holds.
    """

    def __init__(
        self,
        *,
        url: str,
        path: str,
        token: str,
        kinds: tuple[type[M], ...],
        first_words: Callable[[], Sequence[ControlMessage]],
        hear: Callable[[M], None],
    ) -> None:
        """Prepare a link; `start` begins it.

        Args:
            url: The controller's.
            path: Of the WebSocket.
            token: Of scope join.
            kinds: Messages that may come.
            first_words: What is said first on each connection; called with `changed` held.
            hear: Called with `changed` held, in the reading thread, for each message that came.
        """
        self._address = websocket_url(url, path)
        self._token = token
        self._kinds = kinds
        self._first_words = first_words
        self._hear = hear
        self.changed = threading.Condition()
        """Notified at each message and each change of the connection; a signal handler may enter it again."""
        self._outbox: deque[str] = deque()
        self._socket: ClientConnection | None = None
        self._is_closed = False
        self._is_sending = False
        self._pid = os.getpid()
        self._pause = threading.Event()
        self.trouble = "it has not answered yet"
        """Why there is no connection, for sentences."""
        self.is_refused = False
        """Whether the last try to connect was refused, since nobody listens there."""

    def start(self) -> None:
        """Begin to connect."""
        for name, run in (("holdtrue-hear", self._run_hearing), ("holdtrue-say", self._run_saying)):
            threading.Thread(target=run, name=name, daemon=True).start()

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection now."""
        return self._socket is not None

    def say(self, message: ControlMessage, *, droppable: bool = False) -> None:
        """Send a message; never blocks for long.

        Args:
            message: What to send.
            droppable: Do not send it if others wait.
        """
        with self.changed:
            if self._socket is None or (droppable and self._outbox):
                return
            while len(self._outbox) >= _MOST_WAITING:
                self._outbox.popleft()
            self._outbox.append(encode_control(message))
            self.changed.notify_all()

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything that was said has reached the controller; False if it took longer."""
        with self.changed:
            if not self.changed.wait_for(lambda: not self._outbox and not self._is_sending, timeout_s):
                return False
            socket = self._socket
        try:
            return socket is not None and socket.ping().wait(timeout_s)
        except Exception:  # noqa: BLE001  # whatever a closing connection raises: it was not delivered
            return False

    def wait_until(self, is_done: Callable[[], bool], *, timeout_s: float, what: str) -> None:
        """Wait for a change.

        Raises:
            WaitTimeoutError: it did not come in time.
        """
        with self.changed:
            if not self.changed.wait_for(is_done, timeout_s):
                state = "is connected" if self.is_connected else f"is not connected: {self.trouble}"
                raise WaitTimeoutError(
                    f"{what} did not come within {timeout_s:g} s; the controller at {self._address} {state}. "
                    f"See `holdtrue status` and the controller's log."
                )

    def close(self) -> None:
        """End the connection and do not make it again."""
        with self.changed:
            self._is_closed = True
            socket = self._socket
            self.changed.notify_all()
        self._pause.set()
        if socket is not None:
            socket.close()

    def _run_hearing(self) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._is_closed:
            if self._connect_once():
                pause_s = FIRST_PAUSE_S
            self._pause.wait(pause_s)
            pause_s = min(LAST_PAUSE_S, pause_s * 2)

    def _connect_once(self) -> bool:
        """Connect and hear until the connection ends; False if there was none."""
        from websockets.exceptions import WebSocketException
        from websockets.sync.client import connect

        was_connected = False
        try:
            with connect(
                self._address,
                additional_headers={"Authorization": f"Bearer {self._token}"},
                open_timeout=_OPEN_TIMEOUT_S,
                close_timeout=1.0,
                max_size=MOST_MESSAGE_BYTES,
                compression=None,
                proxy=None,
            ) as socket:
                was_connected = True
                self._converse(socket)
        except (OSError, WebSocketException, HoldtrueError) as error:
            self._note_trouble(error)
        return was_connected

    def _converse(self, socket: "ClientConnection") -> None:
        try:
            with self.changed:
                self._outbox.clear()
                self._outbox.extend(encode_control(message) for message in self._first_words())
                self._socket = socket
                self.is_refused = False
                self.changed.notify_all()
            for text in socket:
                self._take(text)
        finally:
            with self.changed:
                self._socket = None
                self._outbox.clear()
                self.changed.notify_all()

    def _take(self, text: str | bytes) -> None:
        message = decode_control(text, self._kinds)
        with self.changed:
            self._hear(message)
            self.changed.notify_all()

    def _note_trouble(self, error: Exception) -> None:
        self.is_refused = isinstance(error, ConnectionRefusedError)
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status == 401:
            self.trouble = "it does not know the token"
        elif status == 403:
            self.trouble = "the token's scope does not allow it"
        else:
            self.trouble = f"{type(error).__name__}: {error}"
        if isinstance(error, GroupError):
            _log.warning("%s", error)

    def _run_saying(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self._is_closed or bool(self._outbox))
                socket = self._socket
                if socket is None or not self._outbox:
                    return  # closed
                text = self._outbox.popleft()
                self._is_sending = True
            try:
                socket.send(text)
            except Exception:  # noqa: BLE001  # the hearing thread sees the same end and connects again
                socket.close()
            with self.changed:
                self._is_sending = False
                self.changed.notify_all()
