"""What a running job's main worker asks for: at the price that re-mappings have had, and in a message that can be sent."""

from types import SimpleNamespace
from typing import Any

import pytest

from holdtrue.elastic import Member, View
from holdtrue.elastic._translate import view_to_text
from holdtrue.mapping import Mapping, even_mapping, parse_mapping
from holdtrue.plan import Plan
from holdtrue.run import _rebalance
from holdtrue.run._rebalance import Rebalancer
from holdtrue.solve import RebalanceOptions, RebalanceState, decide_mapping, plain_costs
from holdtrue.wire import (
    FROM_WORKER,
    MOST_MAPPING,
    TO_WORKER,
    Hello,
    Remap,
    ViewSent,
    decode_control,
    encode_control,
)

DEVICES, NODES = 2048, 8192


def view(generation: int, workers: int, *, mapping: str | None = None, is_planned: bool = True) -> View:
    members = tuple(Member(worker=n, host="127.0.0.1", port=4000 + n, device="cpu") for n in range(workers))
    return View(generation=generation, members=members, is_planned=is_planned, mapping=mapping)


def make(workers: int, virtual_nodes: int) -> tuple[Rebalancer, Any, list[Remap], list[str]]:
    """A rebalancer, its run, what it asks the controller for, and what it says to the user."""
    asked: list[Remap] = []
    said: list[str] = []

    def say_remap(generation: int, mapping: str, reason: str) -> None:
        message = Remap(generation=generation, mapping=mapping, reason=reason)
        asked.append(decode_control(encode_control(message), FROM_WORKER))  # type: ignore[arg-type]  # it is one

    core = SimpleNamespace(
        settings=SimpleNamespace(rebalance=True, costs=""),
        plan=Plan(virtual_nodes=virtual_nodes, global_batch_size=virtual_nodes),
        mapping=even_mapping(virtual_nodes, workers),
        is_main=True,
        outlet=SimpleNamespace(say=said.append, event=lambda *a, **k: None),
        elastic=SimpleNamespace(
            agent=SimpleNamespace(newest_planned=0, say_remap=say_remap), generation=1, costs=None
        ),
    )
    found = Rebalancer(core)  # type: ignore[arg-type]  # what it uses of a run
    found.see_view(view(1, workers, is_planned=False), seconds=9.0)
    return found, core, asked, said


def throttle(found: Rebalancer, core: Any, *, steps: int = 8) -> None:
    """Half of the workers need three times as long."""
    held = core.mapping.held
    times = [0.03 if rank % 2 else 0.01 for rank in range(len(held))]
    step_s = max(len(ids) * t for ids, t in zip(held, times, strict=True))
    for step in range(steps):
        found.see_step(step, times, step_s)


def test_a_re_mapping_costs_what_those_before_it_took_and_a_guess_until_there_is_one() -> None:
    found, _, _, _ = make(2, 16)
    assert found.options.remap_s == RebalanceOptions().remap_s, "to found the job is no re-mapping"
    found.see_view(view(2, 2, mapping="0-9/10-15"), seconds=0.5)
    assert found.options.remap_s == 0.5
    for number, seconds in enumerate((0.7, 40.0, 0.6)):
        found.see_view(view(3 + number, 2, mapping="0-7/8-15"), seconds=seconds)
    assert found.options.remap_s == pytest.approx(0.65)
    found.see_view(view(9, 3), seconds=7.0)
    found.see_view(view(10, 3, is_planned=False), seconds=7.0)
    assert found.options.remap_s == pytest.approx(0.65), "joiners and deaths take another time"


def test_a_re_mapping_that_was_dear_is_not_made_again_for_a_small_saving() -> None:
    cheap, core, asked, _ = make(2, 16)
    throttle(cheap, core)
    assert asked
    dear, core, asked, _ = make(2, 16)
    dear.see_view(view(2, 2, mapping="0-7/8-15"), seconds=1000.0)
    throttle(dear, core)
    assert not asked


def test_the_mapping_of_two_thousand_devices_is_asked_for_in_a_message_that_can_be_read() -> None:
    found, core, asked, said = make(DEVICES, NODES)
    throttle(found, core)
    assert not said
    assert len(asked) == 1
    assert len(asked[0].mapping) > 8192, "a text of this length was refused once"
    mapping = parse_mapping(asked[0].mapping, NODES)
    assert mapping.world_size == DEVICES
    assert "more workers" in asked[0].reason
    assert len(asked[0].reason) < 2000


def test_any_mapping_of_eight_thousand_virtual_nodes_can_be_told() -> None:
    scattered = Mapping(NODES, tuple(tuple(range(rank, NODES, DEVICES)) for rank in range(DEVICES)))
    assert len(str(scattered)) <= MOST_MAPPING


def test_views_of_two_thousand_workers_with_such_a_mapping_are_messages_that_can_be_read() -> None:
    text = str(Mapping(NODES, tuple(tuple(range(rank, NODES, DEVICES)) for rank in range(DEVICES))))
    sent = view_to_text(view(3, DEVICES, mapping=text))
    message = ViewSent(view=sent)
    assert decode_control(encode_control(message), TO_WORKER) == message
    hello = Hello(
        worker=2047,
        pid=1,
        host="127.0.0.1",
        port=4000,
        device="cpu",
        generation=2,
        step=9,
        total=None,
        is_joiner=False,
        views=(sent, sent),
    )
    assert decode_control(encode_control(hello), FROM_WORKER) == hello


def test_a_mapping_that_is_too_long_is_refused_in_a_sentence_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_rebalance, "MOST_MAPPING", 5)
    found, core, asked, said = make(2, 16)
    throttle(found, core, steps=12)
    assert not asked
    assert len(said) == 1
    assert "the controller takes at most 5, so virtual nodes stay where they are" in said[0]


def test_the_reason_of_a_decision_names_a_few_workers_and_counts_the_rest() -> None:
    plan = Plan(virtual_nodes=64, global_batch_size=64)
    costs = plain_costs(plan, workers=32, pass_s=0.01, fixed_s=0.0)
    state, mapping = RebalanceState(), even_mapping(64, 32)
    times = [0.03 if rank % 2 else 0.01 for rank in range(32)]
    for step in range(6):
        found = decide_mapping(state, pass_s=times, step=step, mapping=mapping, costs=costs)
        state = found.state
    assert found.mapping is not None
    changed = sum(len(a) != len(b) for a, b in zip(mapping.held, found.mapping.held, strict=True))
    assert found.reason.endswith(f"and {changed - 16} more workers")
