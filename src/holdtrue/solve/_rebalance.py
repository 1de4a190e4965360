"""When a running job should move virtual nodes: measured pass times in, another mapping or none out.

A device slows down when a neighbour takes its core, and recovers. Following it pays; following noise costs.
So a change is made only if all of these hold:

1. Each worker's time is the median of its latest `window` steps: an even number, so that a device that is fast
   and slow in turn has one value, and a single odd step has none.
2. The solver's mapping is predicted to be faster by `least_gain` and what the times themselves vary by, for
   `confirm` decisions in a row.
3. It pays for itself: the seconds saved until the horizon are more than the re-mapping costs. The horizon is
   `horizon_steps`, or the steps since the re-mapping before, if those are fewer: what lasted only ten steps
   is not believed to last longer.
4. `quiet` steps have passed since the re-mapping before. `quiet` doubles with each re-mapping that soon takes back
   what the one before had moved, and falls back to where it began once a mapping has lasted.

A worker without virtual nodes is not measured. It counts with its last time for `forget_steps` steps, then with
that of its profile, so that it is tried again.
"""

import math
from collections.abc import Iterator, Sequence
from collections.abc import Mapping as Dictionary
from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from holdtrue.errors import MappingError, UsageError
from holdtrue.mapping import Mapping

from ._cost import Costs, KindCost
from ._predict import predict_costs
from ._solve import best_mapping, can_hold, format_count

GRID = 0.03
"""Times closer than this, relatively, count as equal: equal speeds give aligned blocks."""

