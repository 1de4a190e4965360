"""Data in whole runs: loaders, augmentation, worker processes, evaluation and prediction."""

import functools
import random
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import holdtrue as ht
from holdtrue.errors import DataError
from holdtrue.testing import run_in_process
from zoo import SEED, Trace
from zoo_checks import first_difference
from zoo_data import INPUTS, SOURCES, Alternating, Augmented, infer, train_on
from zoo_mappings import mappings
from zoo_models import mlp

MAPPINGS = ("0-2/3-6", "0,3,6/1,4/2,5", "3-6/none/0-2")


def run(source: str, mapping: str | None = None, **settings: Any) -> list[Trace]:
    return run_in_process(functools.partial(train_on, source, **settings), mapping=mapping)


@pytest.mark.parametrize("source", SOURCES)
def test_any_source_gives_the_bits_of_one_worker_and_leaves_the_users_streams_alone(source: str) -> None:
    (base,) = run(source)
    assert len(set(base.facts["the user's own draws"])) == len(base.steps) >= 4
    for mapping in MAPPINGS:
        for trace in run(source, mapping):
            assert first_difference(trace, base) is None, mapping


def test_augmentation_differs_between_examples_and_epochs_though_it_is_keyed() -> None:
    seen: list[bytes] = []

    def look() -> None:
        run = ht.init(virtual_nodes=2, global_batch_size=8, seed=SEED)
        model = mlp(12)
        run.prepare(model, torch.optim.SGD(model.parameters(), lr=0.0))
        for step in run.steps(Augmented(), epochs=2):
            for x, y, _ in step:
                seen.extend(row.numpy().tobytes() for row in x)
                step.backward(F.cross_entropy(model(x), y))
            step.update()

    run_in_process(look)
    assert len(set(seen)) == len(seen) == 2 * 64


@pytest.mark.parametrize("source", ["dataset with collate_fn", "loader with torch's sampler and collate_fn"])
def test_loader_processes_change_no_bit_of_a_whole_run(source: str) -> None:
    (base,) = run(source)
    settings = {"own_workers": 2} if source.startswith("loader") else {"workers": 2}
    for mapping in (None, "0,3,6/1,2,4,5"):
        for trace in run(source, mapping, **settings):
            assert first_difference(trace, base) is None


def test_a_sampler_that_gives_another_number_each_epoch_is_refused_by_name() -> None:
    class Growing(Alternating):
        epoch = 0

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

        def __iter__(self) -> Any:
            return iter(range(40 + self.epoch))

    def train() -> None:
        run = ht.init(virtual_nodes=2, global_batch_size=8, seed=SEED)
        model = mlp(12)
        run.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
        for step in run.steps(DataLoader(Augmented(), sampler=Growing()), epochs=2, drop_last=False):
            for x, y, _ in step:
                step.backward(F.cross_entropy(model(x), y))
            step.update()

    with pytest.raises(DataError, match="Growing gave 41 indices in epoch 1 and 40 in epoch 0"):
        run_in_process(train)


# ---- evaluate and predict ----

SIZES = tuple(range(1, 41))


