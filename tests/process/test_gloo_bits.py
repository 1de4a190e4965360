"""The promise over gloo: real processes, real collectives, the bits of one worker after every step.

A pairwise cover of the in-process product: every model meets every optimizer and every mapping, and
every optimizer meets every mapping.
"""

import functools

import pytest

from holdtrue.mapping import order_by_worker
from holdtrue.testing import run_in_process
from pool import Pool
from zoo import MODELS, OPTIMIZERS, Case, Trace, train
from zoo_checks import check_same
from zoo_mappings import pairwise

pytestmark = pytest.mark.process

MAPPINGS = (
    "7: 0-2/3-6",
    "7: 0,3,6/1,4/2,5",
    "5: 0-3/4",
    "12: 0,4,8/1,5,9/2,6,10/3,7,11",
    "8: 4-7/none/0-3",
    "5: 1-2,4/0/none/3",
    "2: 0/1/none",
    "1: none/0",
)
ROWS = pairwise(MODELS, OPTIMIZERS, MAPPINGS)


@functools.lru_cache(maxsize=8)
def base_of(case: Case) -> Trace:
    """One worker's trace, in this process."""
    (base,) = run_in_process(functools.partial(train, case))
    return base


@pytest.mark.parametrize("model", MODELS)
def test_gloo_has_the_losses_and_digests_of_one_worker_after_every_step(model: str, gloo_pool: Pool) -> None:
    for turn, (_, optimizer, cell) in enumerate(row for row in ROWS if row[0] == model):
        nodes, mapping = cell.split(": ")
        case = Case(
            model=model,
            optimizer=optimizer,
            virtual_nodes=int(nodes),
            epochs=1,
            bucket_bytes=(None, 64)[turn % 2],
        )
        traces = gloo_pool.run(functools.partial(train, case), mapping=mapping)
        check_same(case, traces, base_of(case), mapping)


@pytest.mark.parametrize("model", ["conv", "lstm", "transformer", "features_50"])
def test_adding_worker_by_worker_differs_over_gloo_too(model: str, gloo_pool: Pool) -> None:
    case = Case(model=model, optimizer="adamw", epochs=1)
    main = functools.partial(train, case)
    (base,) = run_in_process(main, order=order_by_worker)
    for mapping in ("0-2/3-6", "0,2,4,6/1,3,5"):
        traces = gloo_pool.run(main, mapping=mapping, order=order_by_worker)
        for here, there in zip(traces[0].steps, base.steps, strict=True):
            assert here.digest != there.digest
        assert [t.steps for t in traces][1][0].digest == traces[0].steps[0].digest, "replicas agree even so"


@pytest.mark.slow
def test_a_compiled_model_has_the_bits_of_one_worker_over_gloo(gloo_pool: Pool) -> None:
    case = Case(model="compiled", optimizer="adamw")
    main = functools.partial(train, case)
    (base,) = gloo_pool.run(main)
    check_same(case, gloo_pool.run(main, mapping="0-2/3-6"), base, "0-2/3-6")
    check_same(case, gloo_pool.run(main, mapping="0,3,6/1,4/2,5"), base, "0,3,6/1,4/2,5")