MOST_CHANGES = 16
"""Workers that a reason names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RebalanceOptions:
    """How much must speak for a re-mapping.

    Raises:
        UsageError: a number is out of its range.
    """

    window: int = 6
    """Steps whose median is a worker's pass time; even, at least 2."""
    confirm: int = 3
    """Decisions in a row that must find a gain, at least 1; the last of them looks back on a whole window."""
    least_gain: float = 0.05
    """Least predicted gain: old step time over new, less 1."""
    horizon_steps: int = 100
    """Steps within which a re-mapping must pay for itself."""
    remap_s: float = 0.1
    """Seconds that a re-mapping costs: a guess, until one was measured in the job."""
    quiet: int = 7
    """Least steps between two re-mappings."""
    most_quiet: int = 1024
    """Where the doubling of `quiet` ends."""
    forget_steps: int = 200
    """Steps after which the last time of a worker without virtual nodes is forgotten."""

    def __post_init__(self) -> None:
        if self.window < 2 or self.window % 2:
            raise UsageError(
                f"window is {self.window}; it is an even number of steps, 2 or more. Pass such a number."
            )
        for name in ("confirm", "horizon_steps", "quiet", "most_quiet", "forget_steps"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it is 1 or more. Pass such a number.")
        for name in ("least_gain", "remap_s"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise UsageError(f"{name} is {getattr(self, name)}; it is 0 or more. Pass such a number.")


@dataclass(frozen=True, slots=True, kw_only=True)
class RebalanceState:
    """What is remembered between two decisions; begin with `RebalanceState()`."""

    recent_s: tuple[tuple[float, ...], ...] = ()
    """By rank, its latest pass seconds, oldest first."""
    last_s: tuple[float | None, ...] = ()
    """By rank, its latest estimate: for workers that hold nothing, and while too few steps are measured anew."""
    seen_at: tuple[int, ...] = ()
    """By rank, the step of its latest measurement; -1 for none."""
    agreed: int = 0
    """Decisions in a row that found a gain."""
    remapped_at: int | None = None
    """Step of the latest re-mapping."""
    quiet: int = 0
    """Least steps until the next one; 0 for the options' own."""
    moved: tuple[int, ...] = ()
    """By rank, virtual nodes that the latest re-mapping gave (or took, where negative)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebalance:
    """One decision."""

    state: RebalanceState
    """To be given to the next decision."""
    mapping: Mapping | None
    """The new mapping; None to stay."""
    reason: str
    """Why, in a sentence."""
    gain: float
    """Predicted gain of the best mapping: present step time over its own, less 1."""
    step_s: float
    """Predicted seconds of a step under the present mapping, as the devices are now."""
    new_step_s: float
    """The same under the best mapping."""


def decide_mapping(
    state: RebalanceState,
    *,
    pass_s: Sequence[float | None],
    step: int,
    mapping: Mapping,
    costs: Costs,
    options: RebalanceOptions | None = None,
) -> Rebalance:
    """Whether to move virtual nodes after a step, and where to.

    Args:
        state: What the decision before returned.
        pass_s: By rank, measured seconds of a virtual node in the step; None where none was measured.
        step: Index of the step, ascending from call to call.
        mapping: Who holds what, now.
        costs: What the profile says of the workers: fixed part, exchange, memory, size of a pass.
        options: How much must speak for a change.

    Raises:
        MappingError: `pass_s` or `mapping` is for another number of workers.

    Guarantee:
        Pure. A mapping that breaks a limit of memory is left at once. A new mapping respects memory and keeps the size of
        passes; equal times go to aligned blocks.
    """
    options = options or RebalanceOptions()
    if len(pass_s) != costs.world_size or mapping.world_size != costs.world_size:
        raise MappingError(
            f"there are times of {len(pass_s)} workers and a mapping of {mapping.world_size}, and costs of "
            f"{costs.world_size}; each worker has one of each. Make them anew after a change of membership."
        )
    state = _remember(state, pass_s, step, options)
    now = measured_costs(costs, _times(state, step, options))
    present_s = predict_costs(now, mapping).step_s
    if not can_hold(now, mapping) and (fitting := best_mapping(now)) is not None:
        # After a change of the membership: it cannot stay, whatever it costs.
        fitting_s = predict_costs(now, fitting).step_s
        leaving = replace(state, moved=_moved(mapping, fitting))
        return _move(
            leaving, step, mapping, fitting, present_s, fitting_s, why="a worker cannot hold what it has; "
        )
    measured = min(
        (len(recent) for recent, ids in zip(state.recent_s, mapping.held, strict=True) if ids),
        default=0,
    )
    # What the confirmations look back on fills up while they are made: the last of them sees the whole window.
    if measured <= max(1, options.window - options.confirm):
        why = f"only {measured} steps are measured since the mapping began"
        return _stay(state, why, present_s, present_s)
    needed = options.least_gain + max(map(noise_of, state.recent_s))
    if present_s < _least_step_s(now) * (1.0 + needed):
        why = f"no mapping can gain {100 * needed:.0f} %, which is the least"
        return _stay(state, why, present_s, present_s)
    found = best_mapping(now)
    if found is None:
        return _stay(state, "no other mapping fits the devices", present_s, present_s)
    best_s = predict_costs(now, found).step_s
    gain = present_s / best_s - 1.0
    if gain < needed:
        why = f"the best mapping would gain {100 * gain:.1f} %, and {100 * needed:.0f} % is the least"
        return _stay(state, why, present_s, best_s)
    since = None if state.remapped_at is None else step - state.remapped_at
    horizon = options.horizon_steps if since is None else min(options.horizon_steps, since)
    saved_s = horizon * (present_s - best_s)
    if saved_s <= options.remap_s:
        why = (
            f"{horizon} steps would save {saved_s:.3g} s, and a re-mapping costs {options.remap_s:.3g} s: it does not "
            f"pay for itself"
        )
        return _stay(state, why, present_s, best_s)
    quiet, agreed = state.quiet or options.quiet, state.agreed + 1
    why = ""
    if since is not None and since < quiet:
        why = f"{since} steps since the last re-mapping, and {quiet} are the least"
    elif agreed < options.confirm or measured < options.window:
        why = f"found {agreed} time(s) in a row, and {options.confirm} are needed"
    if why:
        return replace(_stay(state, why, present_s, best_s), state=replace(state, agreed=agreed))
    moved = _moved(mapping, found)
    quiet = _next_quiet(since, quiet, options, is_back=_takes_back(state.moved, moved))
    return _move(replace(state, moved=moved, quiet=quiet), step, mapping, found, present_s, best_s)


def _moved(before: Mapping, after: Mapping) -> tuple[int, ...]:
    """By rank, virtual nodes that a move gives, or takes where negative."""
    return tuple(len(new) - len(old) for old, new in zip(before.held, after.held, strict=True))


def _takes_back(before: Sequence[int], now: Sequence[int]) -> bool:
    """Whether a move goes against the one before, on the whole.

    >>> _takes_back((7, -7), (1, -1)), _takes_back((7, -7), (-2, 2)), _takes_back((), (1, -1))
    (False, True, False)
    """
    return len(before) == len(now) and sum(a * b for a, b in zip(before, now, strict=True)) < 0


def _next_quiet(since: int | None, quiet: int, options: RebalanceOptions, *, is_back: bool) -> int:
    """Least steps until the next re-mapping: doubled if this one soon takes back what was moved, as at the start if a
    mapping lasted."""
    if since is None or since >= 4 * quiet:
        return options.quiet
    return min(2 * quiet, options.most_quiet) if is_back else quiet


def _move(
    state: RebalanceState,
    step: int,
    old: Mapping,
    new: Mapping,
    present_s: float,
    best_s: float,
    *,
    why: str = "",
) -> Rebalance:
    changes = [
        f"worker {rank} {len(before)} -> {format_count(len(after))}"
        for rank, (before, after) in enumerate(zip(old.held, new.held, strict=True))
        if len(before) != len(after)
    ]
    if len(changes) > MOST_CHANGES:
        changes[MOST_CHANGES:] = [f"and {len(changes) - MOST_CHANGES} more workers"]
    gain = present_s / best_s - 1.0
    return Rebalance(
        state=replace(state, recent_s=((),) * len(state.recent_s), agreed=0, remapped_at=step),
        mapping=new,
        reason=(
            f"{why}a step takes {present_s:.4g} s and is predicted to take {best_s:.4g} s ({100 * gain:+.0f} % throughput): "
            f"{', '.join(changes) or 'other ids'}"
        ),
        gain=gain,
        step_s=present_s,
        new_step_s=best_s,
    )


def _stay(state: RebalanceState, reason: str, present_s: float, best_s: float) -> Rebalance:
    return Rebalance(
        state=replace(state, agreed=0),
        mapping=None,
        reason=reason,
        gain=present_s / best_s - 1.0,
        step_s=present_s,
        new_step_s=best_s,
    )


def _remember(
    state: RebalanceState, pass_s: Sequence[float | None], step: int, options: RebalanceOptions
) -> RebalanceState:
    recent = state.recent_s if len(state.recent_s) == len(pass_s) else ((),) * len(pass_s)
    seen = state.seen_at if len(state.seen_at) == len(pass_s) else (-1,) * len(pass_s)
    last = state.last_s if len(state.last_s) == len(pass_s) else (None,) * len(pass_s)
    recent = tuple(
        old if new is None else (*old, new)[-options.window :]
        for old, new in zip(recent, pass_s, strict=True)
    )
    return replace(
        state,
        recent_s=recent,
        last_s=tuple(median(values) if values else old for values, old in zip(recent, last, strict=True)),
        seen_at=tuple(step if new is not None else old for old, new in zip(seen, pass_s, strict=True)),
    )


def _times(state: RebalanceState, step: int, options: RebalanceOptions) -> tuple[float | None, ...]:
    """Each worker's pass time as of now; None where only the profile knows."""
    return tuple(
        last if step - seen <= options.forget_steps else None
        for last, seen in zip(state.last_s, state.seen_at, strict=True)
    )


def noise_of(recent_s: Sequence[float]) -> float:
    """Half of what the times vary by, over their median, the lowest and the highest left out.

    >>> noise_of((1.0, 1.0, 1.0, 9.0)), noise_of((1.0, 1.2, 0.8, 1.0, 1.2, 0.8)), noise_of(())
    (0.0, 0.2, 0.0)
    """
    middle = sorted(recent_s)[1:-1]
    return round((middle[-1] - middle[0]) / 2.0 / median(middle), 6) if middle else 0.0


def measured_costs(costs: Costs, pass_s: Sequence[float | None]) -> Costs:
    """The costs with measured pass times in place of the profile's: workers of about equal time form one kind.

    Args:
        costs: What the profile says.
        pass_s: By rank, seconds of a virtual node; None keeps the profile's.
    """
    kinds: list[KindCost] = []
    for kind in costs.kinds:
        unknown = tuple(rank for rank in kind.ranks if pass_s[rank] is None)
        if unknown:
            kinds.append(replace(kind, ranks=unknown))
        for ranks, seconds_each in _alike(
            {rank: t for rank in kind.ranks if (t := pass_s[rank]) is not None}
        ):
            seconds = np.arange(costs.virtual_nodes + 1, dtype=np.float64) * seconds_each
            seconds[1:] += kind.fixed_s
            kinds.append(replace(kind, ranks=ranks, seconds=seconds, fused=()))
    return replace(costs, kinds=tuple(sorted(kinds, key=lambda kind: kind.ranks[0])))


def _alike(times_s: Dictionary[int, float]) -> Iterator[tuple[tuple[int, ...], float]]:
    """Ranks whose times are within `GRID` of the fastest of them, and the median of these times."""
    group: list[int] = []
    for rank in sorted(times_s, key=lambda rank: (times_s[rank], rank)):
        if group and times_s[rank] > times_s[group[0]] * (1.0 + GRID):
            yield tuple(sorted(group)), median(times_s[r] for r in group)
            group = []
        group.append(rank)
    if group:
        yield tuple(sorted(group)), median(times_s[r] for r in group)


def _least_step_s(costs: Costs) -> float:
    """A bound that no mapping is faster than: work divided without rest, nothing sent."""
    speeds = [
        len(kind.ranks) / per_node
        for kind in costs.kinds
        if (per_node := float(kind.seconds[-1] - kind.fixed_s) / costs.virtual_nodes) > 0.0
    ]
    return min(kind.fixed_s for kind in costs.kinds) + costs.virtual_nodes / math.fsum(speeds)
