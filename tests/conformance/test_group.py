"""One suite for every adapter of a group: alone, threads of one process, gloo.

The ordered reduction of random tensors has the bits of the tree's expression on all of them.
"""

import functools
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from group_checks import (
    COLLECTIVES,
    Sum,
    check_many,
    check_sum,
    exchange_sizes,
    expected_sum,
    leaf_of,
    random_sum,
    run_check,
    same_bits,
)
from holdtrue.errors import CallMismatchError, WorkerLostError
from holdtrue.mapping import Tree, evaluate_tree, order_by_worker, parse_mapping, prune_tree
from holdtrue.reduce import AloneGroup, Group, InProcessJob
from pool import Pool

Check = Callable[[Group], Any]  # Any: what the check returns


def in_threads(check: Check, world_size: int) -> list[Any]:
    """The check on every endpoint of an in-process group; the error of the worker that failed first."""
    job = InProcessJob(world_size, timeout_s=20.0)
    results: dict[int, Any] = {}
    errors: list[BaseException] = []

    def work(rank: int) -> None:
        try:
            with job.running(rank):
                results[rank] = check(job.group(rank))
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread
            errors.append(error)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return [results[rank] for rank in range(world_size)]


@pytest.mark.parametrize("check", COLLECTIVES)
def test_collectives_alone(check: Check) -> None:
    check(AloneGroup())


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("check", COLLECTIVES)
def test_collectives_between_threads(check: Check, world_size: int) -> None:
    in_threads(check, world_size)


@pytest.mark.process
@pytest.mark.parametrize("world_size", [2, 3, 4])
@pytest.mark.parametrize("check", COLLECTIVES)
def test_collectives_over_gloo(check: Check, world_size: int, gloo_pool: Pool) -> None:
    gloo_pool.each(functools.partial(run_check, check=check), world_size=world_size)


@given(
    sizes=st.lists(st.lists(st.integers(0, 5), min_size=4, max_size=4), min_size=4, max_size=4),
    world_size=st.integers(1, 4),
)
@settings(max_examples=40, deadline=None, derandomize=True, database=None)
def test_an_exchange_of_any_sizes_delivers_every_element(sizes: list[list[int]], world_size: int) -> None:
    in_threads(lambda group: exchange_sizes(group, lambda a, b: sizes[a][b], torch.float32), world_size)


# ---- the ordered reduction ----


@given(seed=st.integers(0, 2**31), world_size=st.integers(1, 4))
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
def test_the_reduction_between_threads_has_the_bits_of_the_trees_expression(
    seed: int, world_size: int
) -> None:
    case = random_sum(world_size, seed)
    if world_size == 1:
        check_sum(AloneGroup(), case)
    in_threads(lambda group: check_sum(group, case), world_size)


@pytest.mark.slow
@given(seed=st.integers(0, 2**31), world_size=st.integers(1, 4))
@settings(max_examples=5000, deadline=None, database=None)
def test_the_reduction_has_the_bits_of_the_tree_in_thousands_of_random_cases(
    seed: int, world_size: int
) -> None:
    in_threads(lambda group: check_sum(group, random_sum(world_size, seed)), world_size)


@pytest.mark.process
@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_the_reduction_over_gloo_has_the_bits_of_the_trees_expression(
    world_size: int, gloo_pool: Pool
) -> None:
    cases = [random_sum(world_size, seed) for seed in range(60)]
    check = functools.partial(run_check, check=functools.partial(check_many, cases=cases))
    assert gloo_pool.each(check, world_size=world_size) == [60] * world_size


def test_the_random_cases_can_tell_one_order_from_another() -> None:
    told = 0
    for seed in range(300):
        case = random_sum(3, seed)
        tree = prune_tree(order_by_worker(parse_mapping(case.mapping, case.virtual_nodes)), case.active)
        assert tree is not None
        leaves = {v: leaf_of(case, 0, v) for v in case.active}
        for i, right in enumerate(expected_sum(case, 0)):
            values: dict[Tree, Tensor] = {v: g for v, leaf in leaves.items() if (g := leaf[i]) is not None}
            if right is not None and len(values) == len(leaves):
                told += not same_bits(evaluate_tree(tree, values, torch.add), right)
    assert told > 20


def test_a_standby_and_a_parameter_absent_everywhere_leave_no_trace() -> None:
    case = Sum(
        mapping="0-4/none/5-6",
        virtual_nodes=7,
        active=frozenset(range(7)),
        shapes=((3,), (2, 3), (17,)),
        dtypes=(torch.float32,) * 3,
        bucket_bytes=64,
        is_eager=True,
        offered=1,
        seed=9,
    )
    assert [expected_sum(case, step)[0] for step in range(2)] == [None, None], (
        "parameter 0 is absent in this case"
    )
    present = in_threads(lambda group: check_sum(group, case), 3)
    assert present[1] == [False] * 3
    assert [any(p[i] for p in present) for i in range(3)] == [False, True, True]


# ---- what must not hang ----


def test_a_worker_that_leaves_is_named_to_those_who_wait_for_it() -> None:
    def check(group: Group) -> None:
        if group.rank == 0:
            with pytest.raises(WorkerLostError, match="worker 1 left before the bytes"):
                group.gather_bytes(b"", what="the bytes")

    in_threads(check, 2)


def test_workers_at_different_calls_are_told_apart() -> None:
    def check(group: Group) -> None:
        if group.rank == 0:
            group.gather_bytes(b"", what="the bytes")
        else:
            group.gather_calls(b"", what="the calls")

    with pytest.raises(CallMismatchError, match="worker 0 waits for the bytes; worker 1 waits for the calls"):
        in_threads(check, 2)
