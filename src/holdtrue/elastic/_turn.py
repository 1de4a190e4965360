"""One decision while it is being made: the state so far, actions and sentences. Lives inside `decide`."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, final

from holdtrue.wire import Kill, Over, Stop, ToHost, ToWorker, ViewSent

from ._events import Action, Tell, TellHost
from ._state import HowGone, State, Worker, change
from ._translate import view_to_text
from ._view import View


@final
class Turn:
    """Mutable, owned by one call of `decide`; everything it holds is a frozen value."""

    def __init__(self, state: State, now: float) -> None:
        """Begin with the state before the event."""
        self.state = state
        self.now = now
        self.actions: list[Action] = []
        self.sentences: list[str] = []

    def note(self, sentence: str) -> None:
        """Add a sentence for the record."""
        self.sentences.append(sentence)

    def set(self, **changes: Any) -> None:  # Any: fields of State, checked by its constructor
        """Change fields of the state."""
        self.state = replace(self.state, **changes)

    def set_worker(self, worker: Worker, **changes: Any) -> Worker:  # Any: fields of Worker
        """Put a worker with some fields changed into the state."""
        changed = change(worker, **changes)
        self.state = self.state.with_worker(changed)
        return changed

    def tell(self, worker: int, message: ToWorker) -> None:
        """Send to a worker, if it is connected; what still holds is said again when it comes back."""
        known = self.state.worker(worker)
        if known is not None and known.is_connected:
            self.actions.append(Tell(worker=worker, message=message))

    def tell_host(self, name: str | None, message: ToHost) -> bool:
        """Send to a host; False if it is not connected."""
        host = self.state.host(name)
        if host is None or not host.is_connected:
            return False
        self.actions.append(TellHost(host=host.name, message=message))
        return True

    def send_view(self, view: View, *, also: Iterable[int] = ()) -> None:
        """Make `view` the newest, and send it to everybody whom it or an open view concerns."""
        concerned = {member.worker for each in (*self.state.chain, view) for member in each.members}
        self.set(chain=(*self.state.chain, view), generation=view.generation)
        message = ViewSent(view=view_to_text(view))
        for number in sorted(concerned | set(also)):
            worker = self.state.worker(number)
            if worker is not None and worker.is_living:
                self.tell(number, message)

    def part_with(self, worker: Worker, how: HowGone) -> None:
        """A worker is gone."""
        # At a stop, who leaves does so after the boundary's checkpoint: nothing is left to do for those behind it.
        is_end = how == "finished" or (how == "left" and self.state.stop_reason is not None)
        if is_end and worker.phase == "member":
            newest = self.state.newest
            is_main = newest is not None and newest.rank_of(worker.number) == 0
            self.set(is_finishing=True, has_main_finished=self.state.has_main_finished or is_main)
        self.set_worker(
            worker, phase="gone", how_gone=how, is_connected=False, since_s=self.now, lost_s=None, kill_s=None
        )

    def part_interrupted(self, worker: Worker) -> None:
        """A worker has ended as all do when the job stops; if nobody had asked for that, it stops now."""
        if self.state.stop_reason is None:
            self.stop(f"worker {worker.number} was interrupted, and all end with it")
        self.part_with(self.state.worker(worker.number) or worker, "left")

    def keep_places(self) -> None:
        """Whatever hosts asked for, the target is the user's from now on, and does not fall with a host."""
        self.set(
            workers=tuple(replace(worker, is_added=False) for worker in self.state.workers),
            hosts=tuple(replace(host, raised=0) for host in self.state.hosts),
        )

    def dismiss(self, worker: Worker, message: Over) -> None:
        """Tell a worker to end; one that cannot hear is killed by its host."""
        if worker.is_connected:
            self.tell(worker.number, message)
            self.set_worker(worker, phase="dismissed", since_s=self.now, lost_s=None, kill_s=None)
        else:
            self.tell_host(worker.host, Kill(worker=worker.number, reason=message.reason))
            self.part_with(worker, "dismissed")

    def stop(self, reason: str) -> None:
        """Ask all members to end at the next boundary, keeping what is done."""
        self.set(stop_reason=reason)
        self.note(f"the job stops at the next boundary, and what is done is kept: {reason}")
        for worker in self.state.workers:
            if worker.is_living:
                self.tell(worker.number, Stop(reason=reason))
