"""Reports: one JSON object a line, read strictly, safe to show."""

import json
import math
import os
import threading

import pytest

from holdtrue import wire
from holdtrue.errors import GroupError

REPORTS: list[wire.Report] = [
    wire.JoinedReport(rank=1, pid=4711),
    wire.StartedReport(line="global batch 8 = 4 virtual nodes x 2", total_steps=None),
    wire.StepReport(step=0, epoch=0, loss=0.1 + 0.2, total_steps=500),
    wire.StepReport(step=7, epoch=1, loss=-math.inf, total_steps=None),
    wire.LogReport(step=3, values={"loss": 1.0, "up": math.inf}),
    wire.MessageReport(text="two\nlines"),
    wire.CheckpointReport(step=100, path="runs/a/checkpoints/step-00000100"),
    wire.FailedReport(rank=0, kind="UsageError", sentence="what; the rule. The way out."),
    wire.FailedReport(
        rank=1, kind="DataError", sentence="so.", where="train.py:3: for step in run.steps(x):"
    ),
    wire.FinishedReport(rank=0, digest=None, steps=500),
    wire.InterruptedReport(rank=1, steps=30),
]


@pytest.mark.parametrize("report", REPORTS, ids=lambda report: type(report).__name__)
def test_a_report_comes_back_from_its_line(report: wire.Report) -> None:
    line = wire.encode_report(report)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert wire.decode_report(line) == report


def test_a_loss_that_is_not_a_number_travels_as_valid_json() -> None:
    line = wire.encode_report(wire.StepReport(step=1, epoch=0, loss=math.nan, total_steps=None))
    assert json.loads(line, parse_constant=lambda text: pytest.fail(text))["loss"] == "nan"
    report = wire.decode_report(line)
    assert isinstance(report, wire.StepReport)
    assert report.loss is not None
    assert math.isnan(report.loss)


def test_an_unknown_event_is_ignored() -> None:
    assert wire.decode_report(b'{"version": 1, "event": "resized", "world_size": 3}') is None


@pytest.mark.parametrize(
    "line",
    [
        b"hello",
        b"\xff\xfe",
        b"[1]",
        b"[" * 100_000,
        b'{"event": "joined", "rank": 0, "pid": 1}',
        b'{"version": 2, "event": "joined", "rank": 0, "pid": 1}',
        b'{"version": 1, "event": "joined", "rank": 0}',
        b'{"version": 1, "event": "joined", "rank": 0, "pid": 1, "extra": 1}',
        b'{"version": 1, "event": "joined", "rank": "0", "pid": 1}',
        b'{"version": 1, "event": "joined", "rank": true, "pid": 1}',
        b'{"version": 1, "event": "message", "text": null}',
        b'{"version": 1, "event": "step", "step": 1, "epoch": 0, "loss": "x", "total_steps": null}',
        b'{"version": 1, "event": "log", "step": 1, "values": {"a": "b"}}',
    ],
)
def test_a_line_that_is_no_report_is_refused(line: bytes) -> None:
    with pytest.raises(GroupError, match="which cannot be read"):
        wire.decode_report(line)


def test_control_characters_of_a_worker_never_reach_the_terminal() -> None:
    evil = "a\x1b]0;title\x07\x9b2J\u202eb\rc"
    report = wire.decode_report(wire.encode_report(wire.MessageReport(text=evil)))
    assert isinstance(report, wire.MessageReport)
    assert report.text == "a\\x1b]0;title\\x07\\x9b2J\\u202eb\\x0dc"


def test_a_refusal_shows_the_line_without_its_control_characters() -> None:
    with pytest.raises(GroupError) as refusal:
        wire.decode_report(b"\x1b[2J")
    assert "\x1b" not in str(refusal.value)


def test_a_sender_drops_progress_and_keeps_the_rest_when_nobody_reads() -> None:
    read_fd, write_fd = os.pipe()
    sender = wire.ReportSender(write_fd, wait_s=0.01)
    step = wire.StepReport(step=1, epoch=0, loss=None, total_steps=None)
    while sender.send(step):
        pass  # until the pipe is full
    assert not sender.send(wire.MessageReport(text="bounded"))
    os.read(read_fd, 1 << 20)
    assert sender.send(wire.MessageReport(text="read again"))
    last = os.read(read_fd, 1 << 20).splitlines()[-1]
    assert wire.decode_report(last) == wire.MessageReport(text="read again")
    os.close(read_fd)
    assert not sender.send(wire.MessageReport(text="the launcher is gone"))
    os.close(write_fd)


def test_the_end_of_the_life_pipe_is_noticed_once() -> None:
    read_fd, write_fd = os.pipe()
    ends: list[int] = []
    noticed = threading.Event()
    thread = wire.watch_life(read_fd, lambda: (ends.append(1), noticed.set())[0])
    assert thread.daemon
    assert not os.get_inheritable(read_fd)
    os.close(write_fd)
    assert noticed.wait(10)
    thread.join(10)
    assert ends == [1]
    os.close(read_fd)
