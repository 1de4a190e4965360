"""Everything a run says: records, reports to the launcher, lines for people. Only the main worker speaks."""

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from holdtrue.record import DigestRecord, RunDirectory
from holdtrue.wire import (
    CheckpointReport,
    LogReport,
    MessageReport,
    Report,
    ReportSender,
    StartedReport,
    StepReport,
)

REPORT_EVERY_S = 0.1
"""Shortest time between two step reports, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """A record of a step that another worker writes."""

    file: str
    step: int
    append: Callable[[RunDirectory], None]


class Outlet:
    """Where a worker's words go.

    Args:
        is_main: Whether this worker speaks for the job.
        directory: The run directory, held by the main worker; None keeps no records.
        sender: The pipe to the launcher; None if there is none: then lines go to the terminal.
    """

    def __init__(self, *, is_main: bool, directory: RunDirectory | None, sender: ReportSender | None) -> None:
        self.is_main, self.directory, self.sender = is_main, directory, sender
        self._last_report_s = 0.0
        self._warned: set[str] = set()
        self._recent: deque[_Line] = deque(maxlen=256)
        """Records of the last steps, kept by workers that do not write them: the main worker may die before it does."""

    def send(self, report: Report) -> None:
        """Send a report to the launcher, if there is one."""
        if self.sender is not None:
            self.sender.send(report)

    def print(self, *values: object) -> None:
        """Print once for the job."""
        if self.is_main:
            print(*values, flush=True)

    def say(self, text: str) -> None:
        """Give the user a note or a warning, once for the job."""
        if not self.is_main:
            return
        if self.sender is not None:
            self.sender.send(MessageReport(text=text))
        else:
            print(f"holdtrue: {text}", file=sys.stderr, flush=True)

    def say_once(self, text: str) -> None:
        """As `say`, but the same text only the first time."""
        if text not in self._warned:
            self._warned.add(text)
            self.say(text)

    def start(self, line: str, total_steps: int | None) -> None:
        """Show the start-up line."""
        if not self.is_main:
            return
        if self.sender is not None:
            self.sender.send(StartedReport(line=line, total_steps=total_steps))
        else:
            print(line, file=sys.stderr, flush=True)

    def step(
        self,
        *,
        step: int,
        epoch: int,
        loss: float,
        seconds: float,
        digest: str | None,
        total_steps: int | None,
    ) -> None:
        """Record a step that is done."""
        self._write(
            "steps",
            step,
            lambda directory: directory.append_step(
                step=step, epoch=epoch, loss=loss, seconds=seconds, digest=digest
            ),
        )
        if not self.is_main:
            return
        now = time.monotonic()
        is_last = total_steps is not None and step + 1 >= total_steps
        if self.sender is not None and (is_last or now - self._last_report_s >= REPORT_EVERY_S):
            self._last_report_s = now
            shown = None if math.isnan(loss) else loss
            self.sender.send(StepReport(step=step, epoch=epoch, loss=shown, total_steps=total_steps))

    def digests(self, record: DigestRecord) -> None:
        """Record the digest of every entry of the training state."""
        self._write("digests", record.step, lambda directory: directory.append_digests(record))

    def event(
        self, kind: str, *, step: int | None, reason: str, details: Mapping[str, Any] | None = None
    ) -> None:
        """Record something that happened to the run."""
        if self.is_main and self.directory is not None:
            directory = self.directory
            self._try(lambda: directory.append_event(kind, step=step, reason=reason, details=details))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record what the script logs, and show it."""
        self._write("metrics", step, lambda directory: directory.append_metrics(step=step, values=values))
        if not self.is_main:
            return
        if self.sender is not None:
            self.sender.send(LogReport(step=step, values=values))
        else:
            shown = "  ".join(f"{name} {value:.6g}" for name, value in values.items())
            print(f"step {step}  {shown}", file=sys.stderr, flush=True)

    def checkpoint(self, step: int, path: str) -> None:
        """Record that a checkpoint is complete."""
        self.event("checkpoint", step=step, reason=f"checkpoint at {path}", details={"path": path})
        if self.is_main:
            self.send(CheckpointReport(step=step, path=path))

    def notes(self, texts: Sequence[str]) -> None:
        """Give the user several notes."""
        for text in texts:
            self.say_once(text)

    def take_over(self, directory: RunDirectory) -> None:
        """Write where the former main worker wrote, from the first record on that it did not write any more."""
        self.directory = directory
        recent = [line for line in self._recent if line.step >= self._recent[-1].step - 1]
        self._recent.clear()
        written: dict[str, dict[int, int]] = {}
        for line in recent:
            if line.file not in written:
                try:
                    written[line.file] = directory.count_lines(line.file, recent[0].step)
                except OSError:
                    written[line.file] = {}
            if written[line.file].get(line.step, 0) > 0:
                written[line.file][line.step] -= 1
            else:
                self._try(partial(line.append, directory))

    def _write(self, file: str, step: int, append: Callable[[RunDirectory], None]) -> None:
        if not self.is_main:
            self._recent.append(_Line(file=file, step=step, append=append))
        elif self.directory is not None:
            self._try(partial(append, self.directory))

    def _try(self, append: Callable[[], None]) -> None:
        """Write a record; a disk that refuses costs the record and a warning, not the run."""
        try:
            append()
        except OSError as error:
            self.say_once(
                f"a record could not be written ({error.strerror}); the run goes on, the record has a gap."
            )

    def close(self) -> None:
        """Give the run directory back."""
        if self.directory is not None:
            self.directory.close()
            self.directory = None
