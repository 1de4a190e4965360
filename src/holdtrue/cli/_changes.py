"""The runs of `holdtrue verify` whose workers change in mid-run: who changes them, and whether they did."""

import os
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, final

from holdtrue.elastic import ControlClient, read_tokens
from holdtrue.errors import HoldtrueError
from holdtrue.launch import JobEntry, JobResult, Stream
from holdtrue.record import RunRecord
from holdtrue.wire import MessageReport, Report, held_note

from ._trials import Change, Trial

if TYPE_CHECKING:
    from ._board import Board

_ASK_WAIT_S = 10.0


@final
class Changer:
    """A `JobObserver` that makes each change of a trial when the run says that it is held for it."""

    def __init__(self, trial: Trial, board: "Board") -> None:
        self._board = board
        self._waiting = {held_note(change.step): change for change in trial.changes}
        self._entry: JobEntry | None = None
        self._asking: list[threading.Thread] = []
        self.killed: set[int] = set()
        """Numbers of the workers that were sent SIGKILL."""
        self.refusals: list[str] = []
        """Why changes could not be asked for."""

    def see_start(self, entry: JobEntry) -> None:
        """The job can be asked at `entry` from now on."""
        self._entry = entry

    def show_report(self, worker: int, report: Report) -> None:
        """Make the change that the run is held for; others go to the board."""
        if isinstance(report, MessageReport) and (change := self._waiting.pop(report.text, None)):
            # A thread: the launcher, whose thread this is, must serve the controller meanwhile.
            thread = threading.Thread(target=self._make, args=(change,), name="holdtrue-change", daemon=True)
            self._asking.append(thread)
            thread.start()
        self._board.show_report(worker, report)

    def _make(self, change: Change) -> None:
        try:
            self._ask(change)
        except (HoldtrueError, OSError) as error:
            self.refusals.append(str(error))

    def _ask(self, change: Change) -> None:
        assert self._entry is not None, "a run that is held was started"
        tokens = read_tokens(Path(self._entry.token_file))
        client = ControlClient(url=self._entry.url, token=tokens.by_scope["admin"], timeout_s=_ASK_WAIT_S)
        if change.kind == "resize":
            client.resize(change.workers)
            return
        ranked = [w for w in client.job()["workers"] if w["rank"] is not None]
        ranked.sort(key=lambda w: w["rank"])
        if change.kind == "kill":
            victim = ranked[-1]
            self.killed.add(victim["worker"])
            os.kill(victim["pid"], signal.SIGKILL)
        else:
            os.kill(ranked[0]["pid"], signal.SIGTERM)

    def show_output(self, stream: Stream, data: bytes) -> None:
        """The script's output stays in the logs."""

    def show_note(self, text: str) -> None:
        """Print above the table."""
        self._board.show_note(text)

    def show_group(self, workers: int, generation: int) -> None:
        """What changes is in the row's name."""

    def tick(self, now_s: float) -> None:
        """Draw the table anew."""
        self._board.tick(now_s)

    def wait(self) -> None:
        """Until every change was asked for."""
        for thread in self._asking:
            thread.join(_ASK_WAIT_S)


def name_missing_change(trial: Trial, result: JobResult, run: RunRecord, changer: Changer) -> str | None:
    """What did not happen that the trial is about, as a sentence; None if all did. Pure."""
    if changer.refusals:
        return f"A change of the workers could not be asked for: {changer.refusals[0]}"
    statuses: Mapping[int, int] = {end.worker: end.status for end in result.ends}
    alive = sorted(worker for worker in changer.killed if statuses.get(worker) != -signal.SIGKILL)
    kills = sum(change.kind == "kill" for change in trial.changes)
    if alive or len(changer.killed) != kills:
        return f"Worker {alive[0] if alive else 1} was to be killed and was not, so this run proves nothing."
    for change in trial.changes:
        before, after = run.steps.get(change.step - 1), run.steps.get(change.step + 1)
        if before is not None and after is not None and before.generation == after.generation:
            return (
                f"The workers were to change at step {change.step} and did not (generation {after.generation} before and "
                f"after), so this run proves nothing."
            )
    return None
