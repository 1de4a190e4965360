"""What the ends of the workers mean for the job. Pure."""

import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, final

from ._job import Failure, WorkerEnd

_SECONDARY = frozenset({"GroupError", "WorkerLostError", "WaitTimeoutError"})
"""Errors that a worker reports when another one died: a cause only where nothing else is."""

_OUTSIDE = frozenset({"ExpelledError", "JobOverError"})
"""Errors of a worker that is no longer, or was never, a member: nothing is wrong with the job."""

HowOver = Literal["finished", "stopped", "failed"]

INTERRUPTED = 130
"""Exit status of a worker, and of the job, after Ctrl-C."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Exit code of the job and the causes of its failure."""

    exit_code: int
    failures: tuple[Failure, ...]


def is_failed(end: WorkerEnd, *, was_interrupted: bool) -> bool:
    """Whether this end of a worker must end the job.

    A worker that ends without ever joining is a failure, or its group would wait for it.
    """
    if was_interrupted and (end.status in (0, INTERRUPTED) or end.was_stopped):
        return False
    return end.status != 0 or not end.joined


def judge_ends(ends: Sequence[WorkerEnd], *, script: str, was_interrupted: bool) -> Verdict:
    """Exit code and causes, from the ends of all workers.

    Args:
        ends: The end of each worker, in order of time.
        script: Name of the script, for the sentences.
        was_interrupted: Whether Ctrl-C or SIGTERM came before.

    Guarantee:
        Workers that failed only because another one did, and workers that the launcher stopped, are
        no causes; but a failed job has at least one. Where workers only waited in vain, that is the
        cause, and not the connections that broke after it.
    """
    failed = [end for end in ends if is_failed(end, was_interrupted=was_interrupted)]
    by_themselves = [end for end in failed if not end.was_stopped]
    late = [end for end in by_themselves if end.kind == "WaitTimeoutError"]
    causes = [end for end in failed if _is_cause(end)] or late or by_themselves or failed
    failures = _group_alike(causes, script)
    if was_interrupted:
        return Verdict(exit_code=INTERRUPTED, failures=failures)
    if not causes:
        return Verdict(exit_code=0, failures=())
    return Verdict(exit_code=_exit_code_of(causes[0]), failures=failures)


def fails_elastic_job(end: WorkerEnd, *, was_interrupted: bool) -> bool:
    """Whether this end of a member ends an elastic job at once, whoever else lives. Pure.

    A death by signal does not, nor an end that only follows another worker's; an exception in the script
    does, and so does a script that ends without ever joining: any other worker would do the same.
    """
    if end.status < 0 or end.was_stopped or end.status == INTERRUPTED:
        return False
    if end.kind in _SECONDARY | _OUTSIDE:
        return False
    return is_failed(end, was_interrupted=was_interrupted)


def judge_elastic_job(
    ends: Sequence[WorkerEnd], *, script: str, was_interrupted: bool, how_over: HowOver | None
) -> Verdict:
    """Exit code and causes of an elastic job. Pure.

    Args:
        ends: The end of each worker of this machine, in order of time.
        script: Name of the script, for the sentences.
        was_interrupted: Whether Ctrl-C or SIGTERM came before.
        how_over: What the controller said of the whole job; None if it said nothing.

    Guarantee:
        Workers that died are no failure of a job that others finished, nor are errors of workers that had not entered
        it: the controller tells them from members. A script that trained to its end and then gave an exit status of
        its own has that of the job.
    """
    failed = [end for end in ends if fails_elastic_job(end, was_interrupted=was_interrupted)]
    if failed and how_over not in ("finished", "stopped"):
        code = INTERRUPTED if was_interrupted else _exit_code_of(failed[0])
        return Verdict(exit_code=code, failures=_group_alike(failed, script))
    if was_interrupted or how_over == "stopped":
        return Verdict(exit_code=INTERRUPTED, failures=())
    if chosen := [end for end in failed if end.finished]:
        return Verdict(exit_code=_exit_code_of(chosen[0]), failures=_group_alike(chosen, script))
    if how_over == "finished" or (how_over is None and _ended_well(ends)):
        return Verdict(exit_code=0, failures=())
    if how_over is None and any(end.status == INTERRUPTED for end in ends):
        return Verdict(exit_code=INTERRUPTED, failures=())
    dead = [end for end in ends if end.kind not in _OUTSIDE and (end.status != 0 or not end.joined)]
    causes = [end for end in dead if not end.was_stopped and end.kind not in _SECONDARY] or dead
    return Verdict(exit_code=1, failures=_group_alike(causes, script))


