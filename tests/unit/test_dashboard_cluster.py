"""A cluster's allocation from its log, and answers of bounded size about a queue of any length."""

import asyncio
import json
import math
import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from holdtrue.cluster import (
    Cluster,
    Ended,
    Grant,
    Job,
    LogRecord,
    Lost,
    Observed,
    Opened,
    PolicyChosen,
    Queue,
    Rates,
    Schedule,
    ScheduleEvent,
    Submitted,
    decide_record,
)
from holdtrue.dashboard import _cluster
from holdtrue.dashboard._allocation import Allocations, Block, Window, deal_rows, window_to_values
from holdtrue.dashboard._cluster import MOST_OPEN, MOST_OVER, ClusterSight, look_or_say
from holdtrue.errors import GroupError
from holdtrue.scheduler import ClusterClient, JobRequest
from holdtrue.scheduler import _client as client_module
from holdtrue.scheduler._pages import MOST_JOBS, count_states, page_of
from holdtrue.scheduler._records import JobRecord, JobState, Place
from holdtrue.scheduler._serve import Address
from holdtrue.service import Caller

TWO_KINDS = Cluster(
    devices=(("cpu", 3), ("gpu", 2)),
    queues=(Queue(name="default", guaranteed=2), Queue(name="q", guaranteed=1)),
)
RATES = Rates(by_type=(("*", ((4, 1.0),)),))


def write_log(seed: int, events: int) -> list[LogRecord]:
    """A random life of a cluster: jobs of parts too, a crash now and then, changes of the policy, restarts."""
    dice = random.Random(seed)
    schedule, now_s = Schedule(cluster=TWO_KINDS, policy="queues"), 0.0
    alive: list[int] = []
    records: list[LogRecord] = []

    def happen(event: ScheduleEvent) -> None:
        nonlocal schedule
        schedule, record = decide_record(schedule, event, number=len(records) + 1, now_s=now_s)
        records.append(record)

    happen(Opened(cluster=TWO_KINDS, policy="queues"))
    for number in range(1, events):
        now_s += dice.choice([0.0, 1.0, 2.5])
        what = dice.random()
        if (what < 0.45 and len(alive) < 9) or not alive:
            part = dice.random() < 0.4
            job = Job(
                id=str(number), arrival_s=now_s, work=9.0, rates=RATES, kind=f"job-{number}",
                max_devices=1 if part else dice.randint(1, 4), percent=dice.choice([25, 50]) if part else 100,
                weight=dice.choice([1.0, 5.0]), queue=dice.choice(["default", "q"]),
            )  # fmt: skip
            alive.append(number)
            happen(Submitted(job=job))
        elif what < 0.8:
            happen(Ended(job=str(alive.pop(dice.randrange(len(alive))))))
        elif what < 0.87:
            happen(Lost(job=str(dice.choice(alive))))
        elif what < 0.94:
            happen(Observed(job=str(dice.choice(alive)), done=1.0, rate=1.0))
        elif what < 0.97:
            happen(PolicyChosen(policy=dice.choice(["queues", "fifo"])))
        else:
            happen(Opened(cluster=TWO_KINDS, policy=schedule.policy))
    return records


def shown_at(window: Window, time_s: float) -> dict[int, tuple[tuple[tuple[str, int], ...], int]]:
    """By job: how many rows of each type it has then, and the part."""
    return {
        b.number: (tuple((kind, len(rows)) for kind, rows in b.rows), b.percent)
        for b in window.blocks
        if b.start_s <= time_s < b.end_s
    }


def decided_at(records: list[LogRecord], time_s: float) -> dict[int, tuple[tuple[tuple[str, int], ...], int]]:
    """The same, by the last decision."""
    grants = [r.grants for r in records if r.grants is not None and r.time_s <= time_s][-1]
    return {int(job): (grant.counts, grant.percent) for job, grant in grants.items()}


def moments(records: list[LogRecord]) -> Iterator[float]:
    for a, b in pairwise(records):
        if b.time_s > a.time_s:
            yield (a.time_s + b.time_s) / 2
    yield records[-1].time_s + 1.0


