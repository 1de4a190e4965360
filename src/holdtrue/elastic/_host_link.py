"""A host's line to the controller: orders come in, ends of workers go out."""

import os
from collections import deque
from contextlib import suppress
from typing import final

from holdtrue.wire import TO_HOST, Ended, HostHello, PassPlace, Start, ToHost

from ._link import Link

_MOST_ENDS = 256
"""Ends that are said again after a reconnection, the newest."""


@final
class HostLink:
    """For a loop over file descriptors: `fileno` is readable while orders wait. Thread-safe."""

    def __init__(self, *, url: str, token: str, name: str, address: str, slots: int, adds: int = 0) -> None:
        """Prepare the link; `start` connects.

        Args:
            url: The controller's.
            token: Of scope join.
            name: Tells this host from the job's others, also after a reconnection.
            address: Address of this machine, for the record.
            slots: Workers that it can run at once.
            adds: Workers that it asks to be given beyond the job's present size.
        """
        self._name, self._address, self._slots, self._adds = name, address, slots, adds
        self._running: set[int] = set()
        self._known: set[int] = set()
        """All workers that it was ever given: an order that is said again is none."""
        self._ends: deque[Ended] = deque(maxlen=_MOST_ENDS)
        self._orders: deque[ToHost] = deque()
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._link: Link[ToHost] = Link(
            url=url,
            path="/v1/host",
            token=token,
            kinds=TO_HOST,
            first_words=self._first_words,
            hear=self._hear,
        )

    def start(self) -> None:
        """Begin to connect, in threads of its own."""
        self._link.start()

    def wait_until_connected(self, timeout_s: float) -> None:
        """Wait for the controller.

        Raises:
            WaitTimeoutError: it could not be reached in time.
        """
        self._link.wait_until(
            lambda: self._link.is_connected, timeout_s=timeout_s, what="the controller's connection"
        )

    @property
    def is_connected(self) -> bool:
        """Whether the controller can be reached now."""
        return self._link.is_connected

    @property
    def is_refused(self) -> bool:
        """Whether nobody listens at the controller's address: the launcher, which holds it, is gone."""
        return self._link.is_refused

    @property
    def trouble(self) -> str:
        """Why it cannot be reached, for sentences."""
        return self._link.trouble

    def fileno(self) -> int:
        """A descriptor that is readable while orders wait."""
        return self._fd

    def take_orders(self) -> list[ToHost]:
        """The orders that came since the last call, oldest first: `Start`, `Kill`, `Finish`."""
        with self._link.changed:
            orders = list(self._orders)
            self._orders.clear()
            with suppress(BlockingIOError):
                os.eventfd_read(self._fd)
        return orders

    def add_running(self, worker: int) -> None:
        """A worker is here that was not ordered: a founder that the launcher starts by itself, before `start`."""
        with self._link.changed:
            self._running.add(worker)
            self._known.add(worker)

    def say_ended(
        self,
        worker: int,
        *,
        status: int,
        sentence: str = "",
        at: tuple[int, int, int] | None = None,
        has_left: bool = False,
    ) -> None:
        """A worker's process has ended.

        Args:
            worker: Its number.
            status: Exit status; the negative number of the signal for one that was killed.
            sentence: An error of its script that must fail the job; empty for a death, or an end in order.
            at: Step, round and virtual node of the pass in which it ended.
            has_left: It ended in order, and not at the end of the script: `status` is 0, or that of an interrupted one.
        """
        place = None if at is None else PassPlace(step=at[0], round=at[1], virtual_node=at[2])
        self._say_end(
            Ended(worker=worker, status=status, sentence=sentence[:4096], at=place, has_left=has_left)
        )

    def say_not_started(self, worker: int, why: str) -> None:
        """A worker was given up before it had a process: nobody died, and another may be ordered at once.

        Args:
            worker: Its number, which is never given again.
            why: A sentence for the record.
        """
        self._say_end(Ended(worker=worker, status=0, sentence=why[:4096], at=None, was_started=False))

    def _say_end(self, message: Ended) -> None:
        with self._link.changed:
            self._running.discard(message.worker)
            self._ends.append(message)
            self._link.say(message)

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything that was said has reached the controller; False if it took longer."""
        return self._link.flush(timeout_s)

    def close(self) -> None:
        """End the connection."""
        self._link.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _first_words(self) -> list[HostHello | Ended]:
        hello = HostHello(
            name=self._name,
            address=self._address,
            slots=self._slots,
            adds=self._adds,
            running=tuple(sorted(self._running)),
        )
        return [hello, *self._ends]

    def _hear(self, message: ToHost) -> None:
        if isinstance(message, Start):
            if message.worker in self._known:
                return  # said again: whether it had been heard was not known
            self._known.add(message.worker)
            # From here on it counts as running: a controller that starts anew must not give its number again.
            self._running.add(message.worker)
            self._adds = max(0, self._adds - 1)
        self._orders.append(message)
        if self._fd >= 0:
            os.eventfd_write(self._fd, 1)
