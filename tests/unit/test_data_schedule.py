"""Which examples each virtual node reads."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdtrue.data import Schedule, chunks, epoch_order
from holdtrue.errors import DataError
from holdtrue.plan import Plan


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    virtual_nodes = draw(st.integers(1, 12))
    batch = draw(st.integers(virtual_nodes, 40))
    drop_last = draw(st.booleans())
    examples = draw(st.integers(batch if drop_last else 1, 150))
    plan = Plan(virtual_nodes=virtual_nodes, global_batch_size=batch)
    return Schedule(plan=plan, examples=examples, drop_last=drop_last)


def read_epoch(schedule: Schedule, order: np.ndarray) -> list[int]:
    nodes = range(schedule.plan.virtual_nodes)
    steps = [
        schedule.fetches(order, epoch=0, step_in_epoch=s, virtual_nodes=nodes) for s in range(schedule.steps)
    ]
    return [i for fetches in steps for fetch in fetches for i in fetch.indices]


@settings(deadline=None)
@given(schedules(), st.integers(0, 5))
def test_an_epoch_reads_its_order_once_and_leaves_out_only_a_short_last_batch(
    schedule: Schedule, epoch: int
) -> None:
    order = epoch_order(schedule.examples, seed=1, epoch=epoch, shuffle=True)
    batch = schedule.plan.global_batch_size
    kept = schedule.examples // batch * batch if schedule.drop_last else schedule.examples
    assert read_epoch(schedule, order) == order[:kept].tolist()


@settings(deadline=None)
@given(schedules(), st.data())
def test_the_division_of_a_batch_is_the_plans(schedule: Schedule, data: st.DataObject) -> None:
    step = data.draw(st.integers(0, schedule.steps - 1))
    order = epoch_order(schedule.examples, seed=0, epoch=0, shuffle=True)
    start, stop = schedule.batch_range(step)
    nodes = range(schedule.plan.virtual_nodes)
    fetches = schedule.fetches(order, epoch=0, step_in_epoch=step, virtual_nodes=nodes)
    found = tuple((f.first - start, f.first - start + len(f.indices)) for f in fetches)
    assert found == schedule.plan.ranges(stop - start)
    assert all(tuple(order[f.first : f.first + len(f.indices)]) == f.indices for f in fetches)


def test_the_nodes_of_one_worker_get_what_they_get_among_all() -> None:
    schedule = Schedule(plan=Plan(virtual_nodes=5, global_batch_size=13), examples=40, drop_last=False)
    order = epoch_order(40, seed=0, epoch=0, shuffle=True)
    of_all = schedule.fetches(order, epoch=0, step_in_epoch=3, virtual_nodes=range(5))
    of_some = schedule.fetches(order, epoch=0, step_in_epoch=3, virtual_nodes=(4, 1))
    assert of_some == (of_all[4], of_all[1])
    assert [len(f.indices) for f in of_all] == [0, 0, 0, 0, 1]


def test_a_step_beyond_the_epoch_is_refused() -> None:
    schedule = Schedule(plan=Plan(virtual_nodes=1, global_batch_size=4), examples=9, drop_last=True)
    with pytest.raises(DataError, match="step 2 is not in the epoch; it has steps 0 to 1"):
        schedule.batch_range(2)


def test_fewer_examples_than_a_global_batch_are_refused_with_drop_last() -> None:
    sentence = (
        "the epoch has 9 examples and the global batch size is 10; with drop_last=True an epoch needs at "
        "least one full global batch. Lower global_batch_size to 9 or fewer, or pass drop_last=False."
    )
    plan = Plan(virtual_nodes=2, global_batch_size=10)
    with pytest.raises(DataError, match=f"^{re.escape(sentence)}$"):
        Schedule(plan=plan, examples=9, drop_last=True)
    assert Schedule(plan=plan, examples=9, drop_last=False).steps == 1


def test_an_epoch_without_examples_is_refused() -> None:
    with pytest.raises(DataError, match="the epoch has 0 examples; it needs at least one"):
        Schedule(plan=Plan(virtual_nodes=1, global_batch_size=1), examples=0, drop_last=False)


@settings(deadline=None)
@given(examples=st.integers(0, 300), chunk_size=st.integers(1, 50), virtual_nodes=st.integers(1, 12))
def test_evaluation_reads_every_example_exactly_once(
    examples: int, chunk_size: int, virtual_nodes: int
) -> None:
    found = chunks(examples, chunk_size, virtual_nodes)
    order = np.arange(examples, dtype=np.int64)
    assert [i for c in found for i in c.fetch(order).indices] == list(range(examples))
    assert [c.virtual_node for c in found] == [i % virtual_nodes for i in range(len(found))]
    assert all(c.stop - c.start == chunk_size for c in found[:-1])


def test_chunks_of_no_size_are_refused() -> None:
    with pytest.raises(DataError, match="10 examples in chunks of 0 over 2 virtual nodes"):
        chunks(10, 0, 2)