def judge_guest(
    ends: Sequence[WorkerEnd], *, script: str, was_asked_to_leave: bool, how_over: HowOver | None
) -> Verdict:
    """Exit code and causes of a host that joined with one worker. Pure.

    Args:
        ends: The end of each worker of this machine, in order of time.
        script: Name of the script, for the sentences.
        was_asked_to_leave: Whether one Ctrl-C or SIGTERM came before.
        how_over: What the controller said of the whole job; None if it said nothing.

    Guarantee:
        0 only if no worker died here: one that was killed since it came to no boundary has not left.
    """
    have_left = all(_has_left(end) for end in ends)
    if (have_left and was_asked_to_leave) or (how_over is None and all(end.status == 0 for end in ends)):
        how_over = "finished"
    elif how_over == "finished" and not have_left:
        how_over = None
    return judge_elastic_job(ends, script=script, was_interrupted=False, how_over=how_over)


def _has_left(end: WorkerEnd) -> bool:
    """Whether a worker ended in order, or before it was a member: told so, or by SIGTERM while it still started."""
    is_early = not end.joined and end.was_stopped and end.status == -signal.SIGTERM
    return end.status == 0 or end.kind in _OUTSIDE or is_early


def _ended_well(ends: Sequence[WorkerEnd]) -> bool:
    return any(end.finished and end.status == 0 for end in ends)


def _is_cause(end: WorkerEnd) -> bool:
    if end.kind in _SECONDARY:
        return False
    return not end.was_stopped or end.sentence is not None


def _exit_code_of(end: WorkerEnd) -> int:
    if end.status < 0:
        return 1
    return end.status or 2  # 0 here: it never joined, which is wrong use


def _group_alike(ends: Sequence[WorkerEnd], script: str) -> tuple[Failure, ...]:
    groups: dict[tuple[str, str | None, str | None], list[WorkerEnd]] = {}
    for end in ends:
        sentence = end.sentence or (_never_joined(script) if end.status == 0 else None)
        # Without a sentence each has its own log to look at.
        own = None if sentence else str(end.worker)
        groups.setdefault((describe_status(end.status), sentence, own), []).append(end)
    return tuple(
        Failure(
            workers=tuple(sorted(end.worker for end in alike)),
            how=how,
            kind=alike[0].kind or ("UsageError" if sentence else None),
            sentence=sentence,
            where=alike[0].where,
            log=min(alike, key=lambda end: end.worker).log,
        )
        for (how, sentence, _), alike in groups.items()
    )


def merge_alike(failures: Sequence[Failure]) -> tuple[Failure, ...]:
    """The failures, those with the same words in one: the same mistake on every worker is shown once."""
    merged: dict[tuple[str, str | None], Failure] = {}
    for failure in failures:
        key = (failure.how, failure.sentence or str(failure.log))
        first = merged.get(key, failure)
        workers = tuple(sorted({*first.workers, *failure.workers}))
        log = min((first, failure), key=lambda each: each.workers).log
        merged[key] = replace(first, workers=workers, log=log)
    return tuple(merged.values())


def _never_joined(script: str) -> str:
    return (
        f"{script} never called holdtrue.init; a script joins its job by that call. "
        f"Call holdtrue.init(...) before the training loop, or start the script with plain `python {script}`."
    )


def describe_status(status: int) -> str:
    """The end of a process in words.

    >>> describe_status(3), describe_status(-9)
    ('ended with exit status 3', 'was killed by SIGKILL')
    """
    if status >= 0:
        return f"ended with exit status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"
