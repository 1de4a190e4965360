"""The runs that `holdtrue verify` makes, and what they show. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

from holdtrue.mapping import Mapping, even_mapping, proportional_mapping
from holdtrue.plan import UNLIKE_PROCESSORS, Processor
from holdtrue.record import RunRecord, compare_runs

Verdict = Literal["waiting", "running", "reference", "equal", "different", "failed"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change of the workers while a run goes on."""

    step: int
    """Before this step the run is held until the change is known."""
    kind: Literal["resize", "kill", "leave"]
    """Another number of workers; SIGKILL to the last one; SIGTERM to the first one, which then leaves."""
    workers: int = 0
    """Of a resize: to how many."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One run to make."""

    label: str
    """Number of workers and what is special about them, for the table."""
    workers: int
    mapping: str | None = None
    """Text form of the mapping; None for the even one."""
    changes: tuple[Change, ...] = ()
    """What happens to the workers in mid-run, in order."""
    processors: tuple[Processor | None, ...] = ()
    """What the processor of each worker stands in for; None is itself."""
    devices: tuple[str, ...] | None = None
    """The device of each worker; None for those of the command line."""

    @property
    def is_unlike(self) -> bool:
        """Whether its bits come from other hardware than those of the reference."""
        return bool(self.processors or self.devices)

    @property
    def folder(self) -> str:
        """Name of its run directory."""
        words = self.label.replace(",", "").replace(" ", "-")
        return words if self.changes else f"workers-{words}"

    @property
    def title(self) -> str:
        """What it is, in a sentence."""
        if self.changes:
            return f"a run with the change `{self.label}` ({self.what})"
        count, _, kind = self.label.partition(", ")
        return f"{count} worker{'s' if count != '1' else ''}" + (f" ({kind})" if kind else "")

    @property
    def what(self) -> str:
        """What its workers hold or stand in for, or what happens to them, for the table."""
        if self.is_unlike:
            names = [processor.name if processor is not None else "as it is" for processor in self.processors]
            return " / ".join(names or self.devices or ())
        if not self.changes:
            return self.mapping or "all"
        counts = [str(self.workers)]
        for change in self.changes:
            if change.kind == "resize":
                counts.append(str(change.workers))
            else:
                counts.append("the joiner" if change.kind == "leave" else "1 by kill -9")
        return " -> ".join(counts)


REFERENCE = Trial(label="1", workers=1)
"""The run that all others are compared with."""

REPEAT = Trial(label="1, again", workers=1)
"""The same once more: a difference here has nothing to do with mappings."""


def trials_of(virtual_nodes: int) -> tuple[Trial, ...]:
    """The runs after the reference, for a plan of so many virtual nodes.

    Among them is one that does not split along the tree of additions wherever V allows it, since on
    some mappings a wrong order happens to be the right one.

    >>> [(trial.label, trial.mapping) for trial in trials_of(7)[2:]]
    [('3, uneven', '0-2/3-4/5-6'), ('3, interleaved', '0,3,6/1,4/2,5')]
    """
    even = Trial(label="2", workers=2, mapping=str(even_mapping(virtual_nodes, 2)))
    uneven = Trial(
        label="3, uneven",
        workers=3,
        mapping=str(proportional_mapping(virtual_nodes, (2, 1, 1))),
    )
    found = [REPEAT, even, uneven, _interleaved(virtual_nodes)]
    seen: set[str | None] = set()
    distinct: list[Trial] = []
    for trial in found:
        if trial.mapping not in seen:
            distinct.append(trial)
            seen.add(trial.mapping)
    return tuple(distinct)


def unlike_trials(virtual_nodes: int, kinds: Sequence[str] = ()) -> tuple[Trial, ...]:
    """The runs on unlike hardware, for a script at level portable: processors stood in for, and kinds of device.

    Args:
        virtual_nodes: V.
        kinds: Kinds of device that are here beside that of the reference, which is a CUDA device then.

    >>> [(trial.label, trial.what) for trial in unlike_trials(8)]
    [('1, unlike', 'no vector units'), ('2, unlike', 'as it is / no fused multiply-add')]
    >>> [(trial.label, trial.what) for trial in unlike_trials(8, ["cpu"])][2:]
    [('1, cpu', 'cpu'), ('2, cuda and cpu', 'cuda:0 / cpu')]
    """
    first, second = UNLIKE_PROCESSORS
    even = str(even_mapping(virtual_nodes, min(2, virtual_nodes)))
    found = [
        Trial(label="1, unlike", workers=1, processors=(first,)),
        Trial(label="2, unlike", workers=2, mapping=even, processors=(None, second)),
    ]
    for kind in kinds:
        found += [
            Trial(label=f"1, {kind}", workers=1, devices=(kind,)),
            Trial(label=f"2, cuda and {kind}", workers=2, mapping=even, devices=("cuda:0", kind)),
        ]
    return tuple(trial for trial in found if trial.workers <= virtual_nodes)


LEAST_STEPS = 3
"""Steps without which no worker can come and go in mid-run."""


