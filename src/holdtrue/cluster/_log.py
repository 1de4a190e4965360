"""The log of a live cluster: what happened, what was decided, and whether the same would be decided again.

decide_record(schedule, event, ...)    an event, what is decided, and the record of both
replay_schedule(records)     the same events, decided again by the code that the simulator uses
rebuild_schedule(records)    the schedule at the end of the log, by its own decisions
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

from holdtrue.errors import UsageError

from ._jobs import Cluster, Grant, Job, Queue, Rates
from ._live import (
    Ended,
    Lost,
    Observed,
    Opened,
    PolicyChosen,
    Schedule,
    ScheduleEvent,
    Submitted,
    advance_schedule,
)

Values = dict[str, Any]  # Any: JSON values


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LogRecord:
    """One event of a live cluster and what was decided: a line of its log."""

    number: int
    """From 1, ascending."""
    time_s: float
    """Seconds from the log's beginning."""
    event: ScheduleEvent
    grants: Mapping[str, Grant] | None = None
    """Devices by job, after a decision."""
    reason: str = ""
    """The policy's sentence, or what there is to say about the event."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What came of deciding again."""

    decisions: int
    """Decisions in the log."""
    differences: tuple[str, ...] = field(default_factory=tuple)
    """A sentence for each decision that came out otherwise."""
    schedule: Schedule | None = None
    """At the end of the log."""


def decide_record(
    schedule: Schedule, event: ScheduleEvent, *, number: int, now_s: float
) -> tuple[Schedule, LogRecord]:
    """Decide about an event, and the line of the log that says so. Pure.

    Args:
        schedule: Before the event.
        event: What happened.
        number: Of the record, one more than the last one's.
        now_s: Seconds from the log's beginning.

    Returns:
        The schedule after it, and the record, with the decision if there was one.
    """
    schedule, decision = advance_schedule(schedule, event, now_s)
    grants = None if decision is None else dict(decision.grants)
    reason = "" if decision is None else decision.reason
    return schedule, LogRecord(number=number, time_s=now_s, event=event, grants=grants, reason=reason)


def replay_schedule(records: Iterable[LogRecord]) -> Replay:
    """Decide again about the events of a log.

    Args:
        records: Of a live cluster, from its beginning.

    Returns:
        How many decisions there were and which differ. After a difference the log's own decision holds, so that
        one does not lead to others.

    Raises:
        UsageError: the log is empty or does not begin with the opening of a cluster.
    """
    schedule: Schedule | None = None
    decisions, differences = 0, []
    for record in records:
        before = _beginning(schedule, record)
        schedule, decided = advance_schedule(before, record.event, record.time_s)
        if record.grants is None or decided is None:
            continue
        decisions += 1
        if dict(decided.grants) != dict(record.grants):
            differences.append(
                f"event {record.number}: decided {_say(record.grants)}, and now {_say(decided.grants)}"
            )
            schedule, _ = advance_schedule(before, record.event, record.time_s, grants=record.grants)
    if schedule is None:
        raise UsageError("the log has no events; it begins with the opening of a cluster. Give a whole log.")
    return Replay(decisions=decisions, differences=tuple(differences), schedule=schedule)


def rebuild_schedule(records: Sequence[LogRecord]) -> Schedule:
    """The schedule at the end of a log, by its own decisions: no policy is asked."""
    schedule: Schedule | None = None
    for record in records:
        before = _beginning(schedule, record)
        schedule, _ = advance_schedule(before, record.event, record.time_s, grants=record.grants or {})
    assert schedule is not None, "a log begins with the opening of a cluster"
    return schedule


def _beginning(schedule: Schedule | None, record: LogRecord) -> Schedule:
    if schedule is not None:
        return schedule
    if not isinstance(record.event, Opened):
        raise UsageError(
            f"the log begins with event {record.number}, which is no opening of a cluster. Give it from its beginning."
        )
    return Schedule(cluster=record.event.cluster, policy=record.event.policy)


