"""Control messages: read back as they were written, and refused in sentences."""

import json
from dataclasses import fields, replace

import pytest

from holdtrue.errors import GroupError
from holdtrue.wire import (
    FROM_HOST,
    FROM_WORKER,
    MOST_MESSAGE_BYTES,
    TO_HOST,
    TO_WORKER,
    ControlMessage,
    End,
    Ended,
    Entered,
    Finish,
    Hello,
    HostHello,
    Kill,
    Leaving,
    Lost,
    MemberText,
    Over,
    PassPlace,
    Progress,
    Ready,
    Remap,
    Start,
    Stop,
    ViewSent,
    ViewText,
    Welcome,
    decode_control,
    encode_control,
)

MEMBER = MemberText(worker=0, host="127.0.0.1", port=2000, device="cpu")
VIEW = ViewText(
    generation=2,
    members=(MEMBER, replace(MEMBER, worker=4)),
    joiners=(4,),
    is_planned=True,
    mapping="0-3/4-6",
    cause="worker 4 joins",
    lost=(),
)
HELLO = Hello(
    worker=4,
    host="127.0.0.1",
    port=2004,
    device="cuda:0",
    pid=99,
    generation=1,
    step=7,
    total=None,
    is_joiner=True,
    views=(VIEW,),
)
ALL = FROM_WORKER + TO_WORKER + FROM_HOST + TO_HOST
MESSAGES: list[ControlMessage] = [
    HELLO,
    Ready(after=0),
    Entered(generation=2, step=7, seconds=0.25),
    Lost(generation=2, step=7, waited_for="the reduce", silent=True),
    Leaving(reason="SIGTERM"),
    Remap(generation=2, mapping="0-5/6", reason="a step takes 0.4 s"),
    Progress(facts={"step": 3, "loss": 0.5, "mapping": "0/1", "done": False, "eta": None}),
    End(how="failed", sentence="no", virtual_node=3, step=7),
    Welcome(is_joiner=True),
    ViewSent(view=VIEW),
    Stop(reason="enough"),
    Over(how="expelled", reason="silent"),
    HostHello(name="here", address="127.0.0.1", slots=2, adds=1, running=(0, 1)),
    Ended(worker=1, status=-9, sentence="", at=PassPlace(step=1, round=0, virtual_node=2)),
    Ended(worker=2, status=0, sentence="no device is free", at=None, was_started=False),
    Start(worker=2, device=None),
    Kill(worker=2, reason="silent"),
    Finish(how="finished", reason="done"),
]


def test_every_message_has_an_example_here() -> None:
    assert {type(message) for message in MESSAGES} == set(ALL)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: m.event)
def test_a_message_is_read_back_as_it_was_written(message: ControlMessage) -> None:
    assert decode_control(encode_control(message), ALL) == message


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: m.event)
def test_a_message_with_a_field_more_less_or_of_another_type_is_refused(message: ControlMessage) -> None:
    values = json.loads(encode_control(message))
    with pytest.raises(GroupError, match="unknown fields"):
        decode_control(json.dumps(values | {"extra": 1}), ALL)
    for field in fields(message):
        with pytest.raises(GroupError, match="cannot be read"):
            decode_control(json.dumps({k: v for k, v in values.items() if k != field.name}), ALL)
        with pytest.raises(GroupError, match=f"its {field.name} is"):
            decode_control(json.dumps(values | {field.name: [{"x": [1.5]}]}), ALL)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not JSON"),
        ("[]", "not a JSON object"),
        ("[" * 50_000, "not JSON"),
        ('{"version": 2, "event": "ready", "after": 0}', "version is 2"),
        ('{"version": true, "event": "ready", "after": 0}', "version is True"),
        ('{"version": 1, "event": "start", "worker": 1, "device": null}', "event is not one of"),
        ('{"version": 1, "event": "ready", "after": NaN}', "not JSON"),
        ('{"version": 1, "event": "ready", "after": 1e3}', "whole number"),
        ('{"version": 1, "event": "ready", "after": true}', "whole number"),
        (f'{{"version": 1, "event": "ready", "after": {2**60}}}', "whole number"),
        (json.dumps({"version": 1, "event": "leaving", "reason": "x" * 66_000}), "at most 65536 characters"),
        (" " * (MOST_MESSAGE_BYTES + 1), "at most 1048576 are read"),
    ],
)
def test_what_is_no_message_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(GroupError, match=why):
        decode_control(text, FROM_WORKER)


def test_numbers_out_of_range_and_views_without_members_are_refused() -> None:
    values = json.loads(encode_control(HELLO))
    for wrong in ({"worker": -1}, {"port": 70_000}, {"views": [{**values["views"][0], "members": []}]}):
        with pytest.raises(GroupError, match="cannot be read"):
            decode_control(json.dumps(values | wrong), FROM_WORKER)


def test_texts_that_came_cannot_drive_a_terminal() -> None:
    read = decode_control(encode_control(Leaving(reason="bye\x1b[2J")), FROM_WORKER)
    assert read == Leaving(reason="bye\\x1b[2J")