def changing_trials(steps: int) -> tuple[Trial, ...]:
    """The runs whose workers change in mid-run, for a run of so many steps; none for fewer than `LEAST_STEPS`.

    >>> [(trial.label, trial.what) for trial in changing_trials(20)]
    [('resize', '1 -> 2 -> 1'), ('kill', '2 -> 1 by kill -9'), ('joiner', '1 -> 2 -> the joiner')]
    """
    if steps < LEAST_STEPS:
        return ()
    early, late = max(1, steps // 3), max(2, 2 * steps // 3)
    grow = Change(step=early, kind="resize", workers=2)
    shrink = Change(step=late, kind="resize", workers=1)
    return (
        Trial(label="resize", workers=1, changes=(grow, shrink)),
        Trial(label="kill", workers=2, changes=(Change(step=steps // 2, kind="kill"),)),
        Trial(label="joiner", workers=1, changes=(grow, Change(step=late, kind="leave"))),
    )


def _interleaved(virtual_nodes: int) -> Trial:
    workers = 3 if virtual_nodes > 3 else 2
    held: tuple[tuple[int, ...], ...] = tuple(
        tuple(range(rank, virtual_nodes, workers)) for rank in range(workers)
    )
    kind = "interleaved"
    if virtual_nodes <= 2:
        held, kind = held[::-1], "reversed"  # the ids in order are the even mapping
    mapping = Mapping(virtual_nodes, held)
    return Trial(label=f"{workers}, {kind}", workers=workers, mapping=str(mapping))


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table: a trial and what came of it."""

    trial: Trial
    verdict: Verdict = "waiting"
    steps: int | None = None
    loss: float | None = None
    digest: str | None = None
    """Digest of the training state after the last step."""
    seconds: float | None = None
    """Of the whole run, its start included."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one trial shows."""

    verdict: Verdict
    sentences: tuple[str, ...] = ()
    """What is wrong and where to look; empty if nothing is."""


def judge_reference(run: RunRecord) -> Finding:
    """Whether the reference can prove anything: steps ran, each has a digest, and the weights moved."""
    if not run.steps:
        return Finding(verdict="failed", sentences=(NO_STEP,))
    missing = sorted(set(run.steps) - set(run.digests))
    if missing:
        return Finding(verdict="failed", sentences=(_no_digest(missing),))
    if not _has_moved(run):
        return Finding(verdict="failed", sentences=(_not_moved(len(run.steps)),))
    return Finding(verdict="reference")


NO_STEP = (
    "No step ran, so there is nothing to compare. The script must take steps with `for step in run.steps(...)`; "
    "an empty data set, or epochs=0, has none."
)


def judge_trial(reference: RunRecord, run: RunRecord) -> Finding:
    """Whether a trial has the bits of the reference after every step."""
    if set(run.steps) != set(reference.steps):
        sentence = _other_count(len(run.steps), len(reference.steps))
        return Finding(verdict="different", sentences=(sentence,))
    comparison = compare_runs(reference, run)
    missing = sorted(set(run.steps) - set(run.digests))
    if comparison.equal and missing:
        return Finding(verdict="failed", sentences=(_no_digest(missing),))
    if comparison.equal:
        return Finding(verdict="equal")
    return Finding(verdict="different", sentences=comparison.sentences)


def explain_difference(trial: Trial) -> str:
    """What a difference of this trial says before any detail."""
    if trial == REPEAT:
        return (
            "The same mapping run twice gave different bits: the script does not repeat itself on one worker."
        )
    if trial.changes:
        return (
            f"{trial.title} gave other bits than 1 worker, which repeats itself. What the script keeps "
            f"outside the run, and a new worker therefore lacks, goes through run.register."
        )
    if trial.is_unlike:
        return (
            f"{trial.title}: {trial.what} gave other bits than this machine as it is. What torch computes outside the passes has "
            f"no one answer: an average of weights, say, or initial weights by another way than torch's random numbers. Put it "
            f"inside `with holdtrue.numerics.portable_mode():`, or load it from a file."
        )
    return f"{trial.title} gave other bits than 1 worker, which repeats itself."


def find_different(rows: Sequence[Row]) -> Row | None:
    """The first trial that is not equal."""
    return next((row for row in rows if row.verdict in ("different", "failed")), None)


def _has_moved(run: RunRecord) -> bool:
    first, last = run.digests[min(run.digests)], run.digests[max(run.digests)]
    if first.step >= 0 and len(run.digests) == 1:
        return True  # one digest and no state before it: nothing to hold against it
    names = [name for name in last.entries if name.startswith("weights/")]
    if not names:
        return first.digest != last.digest
    return any(first.entries.get(name) != last.entries[name] for name in names)


def _not_moved(steps: int) -> str:
    return (
        f"The weights after {_steps(steps)} are those before the first: nothing was trained, so equal digests "
        f"would prove nothing. Look at the learning rate, frozen parameters, and whether step.update is called "
        f"and the optimizer holds the model's parameters."
    )


def _other_count(steps: int, expected: int) -> str:
    return (
        f"It took {_steps(steps)} and the reference {_steps(expected)}: the number of steps must not depend on "
        f"the mapping. Look for a stop that one worker decides by itself, by the clock or by its own loss."
    )


def _no_digest(missing: list[int]) -> str:
    return (
        f"{_steps(len(missing))} of the run have no digest, step {missing[0]} first; each needs one to be compared. "
        f"Is digest_every changed by the script?"
    )


def _steps(count: int) -> str:
    return f"{count} step{'s' if count != 1 else ''}"
