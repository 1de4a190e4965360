"""What became of an attempt, judged by what it left behind. Pure."""

from dataclasses import dataclass
from typing import Literal, final

from holdtrue.wire import ORPHAN_WAIT_S

ORPHANS_S = ORPHAN_WAIT_S + 4.0
"""After a launcher was killed: its workers write a checkpoint and end, or are ended, within this time."""


Loss = Literal["", "host", "machine"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What there is to see of one attempt."""

    is_locked: bool
    """Its keeper or its command lives."""
    is_started: bool
    """Its keeper began."""
    exit_code: int | None
    """As its keeper wrote it, or else as the launcher wrote it among the user's jobs."""
    loss: Loss = ""
    """What took its last host away: that host alone (`host`), or with its machine or the cluster (`machine`)."""
    how_lost: str = ""
    """What there is to say about that."""


Fate = Literal["lives", "ended", "never", "killed"]


def judge_attempt(evidence: Evidence) -> Fate:
    """Whether an attempt lives, ended with a status, never began (it may begin still), or was killed.

    One whose launcher was killed by a signal may have workers that live a little longer, its keeper or not.

    >>> judge_attempt(Evidence(is_locked=False, is_started=False, exit_code=None))
    'never'
    >>> judge_attempt(Evidence(is_locked=False, is_started=True, exit_code=-9))
    'killed'
    """
    if evidence.is_locked:
        return "lives"
    if evidence.exit_code is not None and evidence.exit_code >= 0:
        return "ended"
    return "killed" if evidence.is_started else "never"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What follows from the end of an attempt."""

    state: Literal["waiting", "finished", "failed", "cancelled"]
    is_crash: bool
    sentence: str


_FINISHED, _WRONG_USE, STOPPED = 0, 2, 130


def judge_end(exit_code: int | None, *, purpose: str, crashes: int, retries: int, loss: Loss = "") -> Verdict:
    """What becomes of a job whose attempt ended.

    Args:
        exit_code: Of the attempt; None if it was killed and nobody could write it down.
        purpose: Why it was asked to end, `cancel` or `preempt`; empty if nobody asked.
        crashes: Attempts that failed before.
        retries: Failures after which it is started again.
        loss: What took its last host away, if something did. A lost machine is no failure of the job.

    >>> judge_end(1, purpose="", crashes=0, retries=1).state, judge_end(1, purpose="", crashes=1, retries=1).state
    ('waiting', 'failed')
    >>> judge_end(0, purpose="cancel", crashes=0, retries=0).state
    'finished'
    """
    if exit_code == _FINISHED:
        return Verdict(state="finished", is_crash=False, sentence="It finished.")
    if purpose == "cancel":
        return Verdict(state="cancelled", is_crash=False, sentence="It was cancelled.")
    if loss == "machine" and not purpose and exit_code != _WRONG_USE:
        return Verdict(
            state="waiting",
            is_crash=False,
            sentence="It lost its machine; it waits with its last checkpoint.",
        )
    if exit_code == STOPPED and (purpose or loss != "host"):
        if purpose == "preempt":
            return Verdict(state="waiting", is_crash=False, sentence="It waits with a checkpoint.")
        return Verdict(
            state="cancelled",
            is_crash=False,
            sentence="Somebody else stopped it (`holdtrue stop`, or a signal).",
        )
    if purpose == "preempt" and (exit_code is None or exit_code < 0):
        sentence = "It was killed to give its devices to others; it waits with its last checkpoint."
        return Verdict(state="waiting", is_crash=False, sentence=sentence)
    how = "was killed with its launcher" if exit_code is None else f"ended with exit status {exit_code}"
    if exit_code == STOPPED:
        how = "stopped with a checkpoint when it lost its last worker"
    if exit_code is not None and exit_code < 0:
        how = f"was killed by signal {-exit_code}"
    if exit_code == _WRONG_USE:
        return Verdict(
            state="failed",
            is_crash=True,
            sentence=f"It {how}: wrong use, which another start would not mend.",
        )
    if crashes < retries:
        return Verdict(
            state="waiting",
            is_crash=True,
            sentence=f"It {how}; it is started again, {crashes + 1} of {retries}.",
        )
    tried = f" (after {crashes} of {retries} retries)" if retries else ""
    return Verdict(state="failed", is_crash=True, sentence=f"It {how}{tried}.")
