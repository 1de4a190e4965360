"""The promise: loss and digest after every step are those of one worker, on every mapping.

The in-process adapter covers the product of models, virtual nodes and mappings; each run has two whole
batches and a short one with empty virtual nodes, twice.
"""

import functools

import pytest

from holdtrue.testing import run_in_process
from zoo import MODELS, OPTIMIZERS, Case, Trace, train
from zoo_checks import check_base, check_same
from zoo_mappings import VIRTUAL_NODES, covering_mappings, mappings

CELLS = [
    (model, virtual_nodes, turn)
    for i, model in enumerate(MODELS)
    for turn, virtual_nodes in enumerate(VIRTUAL_NODES, start=i)
]


def run(case: Case, mapping: str | None = None) -> list[Trace]:
    """The case on one mapping, as threads that take turns."""
    return run_in_process(functools.partial(train, case), mapping=mapping)


@pytest.mark.parametrize(("model", "virtual_nodes", "turn"), CELLS)
def test_losses_and_digests_are_those_of_one_worker_after_every_step(
    model: str, virtual_nodes: int, turn: int
) -> None:
    case = Case(
        model=model,
        virtual_nodes=virtual_nodes,
        optimizer=OPTIMIZERS[turn % len(OPTIMIZERS)],
        bucket_bytes=(None, 64)[turn % 2],
    )
    (base,) = run(case)
    check_base(case, base)
    for mapping in covering_mappings(virtual_nodes, turn, count=4):
        check_same(case, run(case, mapping), base, mapping)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("model", MODELS)
def test_the_whole_product_of_mappings_and_optimizers_has_the_bits_of_one_worker(
    model: str, optimizer: str
) -> None:
    for virtual_nodes in VIRTUAL_NODES:
        for size in (None, 64):
            case = Case(model=model, virtual_nodes=virtual_nodes, optimizer=optimizer, bucket_bytes=size)
            (base,) = run(case)
            check_base(case, base)
            for mapping in mappings(virtual_nodes):
                check_same(case, run(case, mapping), base, mapping)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own, when inductor is imported
def test_a_compiled_model_has_the_bits_of_one_worker_with_two_shapes_of_passes() -> None:
    case = Case(model="compiled", optimizer="adamw")
    (base,) = run(case)
    assert {len(ids) for note in base.steps for ids in note.passes} == {7, 8}
    for mapping in ("0-2/3-6", "0,2,4,6/1,3,5", "3-6/none/0-2"):
        check_same(case, run(case, mapping), base, mapping)


def test_an_overflow_leaves_out_one_update_on_every_worker() -> None:
    case = Case(model="scaler")
    for trace in run(case, "0-2/none/3-6"):
        assert trace.facts["overflows"] == [0]


def test_a_parameter_that_no_pass_uses_is_not_touched_by_weight_decay() -> None:
    for trace in run(Case(model="partly_used", optimizer="adamw"), "0-4/5-6"):
        assert trace.facts["never"] == [[1.0] * 3] * 3


def test_constant_buffers_keep_their_bits() -> None:
    assert all(trace.facts["rotary is untouched"] for trace in run(Case(model="buffers"), "0-4/5-6"))


def test_early_stopping_ends_every_worker_at_the_same_step() -> None:
    case = Case(model="average", virtual_nodes=8, optimizer="adafactor")
    (base,) = run(case)
    assert len(base.steps) < 6, "this case is chosen because it stops early"
    check_same(case, run(case, "0-2/3-7"), base, "0-2/3-7")
