"""What a worker's agent knows and says, as one frozen value. Pure; the agent adds threads and a connection."""

from dataclasses import dataclass, replace
from typing import final

from holdtrue.wire import (
    End,
    Entered,
    Hello,
    Leaving,
    Lost,
    Over,
    Ready,
    Stop,
    ToWorker,
    ViewSent,
    Welcome,
    WorkerMessage,
)

from ._translate import view_from_text, view_to_text
from ._view import Member, View

_MOST_VIEWS = 32
BEYOND = 2**62
"""`newest_forced` once the membership is over for this worker: whatever it forms, it gives up."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Book:
    """One worker's knowledge of the membership."""

    me: Member
    pid: int
    is_welcome: bool = False
    is_joiner: bool = False
    life: int = 0
    """Controllers of the job that lived before the one that welcomed it last."""
    generation: int = 0
    """Newest generation that it entered, 0 for none."""
    step: int = 0
    total: int | None = None
    void: int = 0
    """While it joins: newest generation that it was left out of; it enters none up to this one."""
    views: tuple[View, ...] = ()
    """From the one that it is in, ascending."""
    newest_planned: int = 0
    newest_forced: int = 0
    stop_reason: str | None = None
    over: Over | None = None
    standing: tuple[WorkerMessage, ...] = ()
    """What holds until something newer is said: said again, in this order, after each reconnection."""

    def first_words(self) -> tuple[WorkerMessage, ...]:
        """What it says on a new connection."""
        hello = Hello(
            worker=self.me.worker,
            host=self.me.host,
            port=self.me.port,
            device=self.me.device,
            pid=self.pid,
            generation=self.generation,
            step=self.step,
            total=self.total,
            is_joiner=self.is_joiner,
            views=tuple(view_to_text(view) for view in self.views[:_MOST_VIEWS]),
        )
        return (hello, *self.standing)

    def hear(self, message: ToWorker) -> tuple["Book", tuple[WorkerMessage, ...]]:
        """The book after a message, and what to answer."""
        match message:
            case Welcome(is_joiner=is_joiner, life=life):
                is_joiner = self.is_joiner if self.is_welcome else is_joiner
                return replace(self, is_welcome=True, is_joiner=is_joiner, life=life), ()
            case ViewSent(view=text):
                return self._take(view_from_text(text))
            case Stop(reason=reason):
                return replace(self, stop_reason=reason), ()
            case _:
                return replace(self, over=message, newest_forced=BEYOND), ()

    def _take(self, view: View) -> tuple["Book", tuple[WorkerMessage, ...]]:
        if view.generation < self.generation:
            return self, ()
        others = [other for other in self.views if other.generation != view.generation]
        views = tuple(sorted([*others, view], key=lambda each: each.generation))
        if view.is_planned:
            book = replace(self, views=views, newest_planned=max(self.newest_planned, view.generation))
        else:
            book = replace(self, views=views, newest_forced=max(self.newest_forced, view.generation))
        if self.generation == 0 and view.rank_of(self.me.worker) is None:
            # Left out while joining. Nothing up to this view will be entered; the controller, which hears in order,
            # relies on it.
            return replace(book, void=max(book.void, view.generation)).say_ready()
        return book, ()

    def view(self, generation: int) -> View | None:
        """The view of a generation, if it is known."""
        return next((view for view in self.views if view.generation == generation), None)

    def enterable(self, after: int) -> View | None:
        """The newest view after `after` that may be entered without an agreement at a boundary."""
        fit = [
            view
            for view in self.views
            if view.generation > max(after, self.void)
            and view.rank_of(self.me.worker) is not None
            and (not view.is_planned or (self.generation == 0 and self.me.worker in view.joiners))
        ]
        return fit[-1] if fit else None

    def say_ready(self) -> tuple["Book", tuple[WorkerMessage, ...]]:
        """A joiner can enter views after those that it was left out of."""
        return self._say(Ready(after=self.void))

    def say_entered(
        self, generation: int, step: int, seconds: float
    ) -> tuple["Book", tuple[WorkerMessage, ...]]:
        """It stands in a generation."""
        views = tuple(view for view in self.views if view.generation >= generation)
        kept = tuple(said for said in self.standing if not isinstance(said, Ready | Lost))
        book = replace(self, generation=generation, step=step, views=views, standing=kept)
        return book._say(Entered(generation=generation, step=step, seconds=seconds))

    def say_lost(self, lost: Lost) -> tuple["Book", tuple[WorkerMessage, ...]]:
        """A collective failed."""
        return self._say(lost)

    def say_leaving(self, reason: str) -> tuple["Book", tuple[WorkerMessage, ...]]:
        """It wants to leave."""
        return self._say(Leaving(reason=reason))

    def say_end(self, end: End) -> tuple["Book", tuple[WorkerMessage, ...]]:
        """It ends."""
        return self._say(end)

    def _say(self, message: WorkerMessage) -> tuple["Book", tuple[WorkerMessage, ...]]:
        kept = tuple(said for said in self.standing if type(said) is not type(message))
        return replace(self, standing=(*kept, message)), (message,)