@pytest.mark.parametrize("seed", range(8))
def test_blocks_are_what_the_log_decided_at_every_moment_and_no_row_is_given_twice(seed: int) -> None:
    records, dice = write_log(seed, 250), random.Random(seed)
    read, at = Allocations(), 0
    while at < len(records):
        step = dice.randint(1, 9)
        read.take(records[at : at + step])
        at += step
    window = read.window(most=10_000)
    assert (window.from_s, window.is_first, read.newest) == (0.0, True, len(records))
    assert any(block.percent < 100 for block in window.blocks)
    assert {kind for block in window.blocks for kind, _ in block.rows} == {"cpu", "gpu"}
    for time_s in moments(records):
        assert shown_at(window, time_s) == decided_at(records, time_s)
        filled: dict[tuple[str, int], list[int]] = {}
        for block in window.blocks:
            if block.start_s <= time_s < block.end_s:
                for kind, rows in block.rows:
                    for row in rows:
                        assert row < TWO_KINDS.count(kind)
                        part = range(block.offset, block.offset + block.percent)
                        filled.setdefault((kind, row), []).extend(part)
        for place, parts in filled.items():
            assert len(set(parts)) == len(parts) <= 100, f"{place} is given twice"
            assert max(parts) < 100
    assert {block.name for block in window.blocks} <= {f"job-{n}" for n in range(len(records))}


@pytest.mark.parametrize("most", [1, 7, 40])
def test_windows_miss_nothing_between_their_times_and_lie_side_by_side(most: int) -> None:
    records, read = write_log(3, 300), Allocations()
    read.take(records)
    until_s, seen = math.inf, []
    while True:
        window = read.window(until_s, most=most)
        assert len(window.blocks) <= max(most, 2 * 16)
        for time_s in moments(records):
            if window.from_s <= time_s < until_s:
                assert shown_at(window, time_s) == decided_at(records, time_s)
                seen.append(time_s)
        if window.is_first:
            break
        assert window.from_s < until_s
        until_s = window.from_s
    assert sorted(seen) == list(moments(records))


def test_a_job_keeps_its_rows_while_others_come_and_go() -> None:
    one, two, three = (Grant(counts=(("cpu", n),)) for n in (1, 2, 3))
    first, _ = deal_rows({1: three}, {})
    then, _ = deal_rows({1: one, 2: two}, first)
    last, _ = deal_rows({2: two, 3: one}, then)
    assert then == {1: (("cpu", (0,)),), 2: (("cpu", (1, 2)),)}
    assert last == {2: (("cpu", (1, 2)),), 3: (("cpu", (0,)),)}
    both = Grant(counts=(("cpu", 1), ("gpu", 2)))
    assert deal_rows({4: both}, {})[0] == {4: (("cpu", (0,)), ("gpu", (0, 1)))}
    half = [Grant(counts=(("cpu", 1),), percent=50, slot=0) for _ in range(2)]
    rows, offsets = deal_rows({1: one, 5: half[0], 7: half[1]}, {5: (("cpu", (1,)),)})
    assert rows == {5: (("cpu", (1,)),), 1: (("cpu", (0,)),), 7: (("cpu", (1,)),)}
    assert offsets == {5: 0, 7: 50}


def test_a_picture_is_short_however_long_the_log_is() -> None:
    read = Allocations()
    read.take(write_log(1, 4000))
    text = json.dumps(window_to_values(read.window(), read.rows))
    assert len(read.window(most=10**6).blocks) > 1500
    assert len(text) < 60_000
    values = json.loads(text)
    assert values["rows"] == [["cpu", 3], ["gpu", 2]]
    block = Block(number=4, name="a", start_s=1.0, rows=(("cpu", (0, 1, 3)),))
    drawn = window_to_values(Window(from_s=0, until_s=2.0, blocks=(block,), is_first=True), [("cpu", 4)])
    assert drawn["blocks"] == [[0, 1.0, None, 100, 0, [[0, 0, 2], [0, 3, 1]]]]


# ---- the queue ------------------------------------------------------------------------------------------


def job_of(number: int, state: JobState, *, ending: str = "It finished.") -> JobRecord:
    request = JobRequest(name=f"job-{number}", script="train.py", folder=".", max_devices=2)
    over = state in ("finished", "failed", "cancelled")
    return JobRecord(
        number=number, request=request, state=state, submitted_s=float(number), ending=ending if over else "",
        started_s=number + 1.0 if state != "waiting" else None, ended_s=number + 2.0 if over else None,
    )  # fmt: skip


STATES: tuple[JobState, ...] = (
    "finished",
    "finished",
    "running",
    "failed",
    "waiting",
    "cancelled",
    "finished",
)


