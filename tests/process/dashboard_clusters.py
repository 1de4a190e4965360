"""A cluster with a long past, whose present jobs do what a test writes down; and what its log says, told independently."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands import LIMIT_S, environment
from dashboard_pages import Dashboard

from holdtrue.cluster import (
    Ended,
    Grant,
    LogRecord,
    Opened,
    Schedule,
    ScheduleEvent,
    Submitted,
    decide_record,
    parse_cluster,
)
from holdtrue.errors import UsageError
from holdtrue.scheduler import ClusterClient, JobRequest
from holdtrue.scheduler._records import JobRecord
from holdtrue.scheduler._store import Store

DEVICES = "cpu:4"
STEP_S = 2.0
"""Between two events of the past."""
RECENT = 40
"""Jobs at its end that came together and took their time."""


def request(name: str, folder: Path, **options: object) -> JobRequest:
    """A job, which need not be able to run."""
    values = {"script": str(folder / "train.py"), "folder": str(folder), "expected_s": 60.0} | options
    return JobRequest(name=name, **values)  # type: ignore[arg-type]  # checked by the request itself


def write_past(folder: Path, jobs: int, *, ending: str = "It finished.") -> None:
    """The file of a cluster on which so many jobs came, two or three at a time, grew, shrank and ended."""
    (folder / "train.py").touch()
    store = Store(folder / "cluster.sqlite")
    cluster = parse_cluster(DEVICES)
    schedule, now_s, number = Schedule(cluster=cluster, policy="wfs"), 0.0, 0
    log: list[LogRecord] = []

    def happen(event: ScheduleEvent, after_s: float) -> None:
        nonlocal schedule, now_s, number
        now_s, number = now_s + after_s, number + 1
        schedule, record = decide_record(schedule, event, number=number, now_s=now_s)
        log.append(record)

    happen(Opened(cluster=cluster, policy="wfs"), 0.0)
    lives: dict[int, tuple[float, float]] = {}
    alive: dict[int, float] = {}
    for n in range(1, jobs + 1):
        is_recent = n > jobs - RECENT
        asked = request(f"past-{n}", folder, max_devices=1 + n % 4, weight=1.0 + n % 3)
        happen(Submitted(job=asked.job_at(str(n), now_s)), STEP_S * (1 + is_recent * (7 * n % 40)))
        alive[n] = now_s
        while len(alive) > (0 if n == jobs else 3 if is_recent else 1):
            ended = min(alive)
            happen(Ended(job=str(ended)), STEP_S * (1 + is_recent * (11 * n % 30)))
            lives[ended] = alive.pop(ended), now_s
    epoch_s = time.time() - now_s - STEP_S
    store.set_fact("epoch_s", repr(epoch_s))
    records = [
        JobRecord(
            number=n, request=request(f"past-{n}", folder), state="finished", attempt=1, exit_code=0, ending=ending,
            submitted_s=epoch_s + begun, started_s=epoch_s + begun + 1.0, ended_s=epoch_s + over,
        )
        for n, (begun, over) in lives.items()
    ]  # fmt: skip
    store.write(new=records, log=log)
    store.close()


@dataclass(frozen=True)
class PaperCluster:
    """A cluster whose scheduler runs."""

    folder: Path

    @property
    def client(self) -> ClusterClient:
        return ClusterClient(self.folder)

    def write(self, **lines: dict[str, object] | str) -> None:
        """What becomes of jobs, by name with `_` for `-`: steps, total, status; or `trouble`, a sentence."""
        path = self.folder / "paper.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        known |= {name.replace("_", "-"): line for name, line in lines.items()}
        aside = path.with_suffix(".part")
        aside.write_text(json.dumps(known))
        aside.replace(path)

    def fill(self) -> None:
        """Three jobs that run, and one that waits."""
        self.write(
            digits={"step": 120, "total": 400}, lm_large={"step": 35, "total": 900}, reviews={"step": 7, "total": 60}
        )  # fmt: skip
        self.submit("digits", max_devices=2, weight=1.0)
        self.submit("lm-large", max_devices=4, weight=5.0)
        self.submit("reviews", max_devices=2, weight=2.0)
        self.submit("big-batch", min_devices=4, max_devices=4, weight=0.5)

    def submit(self, *names: str, **options: object) -> None:
        self.client.submit([request(name, self.folder, **options) for name in names])


@contextmanager
def paper_cluster(folder: Path) -> Iterator[PaperCluster]:
    """A scheduler of the folder in a process of its own, until the test is over."""
    (folder / "train.py").touch()
    command = [sys.executable, str(Path(__file__).with_name("paper_cluster.py")), str(folder), DEVICES]
    process = subprocess.Popen(command, env=environment({}), stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        until_s = time.monotonic() + LIMIT_S
        while True:
            try:
                ClusterClient(folder).health()
                break
            except UsageError:
                assert process.poll() is None, process.stderr.read()
                assert time.monotonic() < until_s, f"the scheduler did not answer within {LIMIT_S} s"
                time.sleep(0.02)
        yield PaperCluster(folder)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def open_cluster(page: Any, dashboard: Dashboard, query: str = "") -> None:
    page.goto(f"{dashboard.url}/#/cluster{query}")
    page.reload()
    page.wait_for_selector("main[data-drawn]")


def wait_for_job(page: Any, table: str, name: str) -> None:
    page.locator(f"#{table} td.name", has_text=name).first.wait_for(timeout=LIMIT_S * 1000)


def devices_at(log: list[LogRecord], time_s: float) -> dict[int, Grant]:
    """Who had what at a time: the last decision before it."""
    before = [record.grants for record in log if record.grants is not None and record.time_s <= time_s]
    return {} if not before else {int(job): grant for job, grant in before[-1].items()}
