"""A worker's agent that speaks with the job's controller."""

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, final

from holdtrue.errors import ExpelledError, JobOverError
from holdtrue.wire import TO_WORKER, End, Lost, Progress, Remap, ToWorker, WorkerMessage

from ._agent import Agent
from ._book import Book
from ._link import Link
from ._view import Member, View

_END_WAIT_S = 1.0


@final
class ControllerAgent(Agent):
    """The line to a controller: two daemon threads that connect again for as long as the process lives.

    A broken connection, or a dead controller, costs the run nothing: it goes on in its generation.
    """

    def __init__(
        self, *, url: str, token: str, worker: int, host: str, port: int, device: str = "cpu"
    ) -> None:
        """Prepare the agent; `start` connects.

        Args:
            url: The controller's, such as `http://127.0.0.1:41000`.
            token: Of scope join.
            worker: Number of this worker in the job.
            host: Address at which this worker's store listens.
            port: Its port.
            device: The device that this worker drives.
        """
        self.worker = worker
        self.is_joiner = False
        me = Member(worker=worker, host=host, port=port, device=device)
        self._book = Book(me=me, pid=os.getpid())
        self._newest_planned = 0
        self._link: Link[ToWorker] = Link(
            url=url,
            path="/v1/worker",
            token=token,
            kinds=TO_WORKER,
            first_words=lambda: self._book.first_words(),
            hear=self._hear,
        )

    def start(self, *, timeout_s: float) -> None:
        """Connect, and learn whether the job trains already.

        Blocks:
            At most `timeout_s`.

        Raises:
            WaitTimeoutError: the controller did not answer in time.
            ExpelledError: the job has no place for this worker.
            JobOverError: the job has ended.
        """
        self._link.start()
        self._link.wait_until(
            lambda: self._book.is_welcome or self._book.over is not None,
            timeout_s=timeout_s,
            what="the controller's welcome",
        )
        self._raise_if_over()

    def close(self) -> None:
        """End the connection."""
        self._link.close()

    @property
    def is_connected(self) -> bool:
        """Whether the controller can be reached now."""
        return self._link.is_connected

    def is_heard(self, timeout_s: float) -> bool:
        """Whether the controller can be reached, now or within `timeout_s` seconds."""
        with self._link.changed:
            return self._link.changed.wait_for(lambda: self._link.is_connected, timeout_s)

    @property
    def newest_planned(self) -> int:
        """Generation of the newest planned view that this worker knows, 0 for none."""
        return self._newest_planned

    @property
    def controller_life(self) -> int:
        """Controllers of the job that died before the one that this worker speaks with."""
        return self._book.life

    @property
    def stop_reason(self) -> str | None:
        """Why the job should end at the next boundary with a checkpoint; None if it should not."""
        return self._book.stop_reason

    def wait_for_news(self, generation: int, *, timeout_s: float) -> bool:
        """Whether a view after `generation` is known, or the job is to stop; waits for it, at most `timeout_s`."""

        def is_there() -> bool:
            newest = max(self._book.newest_planned, self._book.newest_forced)
            return newest > generation or self._book.stop_reason is not None

        with self._link.changed:
            return self._link.changed.wait_for(is_there, timeout_s)

    def newest_forced(self) -> int:
        """Generation of the newest unplanned view that this worker knows, 0 for none.

        It may be a view without this worker: a joiner that was left out gives up what it is forming and waits for
        its next view. Beyond every generation once the job, or this worker's part in it, is over: `wait_for_view` then
        raises.
        """
        return self._book.newest_forced

    def view(self, generation: int) -> View:
        """The view of a generation that this worker knows."""
        view = self._book.view(generation)
        assert view is not None, f"worker {self.worker} asks for view {generation}, which it does not know"
        return view

    def say_ready(self) -> None:
        """A joiner is at its first collective call and can enter."""
        with self._link.changed:
            self._note(self._book.say_ready())

    def wait_for_view(self, after: int, *, timeout_s: float, what: str) -> View:
        """The newest view after `after` that may be entered at once.

        Raises:
            WaitTimeoutError: none came in time.
            ExpelledError: this worker is no longer a member.
            JobOverError: the job has ended.
        """
        self._link.wait_until(
            lambda: self._book.over is not None or self._book.enterable(after) is not None,
            timeout_s=timeout_s,
            what=what,
        )
        with self._link.changed:
            self._raise_if_over()
            view = self._book.enterable(after)
        assert view is not None
        return view

    def say_entered(self, generation: int, step: int, *, seconds: float) -> None:
        """The group of `generation` stands, before `step`."""
        with self._link.changed:
            self._note(self._book.say_entered(generation, step, seconds))

    def say_lost(self, generation: int, step: int, *, waited_for: str, silent: bool) -> None:
        """A collective of `generation` failed."""
        with self._link.changed:
            lost = Lost(generation=generation, step=step, waited_for=waited_for[:1000], silent=silent)
            self._note(self._book.say_lost(lost))

    def say_leaving(self, reason: str) -> None:
        """This worker wants to leave at the next boundary, as after SIGTERM. May be called by a signal handler."""
        with self._link.changed:
            self._note(self._book.say_leaving(reason))

    def say_remap(self, generation: int, mapping: str, reason: str) -> None:
        """The main worker has found a better mapping of the members of `generation`."""
        self._link.say(Remap(generation=generation, mapping=mapping, reason=reason))

    def say_progress(self, facts: Mapping[str, Any]) -> None:  # Any: JSON values
        """Facts of the run for `holdtrue status`: dropped when busy."""
        step, total = facts.get("step"), facts.get("total")
        with self._link.changed:
            self._book = replace(
                self._book,
                step=step if isinstance(step, int) else self._book.step,
                total=total if isinstance(total, int) else self._book.total,
            )
        self._link.say(Progress(facts=dict(facts)), droppable=True)

    def say_end(
        self, *, how: str, sentence: str = "", virtual_node: int | None = None, step: int | None = None
    ) -> None:
        """This worker ends by itself: `finished`, `left`, `interrupted`; or `refused` or `failed`, with a sentence and, if in a
        pass, its place.

        Blocks:
            Until it is delivered, at most two seconds.
        """
        assert how in ("finished", "left", "interrupted", "failed", "refused"), how
        end = End(how=how, sentence=sentence[:4096], virtual_node=virtual_node, step=step)  # type: ignore[arg-type]  # asserted
        with self._link.changed:
            self._note(self._book.say_end(end))
        self.is_heard(_END_WAIT_S)  # a controller that is started again hears it in the first words
        self._link.flush(_END_WAIT_S)

    def _raise_if_over(self) -> None:
        over = self._book.over
        if over is None:
            return
        if over.how in ("left", "expelled"):
            raise ExpelledError(
                f"worker {self.worker} is no member of the job any more: {over.reason}. "
                f"It ends, and the others go on without it."
            )
        raise JobOverError(f"the job has {over.how}: {over.reason}. Worker {self.worker} ends with it.")

    def _hear(self, message: ToWorker) -> None:
        self._note(self._book.hear(message))

    def _note(self, said: tuple[Book, tuple[WorkerMessage, ...]]) -> None:
        """Take over a newer book, and say what it says; called with the link's lock."""
        self._book, messages = said
        self.is_joiner = self._book.is_joiner
        self._newest_planned = self._book.newest_planned
        for message in messages:
            self._link.say(message)