@pytest.mark.parametrize("which", ["waiting", "running", "open", "over", "all"])
@pytest.mark.parametrize("limit", [1, 2, 5, 100])
def test_pages_together_are_every_job_once_in_order(which: Any, limit: int) -> None:
    jobs = [job_of(n, STATES[n % 7]) for n in range(1, 40)]
    found: list[int] = []
    after: int | None = 0
    while after is not None:
        page = page_of(jobs, which=which, after=after, limit=limit)
        assert len(page.jobs) <= limit
        found += [record.number for record in page.jobs]
        after = page.next
    states = {"open": ("waiting", "running"), "over": ("finished", "failed", "cancelled"), "all": STATES}
    wanted = [r.number for r in jobs if r.state in states.get(which, (which,))]
    assert found == (wanted[::-1] if which == "over" else wanted)
    assert sum(count_states(jobs).values()) == 39


class _Schedule:
    """What the service reads of a schedule."""

    policy, cluster, views = "wfs", Cluster(devices=(("cpu", 2),)), ()


class _Scheduler:
    """What the service reads of a scheduler."""

    schedule, reason, trouble, newest, epoch_s = _Schedule(), "as it is", "", 0, 1000.0

    def __init__(self, jobs: list[JobRecord]) -> None:
        self.jobs = {record.number: record for record in jobs}

    def facts_of(self, number: int) -> None:
        return None


class _Store:
    """A log that is empty."""

    def log(self, after: int, limit: int) -> list[LogRecord]:
        return []


