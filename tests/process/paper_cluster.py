"""A scheduler whose jobs are written on paper: a real one over HTTP, with jobs that are numbers in a file.

    python paper_cluster.py FOLDER DEVICES

The test writes FOLDER/paper.json, by name: {"step": 3, "total": 10, "status": null}. A job ends when it has a status there.
"trouble" in the place of a name is why nothing can be started.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from signal import Signals
from typing import Any

from holdtrue.cluster import parse_cluster
from holdtrue.scheduler import _open_engine, serve_cluster
from holdtrue.scheduler._engine import ClusterEngine, Look
from holdtrue.scheduler._evidence import Evidence
from holdtrue.scheduler._records import JobRecord, Place


class PaperEngine(ClusterEngine):
    """Jobs that do at once what they are told, and end when the paper says so."""

    def __init__(self, place: Place, **_: object) -> None:
        self._paper = place.folder / "paper.json"
        self._workers: dict[int, int] = {}

    @property
    def trouble(self) -> str:
        try:
            return str(json.loads(self._paper.read_text()).get("trouble", ""))
        except FileNotFoundError:
            return ""

    def _line(self, record: JobRecord) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(self._paper.read_text()).get(record.request.name, {})
        except FileNotFoundError:
            return {}
        return found

    def begin(self, record: JobRecord, workers: int, slot: int = -1) -> None:
        self._workers[record.number] = workers

    def look(self, record: JobRecord) -> Look:
        line = self._line(record)
        if line.get("status") is not None:
            return Look(evidence=Evidence(is_locked=False, is_started=True, exit_code=line["status"]))
        workers = self._workers.setdefault(record.number, 1)
        facts = {
            "workers": [{"worker": i} for i in range(workers)],
            "target": workers,
            "phase": "running",
            "progress": {"step": line.get("step", 0), "total": line.get("total", 10), "seconds": 0.1},
        }
        return Look(evidence=Evidence(is_locked=True, is_started=True, exit_code=None), facts=facts)

    def resize(self, record: JobRecord, workers: int) -> str:
        self._workers[record.number] = workers
        return "as asked"

    def stop(self, record: JobRecord, reason: str) -> str:
        return "as asked"

    def signal(self, record: JobRecord, how: Signals) -> None:
        pass

    def keeper(self, record: JobRecord) -> int | None:
        return None

    def last_words(self, record: JobRecord) -> str:
        return str(self._line(record).get("words", ""))

    def name_is_taken(self, name: str) -> bool:
        return False

    def reap(self, running: Sequence[JobRecord]) -> None:
        pass


if __name__ == "__main__":
    _open_engine.LauncherEngine = PaperEngine  # type: ignore[misc, assignment]  # what the scheduler's process makes
    serve_cluster(Path(sys.argv[1]), parse_cluster(sys.argv[2]), None)
