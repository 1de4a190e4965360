"""Where two runs part: the first step and tensors, and where to look for the cause."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal

from ._differences import Difference, plan_differences, value_differences
from ._records import DigestRecord, RunRecord

Phase = Literal["initial", "inputs", "forward", "update"]
FAMILIES = ("weights", "buffers", "optimizer", "scheduler", "scaler", "registered", "position")
SHOWN = 5  # names in a sentence; the rest are counted

WHERE_TO_LOOK: Mapping[Phase, str] = {
    "initial": (
        "The models were different before the first step: look at the code before run.prepare, "
        "such as weights drawn from an unseeded generator or read from another file."
    ),
    "inputs": (
        "The inputs differ: look at the order of the data, and at augmentation or other draws that do not "
        "come from the streams that the run seeds (a generator of one's own, the clock)."
    ),
    "forward": (
        "The inputs are equal and the loss differs: look at the forward pass for randomness that is not "
        "registered, the clock, or a custom operator that is not deterministic."
    ),
    "update": (
        "Inputs and losses are equal and the state differs: look at the backward pass (a custom autograd "
        "function), the optimizer, and the code after step.update."
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What two runs have in common, and where they part."""

    equal: bool
    """Shown to be equal in every bit: nothing that both recorded differs, and both recorded a digest."""
    sentences: tuple[str, ...]
    """The comparison for a reader, the most important first."""
    plan_differences: tuple[Difference, ...]
    """Fields of the plan that differ."""
    environment_differences: tuple[Difference, ...]
    """Devices, versions and the like that differ, by dotted name."""
    first_step: int | None
    """First step whose loss or digest differs; -1 is the state before the first; None if none does."""
    entries: tuple[str, ...]
    """Entries of the training state that differ where digests first do: weights, buffers, optimizer, ..."""
    virtual_node: int | None
    """Lowest virtual node whose inputs or loss differ at `first_step`; None if unknown or none does."""
    phase: Phase | None
    """What differed first; None if nothing differs or the runs did not trace."""
    steps_compared: int
    """Steps that both recorded."""
    digests_compared: int
    """Digests that both recorded, the state before the first step not counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trace:
    """What the runs' traces say about the first step that differs."""

    phase: Phase
    virtual_node: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parting:
    """Where the bits of two runs part; all steps ascending."""

    losses: list[int]
    """Steps of both whose losses differ."""
    states: list[int]
    """Steps of both whose digests differ."""
    digests: list[int]
    """Steps of both with digests."""
    entries: tuple[str, ...]
    trace: _Trace | None

    @property
    def step(self) -> int | None:
        """First step that differs."""
        return min((*self.losses[:1], *self.states[:1]), default=None)


def compare_runs(a: RunRecord, b: RunRecord) -> Comparison:
    """Compares two runs step by step.

    Args:
        a: A run, as `read_run` returns it.
        b: Another.

    Returns:
        The first step, virtual node and entries of the training state that differ, and sentences that say so.
        A run that is shorter than the other is said to be, and is no difference.

    Guarantee:
        Pure; losses are compared by their bits, so that NaN equals NaN and -0.0 differs from 0.0.
    """
    plans, environments = plan_differences(a.plan, b.plan), value_differences(a.environment, b.environment)
    parting = _find_parting(a, b)
    steps_compared = len(_common(a.steps, b.steps))
    digests_compared = len([step for step in parting.digests if step >= 0])
    return Comparison(
        equal=parting.step is None and digests_compared > 0,
        sentences=(
            *(
                [_say_equal(steps_compared, digests_compared)]
                if parting.step is None
                else _say_parting(parting, a, b)
            ),
            *_say_lengths(a, b),
            *(sentence for run in (a, b) for sentence in _say_conflicts(run)),
            *_say_differences("plans", plans),
            *_say_differences("environments", environments),
            *(sentence for run in (a, b) for sentence in _say_resumes(run)),
        ),
        plan_differences=plans,
        environment_differences=environments,
        first_step=parting.step,
        entries=parting.entries,
        virtual_node=parting.trace.virtual_node if parting.trace else None,
        phase=parting.trace.phase if parting.trace else None,
        steps_compared=steps_compared,
        digests_compared=digests_compared,
    )


def _find_parting(a: RunRecord, b: RunRecord) -> _Parting:
    losses = [step for step in _common(a.steps, b.steps) if _loss(a, step) != _loss(b, step)]
    digests_a, digests_b = _digests(a), _digests(b)
    common = _common(digests_a, digests_b)
    states = [step for step in common if digests_a[step] != digests_b[step]]
    first = min((*losses[:1], *states[:1]), default=None)
    return _Parting(
        losses=losses,
        states=states,
        digests=common,
        entries=_differing_entries(a.digests.get(states[0]), b.digests.get(states[0])) if states else (),
        trace=None if first is None else _trace(a.digests.get(first), b.digests.get(first), first),
    )


def _common(a: Mapping[int, object], b: Mapping[int, object]) -> list[int]:
    return sorted(set(a) & set(b))


def _loss(run: RunRecord, step: int) -> str:
    """Text of a loss: equal for equal bits, whatever NaN it is."""
    return repr(run.steps[step].loss)


def _digests(run: RunRecord) -> dict[int, str]:
    """Digest of the state by step, from both files that carry it."""
    found = {step: line.digest for step, line in run.steps.items() if line.digest is not None}
    return found | {step: line.digest for step, line in run.digests.items()}


def _differing_entries(a: DigestRecord | None, b: DigestRecord | None) -> tuple[str, ...]:
    """Names of entries that differ or are on one side only, by family, numbers in names by value."""
    if a is None or b is None:
        return ()
    names = {name for name in {*a.entries, *b.entries} if a.entries.get(name) != b.entries.get(name)}
    return tuple(sorted(names, key=_entry_key))


