"""The steps of a run as columns, read on from where the last look ended."""

import bisect
import json
import math
import os
from array import array
from itertools import pairwise
from pathlib import Path
from typing import Any, final

_PIECE_LINES = 20_000


@final
class StepLog:
    """`steps.jsonl` of a run; mutable, owned by who looks. A line that is no step is left out.

    Guarantee:
        Of a step written twice, as after a resume, the last line counts. What follows the last newline waits.
    """

    def __init__(self, path: Path) -> None:
        """Prepare; nothing is read yet."""
        self._path = path
        self._position = 0
        self._inode = -1
        self._clear()

    def _clear(self) -> None:
        self.steps = array("q")
        """Ascending."""
        self.losses = array("d")
        """NaN where there was none."""
        self.seconds = array("d")
        """Of each step."""
        self.generations = array("q")
        """That computed it."""
        self.digests: dict[int, str] = {}
        """Of the steps that have one."""

    def __len__(self) -> int:
        return len(self.steps)

    def refresh(self) -> bool:
        """Read what was written since the last look; whether anything is other than before."""
        was_forgotten = False
        try:
            with self._path.open("rb") as file:
                facts = os.fstat(file.fileno())
                if facts.st_size < self._position or facts.st_ino != self._inode:
                    self._position, self._inode = 0, facts.st_ino
                    was_forgotten = bool(self.steps)
                    self._clear()
                file.seek(self._position)
                data = file.read()
        except FileNotFoundError:
            return False
        whole = data[: data.rfind(b"\n") + 1]
        self._position += len(whole)
        lines = whole.splitlines()
        for start in range(0, len(lines), _PIECE_LINES):
            self._take_all(_objects_of(lines[start : start + _PIECE_LINES]))
        return bool(lines) or was_forgotten

    def _take_all(self, rows: list[Any]) -> None:  # Any: JSON values
        """Take many lines; at once where they are ordinary: new steps, ascending, with finite losses."""
        try:
            steps = array("q", [row["step"] for row in rows])
            losses = array("d", [row["loss"] for row in rows])
            seconds = array("d", [row["seconds"] for row in rows])
            generations = array("q", [row["generation"] for row in rows])
            digests = {row["step"]: str(row["digest"]) for row in rows if "digest" in row}
        except (KeyError, TypeError, OverflowError):
            steps = array("q")
        is_ascending = all(a < b for a, b in pairwise(self.steps[-1:] + steps))
        if len(steps) != len(rows) or not is_ascending:
            for row in rows:
                self._take(row)
            return
        self.steps.extend(steps)
        self.losses.extend(losses)
        self.seconds.extend(seconds)
        self.generations.extend(generations)
        self.digests |= digests

    def _take(self, values: Any) -> None:  # Any: JSON values
        try:
            step, seconds, generation = (
                int(values["step"]),
                float(values["seconds"]),
                int(values["generation"]),
            )
            loss = values["loss"] if "loss_text" not in values else values["loss_text"]
            number = math.nan if loss is None else float(loss)
            digest = values.get("digest")
        except (AttributeError, KeyError, TypeError, ValueError):
            return
        if digest is not None:
            self.digests[step] = str(digest)
        if not self.steps or step > self.steps[-1]:
            self.steps.append(step)
            self.losses.append(number)
            self.seconds.append(seconds)
            self.generations.append(generation)
            return
        at = bisect.bisect_left(self.steps, step)
        if self.steps[at] == step:
            self.losses[at], self.seconds[at], self.generations[at] = number, seconds, generation
        else:
            self.steps.insert(at, step)
            self.losses.insert(at, number)
            self.seconds.insert(at, seconds)
            self.generations.insert(at, generation)


def _objects_of(lines: list[bytes]) -> list[Any]:  # Any: JSON values
    """All at once, which is three times as fast as one by one; one by one where a line is damaged."""
    try:
        return list(json.loads(b"[" + b",".join(lines) + b"]"))
    except ValueError:
        found = []
        for line in lines:
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found
