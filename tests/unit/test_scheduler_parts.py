"""Job files, orders, evidence, and the log: the pure parts of the live scheduler."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdtrue.cluster import (
    POLICIES,
    Cluster,
    Ended,
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
    read_log,
    rebuild_schedule,
    record_from_values,
    record_to_values,
    replay_schedule,
)
from holdtrue.errors import UsageError
from holdtrue.scheduler import check_devices, read_job_file
from holdtrue.scheduler._evidence import judge_end
from holdtrue.scheduler._orders import Standing, plan_orders
from holdtrue.scheduler._request import request_from_values, request_to_values

FOUR = Cluster(
    devices=(("cpu", 4),), queues=(Queue(name="default", guaranteed=2), Queue(name="q", guaranteed=1))
)


def job(
    number: int, *, most: int = 2, weight: float = 1.0, percent: int = 100, queue: str = "default"
) -> Job:
    rates = Rates(by_type=(("*", ((most, 1.0),)),))
    return Job(
        id=str(number), arrival_s=0, work=100.0 * number, rates=rates, max_devices=most, weight=weight,
        percent=percent, queue=queue,
    )  # fmt: skip


def live(events: list[ScheduleEvent]) -> list[LogRecord]:
    """The log of a cluster to which these happen, a second apart."""
    schedule, records = Schedule(cluster=FOUR, policy="wfs"), []
    for number, event in enumerate(events, 1):
        schedule, record = decide_record(schedule, event, number=number, now_s=float(number))
        records.append(record)
    return records


EVENTS: list[ScheduleEvent] = [
    Opened(cluster=FOUR, policy="wfs"),
    Submitted(job=job(1, most=4)),
    Submitted(job=job(2, weight=5)),
    Submitted(job=job(3, weight=2, queue="q")),
    PolicyChosen(policy="srtf"),
    Observed(job="1", done=99.0, rate=0.5),
    Lost(job="2"),
    PolicyChosen(policy="queues"),
    Submitted(job=job(4, most=1, percent=50, queue="q")),
    Submitted(job=job(5, most=1, percent=50)),
    Ended(job="1"),
    PolicyChosen(policy="fifo"),
    Ended(job="4"),
]


def test_a_live_log_replays_with_identical_decisions() -> None:
    records = live(EVENTS)
    text = "".join(__import__("json").dumps(record_to_values(record)) + "\n" for record in records)
    again = read_log(text, "log")
    assert list(again) == records
    found = replay_schedule(again)
    assert (found.decisions, found.differences) == (12, ())
    assert found.schedule == rebuild_schedule(records)


def test_a_log_of_another_rule_does_not_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    records = live(EVENTS)
    monkeypatch.setitem(POLICIES, "wfs", POLICIES["priority"])
    found = replay_schedule(records)
    assert found.differences[0] == "event 3: decided 1:2 2:2, and now 1:4"
    assert found.schedule == rebuild_schedule(records), "after a difference the log's own decision holds"


def test_a_log_that_is_none_is_refused_by_line() -> None:
    with pytest.raises(UsageError, match="begins with event 2, which is no opening"):
        replay_schedule(live(EVENTS)[1:])
    with pytest.raises(UsageError, match="no events"):
        replay_schedule([])
    with pytest.raises(UsageError, match="t, line 1: a record of the log cannot be read"):
        read_log('{"number": 1}', "t")
    with pytest.raises(UsageError, match="t, line 1"):
        read_log("{", "t")
    with pytest.raises(UsageError, match="cannot be read"):
        record_from_values({"number": 1, "time_s": 0, "kind": "sung", "values": {}, "grants": None})


@given(
    st.integers(1, 6),
    st.lists(st.tuples(*[st.integers(0, 3)] * 3, st.booleans(), st.booleans(), st.booleans()), max_size=6),
)
def test_orders_never_give_more_than_is_free(
    devices: int, drawn: list[tuple[int, int, int, bool, bool, bool]]
) -> None:
    jobs = [
        Standing(
            number=i,
            wanted=w,
            is_running=r,
            target=t if r else 0,
            held=h if r else 0,
            can_change=c,
            is_ending=e and r,
        )
        for i, (w, t, h, r, c, e) in enumerate(drawn)
    ]
    before = sum(max(job.held, job.target) for job in jobs)
    orders = plan_orders(devices, jobs)
    after = {order.number: order.devices for order in orders}
    peak = sum(max(job.held, job.target, after.get(job.number, 0)) for job in jobs)
    assert peak <= max(devices, before)
    for order in orders:
        standing = jobs[order.number]
        assert not standing.is_ending
        assert standing.is_running == (order.what != "start")
        assert standing.can_change or order.what == "start"
        assert order.devices == standing.wanted != standing.target


@given(st.lists(st.integers(1, 3), min_size=1, max_size=4))
def test_all_that_was_decided_is_ordered_once_devices_are_free(wanted: list[int]) -> None:
    jobs = [Standing(number=i, wanted=n) for i, n in enumerate(wanted)]
    assert [order.devices for order in plan_orders(sum(wanted), jobs)] == wanted


def test_exit_statuses_decide_what_becomes_of_a_job() -> None:
    def state(code: int | None, purpose: str = "", crashes: int = 0, retries: int = 0) -> tuple[str, bool]:
        verdict = judge_end(code, purpose=purpose, crashes=crashes, retries=retries)
        return verdict.state, verdict.is_crash

    assert state(0) == ("finished", False)
    assert state(1) == ("failed", True)
    assert state(-9) == ("failed", True)
    assert state(None) == ("failed", True), "killed with its launcher is not finished"
    assert state(None, retries=2, crashes=1) == ("waiting", True)
    assert state(1, retries=1, crashes=1) == ("failed", True)
    assert state(2, retries=5) == ("failed", True), "wrong use stays wrong"
    assert state(130, "preempt") == ("waiting", False)
    assert state(-9, "preempt") == ("waiting", False), "the scheduler killed it, not a fault of its own"
    assert state(130, "cancel") == ("cancelled", False)
    assert state(130) == ("cancelled", False), "somebody else stopped it"
    assert state(1, "cancel") == ("cancelled", False)


GOOD = """
name = "digits"
script = "train.py"
arguments = ["--epochs", "3"]
virtual_nodes = 8
max_devices = 2
weight = 2
retries = 1
[environment]
A = "1"
"""


def test_a_job_file_is_read_and_sent_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text(GOOD)
    found = read_job_file(tmp_path / "job.toml")
    assert (found.script, found.folder) == (str(tmp_path / "train.py"), str(tmp_path))
    assert (found.name, found.arguments, found.weight, dict(found.environment)) == (
        "digits", ("--epochs", "3"), 2, {"A": "1"},
    )  # fmt: skip
    assert request_from_values(request_to_values(found)) == found
    with pytest.raises(UsageError, match="there is no key 'gpu'"):
        request_from_values(request_to_values(found) | {"gpu": 1})
    with pytest.raises(UsageError, match="the job is not whole"):
        request_from_values({"name": "a"})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("weihgt = 2", r"line 11: there is no key 'weihgt'; a job has name, script"),
        ("[enviroment]\nA = '1'", r"line 11: there is no key 'enviroment'"),
        ("weight = 'much'", r"line 11: weight is 'much'; it must be a number"),
        ("max_devices = 2.5", r"line 11: max_devices is 2.5; it must be a whole number"),
        ("arguments = '-v'", r"line 11: arguments is '-v'; it must be a list of texts"),
        ("script = 3", r"line 11: script is 3; it must be a text"),
        ("weight = ", r"Invalid value \(at line 11"),
        ("max_devices = 9", r"asks for up to 9 devices and has 8 virtual nodes"),
        ("min_devices = 3", r"max_devices 2; it must be min_devices=3 or more"),
        ("weight = -1", r"weight -1; it must be a positive number"),
        ("retries = -1", r"retries -1; it must be 0 or more"),
        ("name = 'A b'", r"the name 'A b' is not a job's name"),
        ("numerics = 'exakt'", r"numerics 'exakt'; it must be one of exact, portable, fast"),
        ("percent = 50", r"percent 50; it must be 100 for jobs of several devices"),
    ],
)
def test_a_wrong_job_file_is_refused_by_line(tmp_path: Path, text: str, words: str) -> None:
    key = text.split(" ")[0]
    lines = [line for line in GOOD.split("[env")[0].splitlines() if not line.startswith(f"{key} =")]
    padding = [""] * (10 - len(lines))
    (tmp_path / "job.toml").write_text("\n".join([*lines, *padding, text]) + "\n")
    with pytest.raises(UsageError, match=words):
        read_job_file(tmp_path / "job.toml")


def test_a_job_that_needs_several_devices_asks_for_as_many(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text('script = "train.py"\nmin_devices = 3\n')
    assert read_job_file(tmp_path / "job.toml").max_devices == 3


def test_a_job_file_without_script_or_without_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text("name = 'a'")
    with pytest.raises(UsageError, match="names no script"):
        read_job_file(tmp_path / "job.toml")
    with pytest.raises(UsageError, match=r"none.toml cannot be read"):
        read_job_file(tmp_path / "none.toml")


def test_the_embedded_engine_has_cpu_slots_of_this_machine() -> None:
    check_devices("cpu:8", "", 2)
    with pytest.raises(UsageError, match="runs jobs on CPU slots of this machine"):
        check_devices("tpu:1", "", 2)
    with pytest.raises(UsageError, match="this machine has 2 cores"):
        check_devices("cpu:9", "", 2)
