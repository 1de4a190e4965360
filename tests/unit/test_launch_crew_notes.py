"""What a host says of its workers where a person reads it, without workers."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from holdtrue.launch import SilentObserver
from holdtrue.launch._crew import Crew


class Notes(SilentObserver):  # type: ignore[misc]  # final for users; a test may listen
    def __init__(self) -> None:
        self.notes: list[str] = []

    def show_note(self, text: str) -> None:
        self.notes.append(text)


def crew_with(notes: Notes, workers: list[Any]) -> Crew:  # Any: stand-ins for workers
    crew = Crew(notes, lambda worker, end: None)
    crew.workers = {worker.number: worker for worker in workers}
    return crew


def test_workers_that_are_killed_together_are_named_by_ranges() -> None:
    notes = Notes()
    workers = [SimpleNamespace(number=n, is_alive=n != 3, kill_group=lambda: None) for n in range(100)]
    crew_with(notes, workers).kill_all("interrupted twice")
    assert notes.notes == ["workers 0-2,4-99 killed: interrupted twice"]


def test_a_log_on_a_full_disk_ends_no_job_and_is_said_once() -> None:
    notes = Notes()
    with Path("/dev/full").open("ab", buffering=0) as log:
        worker: Any = SimpleNamespace(number=0, log=log, log_path=Path("logs/worker-0.log"))
        crew = crew_with(notes, [worker])
        crew._log(worker, b"a line\n")
        crew._log(worker, b"another\n")
    assert notes.notes == [
        "logs/worker-0.log could not be written (No space left on device); the job goes on, and its logs have gaps"
    ]