@pytest.fixture
def weighed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A client of a service in this process, which counts the bytes of every answer."""
    from holdtrue.scheduler._service import build_app

    sizes: list[int] = []

    def start(jobs: list[JobRecord]) -> tuple[ClusterClient, list[int]]:
        app = build_app(_Scheduler(jobs), _Store(), Place(folder=tmp_path))  # type: ignore[arg-type]  # what it reads

        def ask(self: Caller, method: str, path: str, body: Any = None) -> Any:
            status, text = asyncio.run(call(app, method, path))
            assert status == 200, text
            sizes.append(len(text))
            return json.loads(text)

        monkeypatch.setattr(Caller, "ask", ask)
        place = Place(folder=tmp_path)
        place.tokens.write_text(json.dumps({"read": "r" * 20, "join": "j" * 20, "admin": "a" * 20}))
        place.tokens.chmod(0o600)
        there = Address(url="http://127.0.0.1:1", pid=1, token_file=str(place.tokens))
        monkeypatch.setattr(client_module, "read_address", lambda place: there)
        return ClusterClient(tmp_path, scope="read"), sizes

    return start


async def call(app: Any, method: str, path: str) -> tuple[int, bytes]:
    sent: list[Any] = []
    name, _, query = path.partition("?")

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": method, "path": name, "raw_path": name.encode(), "query_string": query.encode(),
        "headers": [], "http_version": "1.1", "scheme": "http", "server": ("127.0.0.1", 1),
        "client": ("127.0.0.1", 2), "root_path": "",
    }  # fmt: skip
    await app(scope, receive, send)
    return sent[0]["status"], b"".join(m.get("body", b"") for m in sent[1:])


MANY = 12_000


def test_a_queue_of_12_000_jobs_is_read_whole_in_answers_that_are_bounded(weighed: Any) -> None:
    client, sizes = weighed([job_of(n, "finished" if n % 100 else "waiting") for n in range(1, MANY + 1)])
    facts = client.queue()
    assert [job["number"] for job in facts["jobs"]] == list(range(1, MANY + 1))
    assert facts["counts"] == {
        "waiting": 120, "running": 0, "finished": MANY - 120, "failed": 0, "cancelled": 0,
    }  # fmt: skip
    assert len(sizes) == MANY // MOST_JOBS
    assert max(sizes) < 8 * 2**20
    assert len(client.queue("open")["jobs"]) == 120
    newest = client.queue("over", most=3)["jobs"]
    assert [job["number"] for job in newest] == [MANY - 1, MANY - 2, MANY - 3]
    assert sizes[-1] < 4000


def test_the_longest_endings_do_not_make_an_answer_too_long(weighed: Any) -> None:
    client, sizes = weighed([job_of(n, "failed", ending="é" * 20_000) for n in range(1, MOST_JOBS + 1)])
    client.queue()
    assert max(sizes) < 2 * 2**20


def test_the_page_has_the_open_jobs_the_newest_that_are_over_and_counts_of_the_rest(
    weighed: Any, tmp_path: Path
) -> None:
    jobs = [job_of(n, "waiting" if n % 2 else "failed", ending="x" * 9000) for n in range(1, MANY + 1)]
    jobs[MANY - 2] = job_of(MANY - 1, "running")  # behind thousands that came before it and wait
    _, sizes = weighed(jobs)
    seen = ClusterSight(Path("anywhere"))
    found = seen.look(None, {str(tmp_path / "runs" / "job-3-3"): "job/three"})
    assert [job["id"] for job in found["queue"]["jobs"][:3]] == [None, "job/three", None], "it has a page"
    assert "run_dir" not in found["queue"]["jobs"][0]
    assert [job["number"] for job in found["queue"]["jobs"]] == [
        *range(1, 2 * MOST_OPEN, 2), MANY - 1, *range(MANY, MANY - 2 * MOST_OVER, -2),
    ]  # fmt: skip
    assert found["queue"]["counts"]["failed"] == MANY // 2
    assert len(json.dumps(found)) < 150_000
    before = len(sizes)
    seen.look(None, {})
    assert len(sizes) == before, "many pages are one question"


def test_what_troubles_the_scheduler_is_said_beside_queue_and_chart(
    weighed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    weighed([job_of(1, "waiting")])
    sight = ClusterSight(Path("anywhere"), clock=iter(range(100)).__next__)
    assert look_or_say(sight, None, {})["trouble"] == ""
    monkeypatch.setattr(_Scheduler, "trouble", "no worker can be started: the disk is full.")
    found = look_or_say(sight, None, {})
    assert found["trouble"] == "no worker can be started: the disk is full."
    assert [job["number"] for job in found["queue"]["jobs"]] == [1]
    assert found["chart"] is not None


def test_no_cluster_is_a_sentence(tmp_path: Path) -> None:
    found = look_or_say(ClusterSight(tmp_path / "none"), None, {})
    assert found["trouble"].startswith("no cluster is running in")
    assert (found["queue"], found["chart"]) == (None, None)


def test_another_cluster_in_the_folder_is_read_from_its_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    logs = [write_log(1, 60), write_log(2, 30)]
    facts = {
        "policy": "wfs", "devices": {"cpu": 3}, "queues": {}, "counts": {}, "reason": "", "trouble": "", "jobs": [],
        "next": None,
    }  # fmt: skip
    now = [0]

    class Client:
        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def queue(self, which: str, *, most: int) -> Any:
            return facts | {"epoch_s": 1000.0 + now[0], "newest": len(logs[now[0]])}

        def log_pages(self, *, after: int) -> Iterator[list[LogRecord]]:
            yield logs[now[0]][after:]

    monkeypatch.setattr(_cluster, "ClusterClient", Client)
    clock = iter(range(100))
    seen = ClusterSight(Path("anywhere"), clock=lambda: float(next(clock)))
    for now[0] in (0, 1):
        expected = Allocations()
        expected.take(logs[now[0]])
        chart = seen.look(None, {})["chart"]
        assert chart["newest"] == len(logs[now[0]])
        assert chart["blocks"] == window_to_values(expected.window(), expected.rows)["blocks"]


def test_a_scheduler_that_hangs_holds_up_one_page_and_not_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    log = write_log(1, 20)
    facts = {
        "policy": "wfs", "devices": {"cpu": 3}, "queues": {}, "counts": {}, "reason": "", "trouble": "", "jobs": [],
        "next": None,
        "epoch_s": 1.0, "newest": len(log),
    }  # fmt: skip
    hangs, asked, goes_on = threading.Event(), threading.Event(), threading.Event()

    class Client:
        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def queue(self, which: str, *, most: int) -> Any:
            if hangs.is_set():
                asked.set()
                assert goes_on.wait(20)
                raise GroupError("the scheduler did not answer.")
            return facts

        def log_pages(self, *, after: int) -> Iterator[list[LogRecord]]:
            yield log[after:]

    monkeypatch.setattr(_cluster, "ClusterClient", Client)
    clock = iter(range(100))
    seen = ClusterSight(Path("anywhere"), clock=lambda: float(next(clock)))
    before = look_or_say(seen, None, {})
    assert before["chart"]["newest"] == len(log)
    hangs.set()
    found: list[Any] = []
    first = threading.Thread(target=lambda: found.append(look_or_say(seen, None, {})))
    first.start()
    assert asked.wait(20)
    assert look_or_say(seen, None, {}) == before, "what is known, at once"
    goes_on.set()
    first.join(20)
    assert found[0]["trouble"] == "the scheduler did not answer."
    hangs.clear()
    assert look_or_say(seen, None, {}) == before, "and it is asked again"


def test_a_block_that_ends_when_it_began_is_not_there() -> None:
    log = write_log(5, 40)
    same = [replace(record, time_s=1.0) for record in log]
    read = Allocations()
    read.take(same)
    assert all(math.isinf(block.end_s) for block in read.window().blocks)
