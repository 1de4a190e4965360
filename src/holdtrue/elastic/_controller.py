"""The controller: events go through `decide`, messages go out. One event loop, no lock; it owns the job's state."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

from holdtrue.wire import ControlMessage, encode_control, escape_text

from ._deadlines import next_deadline_s
from ._events import Action, Decision, Event, Refuse, Tell, TellHost, Ticked
from ._membership import decide
from ._memory import Memory, memory_of, recall
from ._state import JobSettings, State

_log = logging.getLogger("holdtrue.elastic")

MOST_EVENTS = 10_000
"""Events that are kept for those who look; older ones are dropped."""
_MOST_UNSENT = 512
"""Messages that wait for one connection; a reader that is slower is cut off, and hears what holds when it is back."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedEvent:
    """A sentence for the record."""

    number: int
    time_s: float
    """Seconds since 1970."""
    sentence: str


@final
class Outlet:
    """Messages on their way to one connection, in order."""

    def __init__(self) -> None:
        """Begin empty."""
        self._queue: asyncio.Queue[str | None] = asyncio.Queue(_MOST_UNSENT)
        self.is_cut = False

    def put(self, text: str) -> None:
        """Add a message; cuts the connection off if too many wait."""
        try:
            self._queue.put_nowait(text)
        except asyncio.QueueFull:
            self.cut()

    def cut(self) -> None:
        """End the connection once what was put before is sent, or at once if it does not read."""
        self.is_cut = True
        if self._queue.full():
            self._queue.get_nowait()
        self._queue.put_nowait(None)

    async def take(self) -> str | None:
        """The next message; None at the end."""
        return await self._queue.get()


@final
class Controller:
    """Holds one job's state, its connections and its recent events."""

    def __init__(
        self,
        settings: JobSettings,
        *,
        memory: Memory | None = None,
        keep: Callable[[Memory], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with a job of which nobody was heard yet.

        Args:
            settings: Of the job.
            memory: What the controller before this one kept.
            keep: Called with what the next one should know, before anybody hears of it.
            clock: Seconds that never go back.
        """
        self.state: State = recall(settings, memory)
        self._keep = keep
        self._kept: Memory | None = None
        self.progress: Mapping[str, Any] = {}  # Any: JSON values
        self.events: deque[RecordedEvent] = deque(maxlen=MOST_EVENTS)
        self.newest_event = 0
        self.over = asyncio.Event()
        """Set when the job is over."""
        self._clock = clock
        self._workers: dict[int, Outlet] = {}
        self._hosts: dict[str, Outlet] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._encoded: tuple[ControlMessage | None, str] = (None, "")

    def feed(self, event: Event, *, before_acting: Callable[[Decision], None] | None = None) -> Decision:
        """Decide on an event and act on it.

        Args:
            event: What happened.
            before_acting: Called between the two; a new connection is taken up there.
        """
        decision = decide(self.state, event, self._clock())
        self.state = decision.state
        memory = memory_of(decision.state)
        if memory != self._kept:
            self._kept = memory
            self._keep(memory)
        self._record(decision.reason)
        if before_acting is not None:
            before_acting(decision)
        for action in decision.actions:
            self._act(action)
        if decision.moves_deadlines:
            self._set_timer()
        if self.state.phase == "over":
            self.over.set()
        return decision

    def take_worker(self, number: int, outlet: Outlet) -> None:
        """Send to this connection from now on; an older one of the worker ends."""
        _replace(self._workers, number, outlet)

    def take_host(self, name: str, outlet: Outlet) -> None:
        """Send to this connection from now on; an older one of the host ends."""
        _replace(self._hosts, name, outlet)

    def drop_worker(self, number: int, outlet: Outlet) -> bool:
        """Forget a connection; False if a newer one has taken its place."""
        return _remove(self._workers, number, outlet)

    def drop_host(self, name: str, outlet: Outlet) -> bool:
        """Forget a connection; False if a newer one has taken its place."""
        return _remove(self._hosts, name, outlet)

    def close(self) -> None:
        """End all connections."""
        for outlet in (*self._workers.values(), *self._hosts.values()):
            outlet.cut()
        if self._timer is not None:
            self._timer.cancel()

    def _record(self, reason: str) -> None:
        for sentence in reason.splitlines():
            self.newest_event += 1
            safe = escape_text(sentence)
            self.events.append(RecordedEvent(number=self.newest_event, time_s=time.time(), sentence=safe))
            _log.info("%s", safe)

    def _act(self, action: Action) -> None:
        if isinstance(action, Refuse):
            return
        outlet = (
            self._workers.get(action.worker) if isinstance(action, Tell) else self._hosts.get(action.host)
        )
        if outlet is not None:
            outlet.put(self._encode(action))

    def _encode(self, action: Tell | TellHost) -> str:
        """The message as text; a view for hundreds of members is written once."""
        if self._encoded[0] is not action.message:
            self._encoded = (action.message, encode_control(action.message))
        return self._encoded[1]

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self._clock()
        at_s = next_deadline_s(self.state, now)
        if at_s is not None:
            self._timer = asyncio.get_running_loop().call_later(at_s - now + 0.001, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.feed(Ticked())


def _replace(outlets: dict[Any, Outlet], key: int | str, outlet: Outlet) -> None:  # Any: the key's type
    old = outlets.get(key)
    if old is not None and old is not outlet:
        old.cut()
    outlets[key] = outlet


def _remove(outlets: dict[Any, Outlet], key: int | str, outlet: Outlet) -> bool:  # Any: the key's type
    if outlets.get(key) is not outlet:
        return False
    del outlets[key]
    return True
