"""The tempting wrong ways must differ, or the tests of the promise could not fail.

The control is the product with another order function and nothing else: each worker adds its own
virtual nodes first. Whether that is another expression than on one worker is arithmetic; where it is,
every step must differ, and where it is not, none may.
"""

import functools
from typing import Any

import pytest

from holdtrue.engine import PassStreams
from holdtrue.engine._buffers import BufferBook
from holdtrue.mapping import order_by_worker
from holdtrue.testing import run_in_process
from zoo import MODELS, OPTIMIZERS, Case, Trace, train
from zoo_checks import check_same, first_difference
from zoo_mappings import mappings, parts_from_one_worker

EXACT_SUMS = ("half", "scaler")
"""Gradients of 16 bits: a few of them add up in float32 without rounding, so no order can be told from another."""

CASES = [(model, V, turn) for turn, model in enumerate(MODELS) if model not in EXACT_SUMS for V in (5, 7, 12)]


def run(case: Case, mapping: str | None = None, **control: Any) -> list[Trace]:
    """The case on one mapping, with the control's order function if it is given."""
    return run_in_process(functools.partial(train, case), mapping=mapping, **control)


def equal_steps(trace: Trace, base: Trace) -> list[int]:
    """Steps after which loss and digest are equal."""
    pairs = zip(trace.steps, base.steps, strict=False)
    return [i for i, (a, b) in enumerate(pairs) if (a.loss, a.digest) == (b.loss, b.digest)]


def unlike_mappings(case: Case) -> list[str]:
    """Mappings on which adding worker by worker is another expression than on one worker."""
    V = case.virtual_nodes
    present = frozenset(range(1 if case.model == "tokens" else 0, V))  # virtual node 0 has no tokens
    return [m for m in mappings(V) if parts_from_one_worker(m, V, present)]


@pytest.mark.parametrize(("model", "virtual_nodes", "turn"), CASES)
def test_adding_worker_by_worker_differs_after_every_step(model: str, virtual_nodes: int, turn: int) -> None:
    case = Case(model=model, virtual_nodes=virtual_nodes, optimizer=OPTIMIZERS[turn % len(OPTIMIZERS)])
    (base,) = run(case, order=order_by_worker)
    unlike = unlike_mappings(case)
    for mapping in (unlike[turn % len(unlike)], unlike[(turn + 3) % len(unlike)]):
        traces = run(case, mapping, order=order_by_worker)
        assert equal_steps(traces[0], base) == [], f"{case} on {mapping}"


def test_adding_worker_by_worker_is_caught_on_every_mapping_that_has_another_expression() -> None:
    case = Case(model="features_33", optimizer="adamw")
    (base,) = run(case, order=order_by_worker)
    for mapping in mappings(7):
        equal = equal_steps(run(case, mapping, order=order_by_worker)[0], base)
        expected = [] if mapping in unlike_mappings(case) else list(range(len(base.steps)))
        assert equal == expected, mapping


def test_the_control_is_no_different_from_the_product_but_for_its_order() -> None:
    case = Case(model="conv")
    (base,) = run(case)
    check_same(case, run(case, "0,3,6/1,4/2,5"), base, "0,3,6/1,4/2,5")
    (control,) = run(case, order=order_by_worker)
    assert first_difference(control, base) is not None
    assert [note.passes for note in control.steps] == [note.passes for note in base.steps]


@pytest.mark.parametrize("model", ["conv", "ruled"])
def test_passes_that_start_from_the_buffers_of_the_pass_before_differ(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(model=model)
    close = BufferBook.close_pass

    def without_restoring(book: BufferBook, virtual_node: int, examples: int) -> Any:
        left = {
            (id(m), key): t.clone()
            for _, m in book._watch.modules
            for key, t in m._buffers.items()
            if t is not None
        }
        found = close(book, virtual_node, examples)
        for _, module in book._watch.modules:
            for key, tensor in module._buffers.items():
                if tensor is not None:
                    tensor.copy_(left[id(module), key])
        return found

    monkeypatch.setattr(BufferBook, "close_pass", without_restoring)
    (base,) = run(case)
    assert first_difference(run(case, "0-2/3-6")[0], base) is not None


@pytest.mark.parametrize("model", ["conv", "lstm", "transformer", "checkpointed", "partly_used", "gan"])
def test_random_streams_that_belong_to_workers_differ(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(model=model)
    monkeypatch.setattr(PassStreams, "set", lambda self, key: None)  # each worker draws on where it was
    (base,) = run(case)
    assert first_difference(run(case, "0-2/3-6")[0], base) is not None
