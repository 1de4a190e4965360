"""A worker's agent that speaks with the job's controller."""

import os
from collections.abc import Mapping
from typing import Any, final

from holdtrue.errors import ExpelledError, JobOverError
from holdtrue.wire import (
    TO_WORKER,
    End,
    Entered,
    Hello,
    Leaving,
    Lost,
    Over,
    Progress,
    Ready,
    Stop,
    ToWorker,
    ViewSent,
    Welcome,
)

from ._agent import Agent
from ._link import Link
from ._translate import view_from_text, view_to_text
from ._view import View

_END_WAIT_S = 1.0
_MOST_VIEWS = 32


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
        self._host, self._port, self._device = host, port, device
        self._is_welcome = False
        self._generation = 0
        self._step = 0
        self._total: int | None = None
        self._void = 0
        self._views: dict[int, View] = {}
        self._newest_planned = 0
        self._newest_forced = 0
        self._stop_reason: str | None = None
        self._over: Over | None = None
        self._link: Link[ToWorker] = Link(
            url=url,
            path="/v1/worker",
            token=token,
            kinds=TO_WORKER,
            first_words=self._first_words,
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
            lambda: self._is_welcome or self._over is not None,
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

    @property
    def newest_planned(self) -> int:
        """Generation of the newest planned view that this worker knows, 0 for none."""
        return self._newest_planned

    @property
    def stop_reason(self) -> str | None:
        """Why the job should end at the next boundary with a checkpoint; None if it should not."""
        return self._stop_reason

    def newest_forced(self) -> int:
        """Generation of the newest unplanned view that this worker knows, 0 for none.

        It may be a view without this worker: a joiner that was left out gives up what it is forming and waits for
        its next view; anybody else is told by `wait_for_view` that it was expelled.
        """
        return self._newest_forced

    def view(self, generation: int) -> View:
        """The view of a generation that this worker knows."""
        return self._views[generation]

    def say_ready(self) -> None:
        """A joiner is at its first collective call and can enter."""
        with self._link.changed:
            self._link.say(Ready(after=self._void), key="ready")

    def wait_for_view(self, after: int, *, timeout_s: float, what: str) -> View:
        """The newest view after `after` that may be entered at once.

        Raises:
            WaitTimeoutError: none came in time.
            ExpelledError: this worker is no longer a member.
            JobOverError: the job has ended.
        """
        self._link.wait_until(
            lambda: self._over is not None or self._enterable(after) is not None,
            timeout_s=timeout_s,
            what=what,
        )
        with self._link.changed:
            self._raise_if_over()
            view = self._enterable(after)
        assert view is not None
        return view

    def say_entered(self, generation: int, step: int, *, seconds: float) -> None:
        """The group of `generation` stands, before `step`."""
        with self._link.changed:
            self._generation, self._step = generation, step
            self._views = {number: view for number, view in self._views.items() if number >= generation}
            for key in ("lost", "ready"):
                self._link.forget(key)
            self._link.say(Entered(generation=generation, step=step, seconds=seconds), key="entered")

    def say_lost(self, generation: int, step: int, *, waited_for: str, silent: bool) -> None:
        """A collective of `generation` failed."""
        self._link.say(
            Lost(generation=generation, step=step, waited_for=waited_for, silent=silent), key="lost"
        )

    def say_leaving(self, reason: str) -> None:
        """This worker wants to leave at the next boundary, as after SIGTERM. May be called by a signal handler."""
        self._link.say(Leaving(reason=reason), key="leaving")

    def say_progress(self, facts: Mapping[str, Any]) -> None:  # Any: JSON values
        """Facts of the run for `holdtrue status`: dropped when busy."""
        if isinstance(step := facts.get("step"), int):
            self._step = step
        if isinstance(total := facts.get("total"), int):
            self._total = total
        self._link.say(Progress(facts=dict(facts)), droppable=True)

    def say_end(
        self, *, how: str, sentence: str = "", virtual_node: int | None = None, step: int | None = None
    ) -> None:
        """This worker ends by itself: `finished`, `left`, or `failed` with a sentence and, if in a pass, its place.

        Blocks:
            Until it is delivered, at most two seconds.
        """
        assert how in ("finished", "left", "failed"), how
        message = End(how=how, sentence=sentence[:4096], virtual_node=virtual_node, step=step)  # type: ignore[arg-type]  # asserted
        self._link.say(message, key="end")
        self._link.flush(_END_WAIT_S)

    def _enterable(self, after: int) -> View | None:
        """The newest view that may be entered without an agreement at a boundary."""
        fit = [
            view
            for number, view in self._views.items()
            if number > max(after, self._void)
            and view.rank_of(self.worker) is not None
            and (not view.is_planned or (self._generation == 0 and self.worker in view.joiners))
        ]
        return max(fit, key=lambda view: view.generation, default=None)

    def _raise_if_over(self) -> None:
        over = self._over
        if over is None:
            return
        if over.how in ("left", "expelled"):
            raise ExpelledError(
                f"worker {self.worker} is no member of the job any more: {over.reason}. "
                f"It ends, and the others go on without it."
            )
        raise JobOverError(f"the job has {over.how}: {over.reason}. Worker {self.worker} ends with it.")

    def _first_words(self) -> Hello:
        known = sorted(number for number in self._views if number >= self._generation)[:_MOST_VIEWS]
        return Hello(
            worker=self.worker,
            host=self._host,
            port=self._port,
            device=self._device,
            pid=os.getpid(),
            generation=self._generation,
            step=self._step,
            total=self._total,
            is_joiner=self.is_joiner,
            views=tuple(view_to_text(self._views[number]) for number in known),
        )

    def _hear(self, message: ToWorker) -> None:
        match message:
            case Welcome(is_joiner=is_joiner):
                if not self._is_welcome:
                    self.is_joiner, self._is_welcome = is_joiner, True
            case ViewSent(view=text):
                self._take_view(view_from_text(text))
            case Stop(reason=reason):
                self._stop_reason = reason
            case Over():
                self._over = message

    def _take_view(self, view: View) -> None:
        if view.generation < self._generation:
            return
        self._views[view.generation] = view
        if self._generation == 0 and view.rank_of(self.worker) is None:
            # Left out while joining. Nothing up to this view will be entered: `say_entered` comes through the same
            # lock, so the controller, which hears in order, can rely on it.
            self._void = max(self._void, view.generation)
            self._link.say(Ready(after=self._void), key="ready")
        if view.is_planned:
            self._newest_planned = max(self._newest_planned, view.generation)
        else:
            self._newest_forced = max(self._newest_forced, view.generation)
