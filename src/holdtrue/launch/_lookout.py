"""Looking at the controller now and then, for the progress line."""

import threading
import time
from dataclasses import dataclass
from typing import final

from holdtrue.elastic import ControlClient
from holdtrue.errors import HoldtrueError

_LOOK_EVERY_S = 0.5


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The membership that all members have entered."""

    workers: int
    generation: int


@final
class Lookout:
    """A thread that asks the controller for the membership; what it saw last is in `seen`."""

    def __init__(self, client: ControlClient) -> None:
        """Begin to look; `close` ends it."""
        self.seen: Group | None = None
        self.answered_s: float | None = None
        """When it answered last, on the clock of `time.monotonic`; None for never."""
        self._client = client
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._look_on, name="holdtrue-lookout", daemon=True)
        self._thread.start()

    def _look_on(self) -> None:
        while not self._is_closed.wait(_LOOK_EVERY_S):
            try:
                facts = self._client.job()
            except HoldtrueError:
                continue  # it starts, is started again, or hangs
            self.answered_s = time.monotonic()
            members = sum(1 for worker in facts["workers"] if worker["rank"] is not None)
            if facts["generation"] and members and facts["phase"] in ("running", "stopping"):
                self.seen = Group(workers=members, generation=facts["generation"])

    def close(self) -> None:
        """Look no more."""
        self._is_closed.set()
