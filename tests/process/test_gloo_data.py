"""Data, evaluation and prediction over gloo: the numbers of one worker, each example once."""

import functools

import pytest
import torch

from holdtrue.testing import run_in_process
from pool import Pool
from zoo_checks import first_difference
from zoo_data import infer, train_on

pytestmark = pytest.mark.process


@pytest.mark.parametrize(("source", "workers"), [("dataset", 2), ("loader with sampler", 0)])
def test_augmented_data_with_and_without_loader_processes_has_the_bits_of_one_worker(
    source: str, workers: int, gloo_pool: Pool
) -> None:
    (base,) = run_in_process(functools.partial(train_on, source))
    for trace in gloo_pool.run(functools.partial(train_on, source, workers), mapping="0,3,6/1,2,4,5"):
        assert first_difference(trace, base) is None


@pytest.mark.parametrize("mapping", ["0-2/3-6", "0,4/1,5/2,6/3", "3-6/none/0-2"])
def test_evaluate_and_predict_over_gloo_have_the_numbers_of_one_worker(mapping: str, gloo_pool: Pool) -> None:
    sizes = (1, 2, 6, 7, 13, 40)
    main = functools.partial(infer, 7, sizes, None)
    ((scores, outputs, _, _),) = run_in_process(main)
    found = gloo_pool.run(main, mapping=mapping)
    for rank_scores, rank_outputs, _, _ in found:
        assert rank_scores == scores
        assert all(torch.equal(a, b) for a, b in zip(rank_outputs, outputs, strict=True))
    for index, size in enumerate(sizes):
        assert sorted(i for numbers in found for i in numbers[2][index]) == list(range(size))
