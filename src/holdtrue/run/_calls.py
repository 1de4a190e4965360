"""Collective calls of a script, numbered in script order, and how a run that continues catches up.

A resumed run executes its script from the top. Calls that were finished before the checkpoint do
nothing again (`steps`) or give back what they gave (`evaluate`); the call in whose middle the
checkpoint was written restores the state and goes on. The body of a finished loop does not run again,
so calls in it have no place in the order of the script: only calls outside loops do.
"""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from holdtrue.errors import CallMismatchError, CheckpointError, JoinRefusedError
from holdtrue.plan import Plan


@dataclass(slots=True, kw_only=True)
class Position:
    """Where a run is; with the plan it determines the rest."""

    step: int = 0
    """Steps done in the run: the index of the next one."""
    epoch: int = 0
    """Epochs of the run begun before the present `run.steps` call."""
    call: int = 0
    """Place in the script of the present or latest call that has boundaries: `run.steps`, or `run.predict` with `out`."""
    call_step: int = 0
    """Steps done in that call."""
    next_call: int = 0
    """Place in the script of the next call outside a loop."""
    inner_calls: int = 0
    """Calls that were made in loops."""

    def to_dict(self) -> dict[str, int]:
        """The position as numbers by name."""
        return asdict(self)

    @property
    def digested(self) -> dict[str, int]:
        """What of the position belongs to the training state: the rest counts calls, which change no bits."""
        return {"step": self.step}


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A collective call that begins."""

    kind: str
    """`steps`, `evaluate`, `predict` or `share`."""
    number: int
    """Number among all calls, from 0: for messages, and for the random streams of an evaluation."""
    place: int | None
    """Number among the calls outside loops; None in a loop."""
    is_past: bool = False
    """Whether it was finished before the checkpoint that the run goes on from."""

    def __str__(self) -> str:
        return f"{self.kind} (call {self.number})"


@dataclass(slots=True, kw_only=True)
class CallBook:
    """Numbers calls and remembers what finished ones returned."""

    position: Position = field(default_factory=Position)
    history: dict[int, Any] = field(default_factory=dict)  # Any: results of evaluate
    """Results of finished evaluate calls by place."""
    kinds: dict[int, str] = field(default_factory=dict)
    """What the call at each place was."""
    live_at: Position | None = None
    """Where a checkpoint says that the run goes on; None once it does."""

    def begin(self, kind: str, *, is_in_loop: bool) -> Call:
        """The call that begins now.

        Raises:
            CheckpointError: the call before the checkpoint was of another kind: the script has changed.
        """
        place, number = self.position.next_call, self.position.next_call + self.position.inner_calls
        if is_in_loop:
            self.position.inner_calls += 1
            return Call(kind=kind, number=number, place=None)
        self.position.next_call += 1
        if self.live_at is None:
            self.kinds[place] = kind
            return Call(kind=kind, number=number, place=place)
        is_past = place < self.live_at.call
        expected = self.kinds.get(place, kind if is_past else "steps")
        if kind != expected:
            raise CheckpointError(
                f"call {place} of the script is {kind} and in the run that wrote the checkpoint it was {expected}; a run goes "
                f"on with the script that began it. Put the script back, or start a new run in another --run-dir."
            )
        return Call(kind=kind, number=number, place=place, is_past=is_past)

    @property
    def present_number(self) -> int:
        """Number of the call outside loops that began last."""
        return self.position.next_call - 1 + self.position.inner_calls

    def keep(self, call: Call, result: Any) -> None:  # Any: JSON values
        """Remember what a call gave, for a run that catches up."""
        if call.place is not None:
            self.history[call.place] = result

    def recall(self, call: Call) -> Any:  # Any: JSON values
        """What a past call gave; None where that was not kept."""
        return None if call.place is None else self.history.get(call.place)

    @property
    def is_catching_up(self) -> bool:
        """Whether calls still go to a run that was before."""
        return self.live_at is not None

    def go_live(self) -> Position:
        """Take the checkpoint's position: its call has been reached."""
        assert self.live_at is not None
        self.position, self.live_at = self.live_at, None
        return self.position

    def saved(self) -> dict[str, Any]:  # Any: JSON values
        """What a checkpoint keeps of the calls."""
        return {"history": json.dumps(self.history), "kinds": json.dumps(self.kinds)}

    def load(self, position: dict[str, int], saved: dict[str, Any]) -> None:  # Any: from `saved`
        """Prepare to catch up with a checkpoint."""
        self.live_at = Position(**position)
        self.history = {int(k): v for k, v in json.loads(saved["history"]).items()}
        self.kinds = {int(k): v for k, v in json.loads(saved["kinds"]).items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """What a worker says before a collective call; it must be the same on all, but for what it says of itself."""

    call: int
    kind: str
    generation: int
    mapping: str
    plan: Plan
    step: int
    layout: str
    digest: str
    worker: int
    """Number of the worker."""
    device_kind: str
    """What decides how its device rounds."""
    leading: str
    """The kind whose updates count, as far as it knows."""
    steps: int | None = None
    """Steps that the call takes from its first to its last, where that is known."""
    is_new: bool = False
    """Whether it has come to a running job, and the others have not."""
    stop: bool = False

    def encode(self) -> bytes:
        """The announcement as JSON."""
        return json.dumps(asdict(self) | {"plan": self.plan.to_dict()}, sort_keys=True).encode()


_RULES = {
    "plan": "all workers of a job have one plan; give each the same options and script",
    "mapping": "all workers have one mapping; give each the same --mapping",
    "generation": "all workers are of one generation; stop what is left of an earlier start",
    "call": "every worker makes the same calls in the same order; decide by values that are the same everywhere",
    "kind": "every worker makes the same calls in the same order; decide by values that are the same everywhere",
    "step": "all workers are at the same step; resume them from the same checkpoint",
    "steps": "all workers take the same steps; give each the same data, the same epochs and the same options",
    "layout": "all workers train the same parameters; freeze and build alike on all of them",
}
"""What must be the same on all workers, and the way to it."""


def _first_difference(one: dict[str, Any], other: dict[str, Any]) -> str | None:  # Any: JSON values
    """The first of what must be the same that is not."""
    return next((name for name in _RULES if other[name] != one[name]), None)


def check_announcements(
    announcements: list[dict[str, Any]], own: int
) -> list[dict[str, Any]]:  # Any: JSON values
    """Refuse to go on with workers that are not at the same call of the same job.

    Args:
        announcements: By rank.
        own: Number of this worker.

    Returns:
        Those that go on: a newcomer that differs from those who were there does not.

    Raises:
        CallMismatchError: workers that were there differ; the message says in what.
        JoinRefusedError: this worker is a newcomer, and differs from them.
    """
    settled = [a for a in announcements if not a["is_new"]] or announcements
    first = settled[0]
    accepted = []
    for rank, other in enumerate(announcements):
        name = _first_difference(first, other)
        if name is None:
            accepted.append(other)
            continue
        shown = "" if name == "layout" else f" ({first[name]!r} and {other[name]!r})"
        if other in settled:
            raise CallMismatchError(
                f"worker {announcements.index(first)} and worker {rank} differ in {name}{shown} at {first['kind']} "
                f"(call {first['call']}); {_RULES[name]}."
            )
        if other["worker"] == own:
            raise JoinRefusedError(
                f"this worker differs from the job that it came to in {name}{shown}; {_RULES[name]}. The job goes on without it."
            )
    return accepted
