"""Every policy by name."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from holdtrue.cluster._state import ClusterState, Decision
from holdtrue.errors import UsageError

from ._ordered import decide_fifo, decide_priority, decide_srtf
from ._queues import decide_queues
from ._shares import (
    decide_finish_time,
    decide_makespan,
    decide_max_min,
    decide_max_min_aware,
    decide_max_min_aware_mixed,
    decide_max_min_mixed,
)
from ._wfs import decide_wfs, decide_wfs_any


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A named rule for sharing a cluster."""

    name: str
    """Name on the command line."""
    sentence: str
    """What it does, for people."""
    decide: Callable[[ClusterState], Decision]
    """The rule."""
    answers: Literal["devices", "time", "mixed time"] = "devices"
    """Devices at once; shares of time on one type after another; or shares of time on all types together."""
    types: Literal["alike", "by speed"] = "alike"
    """For time: whether rounds fill all types in turn, or the type first that is fastest for the jobs at hand."""
    starves: bool = True
    """Whether a job may wait for ever while others keep arriving."""


_ALL = (
    Policy(name="fifo", sentence="first in, first out with backfill", decide=decide_fifo, starves=False),
    Policy(name="priority", sentence="static priority, no preemption", decide=decide_priority),
    Policy(name="srtf", sentence="shortest remaining time first", decide=decide_srtf),
    Policy(name="wfs", sentence="weighted fair sharing in powers of two, as published", decide=decide_wfs),
    Policy(name="wfs-any", sentence="weighted fair sharing in any count", decide=decide_wfs_any),
    Policy(name="queues", sentence="queues with guaranteed shares, lent while unused", decide=decide_queues),
    Policy(name="max-min", sentence="max-min fairness", decide=decide_max_min, answers="time", starves=False),
    Policy(
        name="max-min-aware",
        sentence="max-min fairness, aware of device types",
        decide=decide_max_min_aware,
        answers="time",
        types="by speed",
        starves=False,
    ),
    Policy(
        name="max-min-mixed",
        sentence="max-min fairness, several types at once",
        decide=decide_max_min_mixed,
        answers="mixed time",
        starves=False,
    ),
    Policy(
        name="max-min-aware-mixed",
        sentence="max-min fairness, aware of device types, several at once",
        decide=decide_max_min_aware_mixed,
        answers="mixed time",
        types="by speed",
        starves=False,
    ),
    Policy(
        name="finish-time",
        sentence="finish-time fairness",
        decide=decide_finish_time,
        answers="time",
        types="by speed",
        starves=False,
    ),
    Policy(
        name="makespan",
        sentence="minimum makespan",
        decide=decide_makespan,
        answers="time",
        types="by speed",
        starves=False,
    ),
)
POLICIES: dict[str, Policy] = {policy.name: policy for policy in _ALL}
"""Policies by name."""


def find_policies(names: str) -> tuple[Policy, ...]:
    """Policies from a list of names such as `wfs,fifo`.

    Raises:
        UsageError: a name is unknown or given twice.

    >>> [policy.name for policy in find_policies("wfs, fifo")]
    ['wfs', 'fifo']
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        if name not in POLICIES:
            raise UsageError(
                f"there is no policy {name!r}; the policies are {', '.join(POLICIES)}. Name one of them."
            )
    if not wanted or len(set(wanted)) != len(wanted):
        raise UsageError(f"the policies are {names!r}; name one or more, each once. Write --policy wfs,fifo.")
    return tuple(POLICIES[name] for name in wanted)