def _entry_key(name: str) -> tuple[int, list[tuple[int, int, str]]]:
    """Sort key: family, then runs of digits as numbers, so that layer.2 comes before layer.10."""
    family = name.partition("/")[0]
    place = FAMILIES.index(family) if family in FAMILIES else len(FAMILIES)
    parts = re.findall(r"\d+|\D+", name)
    return place, [(0, int(p), p) if p.isdecimal() else (1, 0, p) for p in parts]


def _trace(a: DigestRecord | None, b: DigestRecord | None, step: int) -> _Trace | None:
    if step < 0:
        return _Trace(phase="initial", virtual_node=None)
    if a is None or b is None or None in (a.inputs, b.inputs, a.losses, b.losses):
        return None
    inputs = _first_unlike(a.inputs or (), b.inputs or ())
    if inputs is not None:
        return _Trace(phase="inputs", virtual_node=inputs)
    losses = _first_unlike([repr(x) for x in a.losses or ()], [repr(x) for x in b.losses or ()])
    if losses is not None:
        return _Trace(phase="forward", virtual_node=losses)
    return _Trace(phase="update", virtual_node=None)


def _first_unlike(a: Sequence[str | None], b: Sequence[str | None]) -> int | None:
    return next((v for v, (x, y) in enumerate(zip_longest(a, b)) if x != y), None)


def _say_equal(steps_compared: int, digests_compared: int) -> str:
    if digests_compared:
        losses = f"{steps_compared} loss{'es' if steps_compared != 1 else ''}"
        digests = f"{digests_compared} digest{'s' if digests_compared != 1 else ''}"
        return f"The runs are equal: {losses} and {digests} of the state."
    if steps_compared:
        return (
            f"The losses of {steps_compared} step{'s' if steps_compared != 1 else ''} are equal, but no step has a digest in "
            f"both runs: equality of the weights is not shown. Make the runs again with --digest-every 1."
        )
    return "No step is in both runs: nothing was compared."


def _say_parting(parting: _Parting, a: RunRecord, b: RunRecord) -> list[str]:
    return [*_say_steps(parting, a, b), *_say_entries(parting), *_say_trace(parting.trace)]


def _say_steps(parting: _Parting, a: RunRecord, b: RunRecord) -> list[str]:
    if parting.step is None or parting.step < 0:
        return [f"The initial training states differ. {WHERE_TO_LOOK['initial']}"]
    sentences = []
    if parting.losses:
        step = parting.losses[0]
        sentences.append(
            f"The loss of step {step} is the first that differs: {_loss(a, step)} against {_loss(b, step)}."
        )
    if parting.states:
        sentences.append(f"The training state after step {parting.states[0]} is the first that differs.")
    last_equal = max((step for step in parting.digests if step < parting.step), default=None)
    if last_equal is None:
        sentences.append("No state before that step is in both runs, so it may have differed earlier.")
    elif last_equal < parting.step - 1:
        sentences.append(
            f"The states were last seen equal {_after(last_equal)}: the cause lies between. "
            f"Make the runs again with --digest-every 1 to find its step."
        )
    return sentences


def _after(step: int) -> str:
    return "before the first step" if step < 0 else f"after step {step}"


def _say_entries(parting: _Parting) -> list[str]:
    if not parting.entries:
        return []
    count = len(parting.entries)
    noun = "entry" if count == 1 else "entries"
    differ = "differs" if count == 1 else "differ"
    shown = ", ".join(parting.entries[:SHOWN])
    more = f" and {count - SHOWN} more" if count > SHOWN else ""
    where = _after(parting.states[0])
    return [f"{count} {noun} of the training state {differ} {where}: {shown}{more}."]


def _say_trace(trace: _Trace | None) -> list[str]:
    if trace is None:
        return ["The virtual nodes of that step were not traced in both runs; `holdtrue verify` traces them."]
    if trace.phase == "initial":
        return []
    where = (
        "" if trace.virtual_node is None else f"Virtual node {trace.virtual_node} is the first that differs. "
    )
    return [f"{where}{WHERE_TO_LOOK[trace.phase]}"]


def _say_lengths(a: RunRecord, b: RunRecord) -> list[str]:
    ends = [max(run.steps, default=-1) for run in (a, b)]
    if ends[0] == ends[1]:
        return []
    short, long = (a, b) if ends[0] < ends[1] else (b, a)
    ended = f"ends after step {min(ends)}" if min(ends) >= 0 else "has no step"
    return [f"{short.name} {ended} and {long.name} after step {max(ends)}; only steps of both were compared."]


def _say_conflicts(run: RunRecord) -> list[str]:
    if not run.conflicts:
        return []
    first = run.conflicts[0]
    sentence = (
        f"{run.name} computed step {first.step} twice, with the {first.what} {first.first} and then "
        f"{first.last} ({len(run.conflicts)} such in all): the run does not repeat itself after a resume."
    )
    return [sentence]


def _say_differences(what: str, differences: tuple[Difference, ...]) -> list[str]:
    return [f"The {what} differ: {'; '.join(map(str, differences))}."] if differences else []


def _say_resumes(run: RunRecord) -> list[str]:
    sentences = []
    for event in run.events:
        changed = event.details.get("environment") if event.kind == "resumed" else None
        if changed:
            texts = "; ".join(str(Difference(key=key, a=x, b=y)) for key, (x, y) in changed.items())
            sentences.append(f"{run.name} was resumed in another environment: {texts}.")
    return sentences