def _say(grants: Mapping[str, Grant]) -> str:
    parts = [
        f"{job}:{g.devices}" if g.percent == 100 else f"{job}:{g.percent}%"
        for job, g in sorted(grants.items())
    ]
    return " ".join(parts) or "nobody"


# --- as JSON values ---

_EVENTS: dict[str, type[ScheduleEvent]] = {
    kind.__name__.lower(): kind for kind in (Opened, Submitted, Observed, Lost, Ended, PolicyChosen)
}


def record_to_values(record: LogRecord) -> Values:
    """A record as JSON values, which `record_from_values` reads back to an equal one."""
    grants = None if record.grants is None else {job: _grant_values(g) for job, g in record.grants.items()}
    return {
        "number": record.number,
        "time_s": record.time_s,
        "kind": type(record.event).__name__.lower(),
        "values": _event_values(record.event),
        "grants": grants,
        "reason": record.reason,
    }


def record_from_values(values: Mapping[str, Any]) -> LogRecord:  # Any: JSON values
    """The record of `record_to_values`.

    Raises:
        UsageError: the values are no such record.
    """
    try:
        grants = values["grants"]
        return LogRecord(
            number=int(values["number"]),
            time_s=float(values["time_s"]),
            event=_event_from(values["kind"], values["values"]),
            grants=None if grants is None else {job: _grant_from(g) for job, g in grants.items()},
            reason=str(values.get("reason", "")),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(
            f"a record of the log cannot be read ({type(error).__name__}: {error}); a live cluster writes other ones. "
            f"Take the log from `holdtrue cluster log`."
        ) from None


def _event_values(event: ScheduleEvent) -> Values:
    match event:
        case Opened():
            queues = [[queue.name, queue.guaranteed] for queue in event.cluster.queues]
            return {
                "devices": [list(pair) for pair in event.cluster.devices],
                "queues": queues,
                "policy": event.policy,
            }
        case Submitted():
            return _job_values(event.job)
        case Observed():
            return {"job": event.job, "done": event.done, "rate": event.rate}
        case Lost() | Ended():
            return {"job": event.job}
        case PolicyChosen():
            return {"policy": event.policy}


def _event_from(kind: str, values: Mapping[str, Any]) -> ScheduleEvent:  # Any: JSON values
    if kind == "opened":
        devices = tuple((str(name), int(n)) for name, n in values["devices"])
        queues = tuple(Queue(name=name, guaranteed=n) for name, n in values["queues"])
        return Opened(cluster=Cluster(devices=devices, queues=queues), policy=values["policy"])
    if kind == "submitted":
        rates = tuple(
            (name, tuple((int(n), float(x)) for n, x in points)) for name, points in values["rates"]
        )
        return Submitted(job=Job(**{**values, "rates": Rates(by_type=rates)}))
    return _EVENTS[kind](**values)


def _job_values(job: Job) -> Values:
    values = {name: getattr(job, name) for name in Job.__dataclass_fields__}
    return values | {"rates": [[kind, [list(p) for p in points]] for kind, points in job.rates.by_type]}


def _grant_values(grant: Grant) -> Values:
    values: Values = {"counts": [list(pair) for pair in grant.counts]}
    return values if grant.percent == 100 else values | {"percent": grant.percent, "slot": grant.slot}


def _grant_from(values: Mapping[str, Any]) -> Grant:  # Any: JSON values
    counts = tuple((str(kind), int(n)) for kind, n in values["counts"])
    return Grant(counts=counts, percent=int(values.get("percent", 100)), slot=int(values.get("slot", -1)))


def read_log(text: str, name: str) -> tuple[LogRecord, ...]:
    """The records of a written log: one JSON object a line.

    Raises:
        UsageError: a line is no record; the message gives it.
    """
    records = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            records.append(record_from_values(json.loads(line)))
        except (UsageError, ValueError) as error:
            raise UsageError(f"{name}, line {number}: {error}") from None
    return tuple(records)