@pytest.mark.parametrize("batch_size", [None, 5])
@pytest.mark.parametrize("virtual_nodes", [1, 7, 12])
def test_evaluate_and_predict_count_every_example_once_with_the_same_numbers_on_every_mapping(
    virtual_nodes: int, batch_size: int | None
) -> None:
    main = functools.partial(infer, virtual_nodes, SIZES, batch_size)
    ((scores, outputs, _, _),) = run_in_process(main)
    for size, score, output in zip(SIZES, scores, outputs, strict=True):
        assert score["odd"] == pytest.approx((size // 2) / size, abs=1e-7)
        assert output[:, 0].tolist() == list(range(size))
    every = mappings(virtual_nodes)
    for mapping in dict.fromkeys((every[0], every[len(every) // 2], every[-3], every[-1])):
        found = run_in_process(main, mapping=mapping)
        for rank_scores, rank_outputs, _, _ in found:
            assert rank_scores == scores
            assert all(torch.equal(a, b) for a, b in zip(rank_outputs, outputs, strict=True))
        for index, size in enumerate(SIZES):
            for kind in (2, 3):
                assert sorted(i for numbers in found for i in numbers[kind][index]) == list(range(size))


def test_a_samplers_examples_are_evaluated_once_each_in_its_order() -> None:
    chosen = [30, 2, 17, 5, 9, 11, 3]

    def main() -> tuple[dict[str, float], Tensor]:
        run = ht.init(virtual_nodes=3, global_batch_size=6, seed=SEED)
        model = nn.Linear(6, 3)
        run.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
        data = DataLoader(TensorDataset(INPUTS, torch.arange(40)), sampler=chosen)
        return run.evaluate(lambda x, ids: {"id": ids.float().mean()}, data), run.predict(
            lambda x, ids: ids, data
        )

    for mapping in ("0-2", "0/1-2", "0,2/none/1"):
        for scores, ids in run_in_process(main, mapping=mapping):
            assert ids.tolist() == chosen
            assert scores["id"] == pytest.approx(sum(chosen) / len(chosen))


def test_evaluation_in_mid_training_changes_no_bit_of_it() -> None:
    def train(with_evaluation: bool) -> list[tuple[str, float]]:
        run = ht.init(virtual_nodes=5, global_batch_size=11, seed=SEED)
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 9), nn.BatchNorm1d(9), nn.Dropout(0.5), nn.Linear(9, 3))
        run.prepare(model, torch.optim.AdamW(model.parameters()))
        data = TensorDataset(INPUTS, torch.arange(40) % 3)
        found = []
        for step in run.steps(data, epochs=2):
            for x, y in step:
                step.backward(F.cross_entropy(model(x), y))
            step.update()
            if with_evaluation:
                run.evaluate(lambda x, y: {"loss": F.cross_entropy(model(x), y)}, data)
                run.predict(lambda x, y: model(x), data)
            found.append((run.digest("weights"), float(torch.rand(()))))
        return found

    (plain,) = run_in_process(functools.partial(train, False))
    for found in run_in_process(functools.partial(train, True), mapping="0-1/2-4"):
        assert found == plain


class Counting(nn.Module):
    """Its buffers count passes: one in place, one by its name; a third is a cache that grows."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("bound", torch.zeros(()))
        self.register_buffer("cache", torch.zeros(0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if len(self.cache) < x.shape[1]:
            self.cache = torch.ones(x.shape[1])
        self.count += 1
        self.bound = self.bound + 1
        return x @ self.cache * self.scale * 0 + self.count + self.bound


def test_buffers_that_the_model_counts_in_are_those_of_the_start_in_every_pass_without_gradients() -> None:
    def main() -> tuple[dict[str, float], Tensor, list[int]]:
        run = ht.init(virtual_nodes=3, global_batch_size=6, seed=SEED)
        model = Counting()
        run.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
        data = TensorDataset(INPUTS)
        scores = run.evaluate(lambda x: {"count": model(x).mean()}, data)
        outputs = run.predict(model, data)
        assert model.count == model.bound == 0
        return scores, outputs, list(model.cache.shape)

    for mapping in ("0-2", "0/1-2"):
        for scores, outputs, cache in run_in_process(main, mapping=mapping):
            assert scores == {"count": 2.0}
            assert set(outputs.tolist()) == {2.0}
            assert cache == [6]


# ---- init ----


def draws(seed: int, noise: float) -> tuple[float, float, float, str]:
    """The user's first draws after init, whatever was drawn before it."""
    for _ in range(int(noise)):
        torch.rand(()), random.random(), np.random.random()
    run = ht.init(virtual_nodes=4, global_batch_size=8, seed=seed)
    model = nn.Linear(3, 3)
    run.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    return float(torch.rand(())), random.random(), float(np.random.random()), run.digest("weights")


def test_init_seeds_the_users_streams_by_the_plans_seed_alone() -> None:
    (base,) = run_in_process(functools.partial(draws, 1, 0))
    for workers, noise in ((1, 3), (2, 0), (3, 5)):
        assert run_in_process(functools.partial(draws, 1, noise), workers=workers) == [base] * workers
    assert all(a != b for a, b in zip(run_in_process(functools.partial(draws, 2, 0))[0], base, strict=True))
