"""Wrong use of data sources: a sentence each."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset
from wrong_use import Net, examples, refused, start, take_step, train, workers

from holdtrue.errors import DataError, UsageError


class Stream(IterableDataset):  # type: ignore[type-arg]
    """An iterable that can be neither divided nor continued."""

    def __iter__(self) -> Iterator[object]:
        yield from examples()


def test_an_iterable_without_shard_and_state_dict_is_refused_with_what_it_lacks() -> None:
    words = (
        "the iterable Stream has no shard and no state_dict",
        "by virtual node",
        "Add them, or pass a dataset",
    )
    with refused(DataError, *words):
        workers(lambda: train(data=Stream()), 1)
    with refused(DataError, *words):
        workers(lambda: train(data=DataLoader(Stream(), batch_size=2)), 1)


def test_a_batch_sampler_with_its_own_sizes_is_refused() -> None:
    class Buckets:
        def __iter__(self) -> Iterator[list[int]]:
            yield from ([0, 1], [2, 3, 4])

    loader = DataLoader(examples(), batch_sampler=Buckets())
    with refused(DataError, "batch_sampler Buckets", "the plan decides", "Pass a DataLoader with sampler="):
        workers(lambda: train(data=loader), 1)


def test_a_sampler_that_divides_over_replicas_is_refused() -> None:
    loader = DataLoader(examples(), sampler=DistributedSampler(examples(), num_replicas=2, rank=0))
    with refused(
        DataError, "DistributedSampler for 2 replicas", "divides every global batch", "without that sampler"
    ):
        workers(lambda: train(data=loader), 1)


def test_fewer_examples_than_a_global_batch_are_refused_while_the_last_one_is_dropped() -> None:
    words = (
        "the epoch has 7 examples",
        "global batch size is 8",
        "drop_last=True",
        "Lower global_batch_size to 7",
    )
    with refused(DataError, *words, "drop_last=False"):
        workers(lambda: train(data=examples(7)), 1)


def test_fewer_examples_than_virtual_nodes_train_where_the_last_batch_is_kept() -> None:
    def main() -> tuple[int, str]:
        run, model = start()
        steps = 0
        for step in run.steps(examples(3), drop_last=False):
            take_step(step, model)
            steps += 1
        return steps, run.digest()

    (alone,) = workers(main, 1)
    assert alone[0] == 1
    assert workers(main, 3) == [alone] * 3


@pytest.mark.parametrize("data", [[], 5, {"a": 1}, "text"])
def test_what_is_no_dataset_or_empty_is_refused(data: object) -> None:
    with refused(DataError, type(data).__name__):
        workers(lambda: train(data=data), 1)


def test_negative_epochs_are_refused_and_none_at_all_take_no_step() -> None:
    def main() -> None:
        run, _ = start()
        assert list(run.steps(examples(), epochs=0)) == []
        with refused(UsageError, "epochs is -1", "0 or more", "Pass"):
            run.steps(examples(), epochs=-1)

    workers(main, 1)


@pytest.mark.parametrize("value", [1.5, "2", None])
def test_a_number_of_times_steps_or_examples_that_is_not_whole_is_refused(value: object) -> None:
    def main() -> None:
        run, _ = start()
        for name in ("epochs", "first_step"):
            with refused(UsageError, f"{name} is {value!r}", "a whole number", "0 or more", "Pass"):
                run.steps(examples(), **{name: value})
        if value is not None:
            with refused(UsageError, f"batch_size is {value!r}", "at least 1 example", "leave it out"):
                run.evaluate(lambda x, y: {"a": 1.0}, examples(), batch_size=value)  # type: ignore[arg-type]

    workers(main, 1)


@pytest.mark.parametrize("weight", [-1, math.nan, math.inf, "3", torch.ones(2)])
def test_evaluate_refuses_the_weights_that_backward_refuses(weight: object) -> None:
    words = ("the weight of 'a'", "for batch 0 is", "0 or more", "Return the number of examples")
    with refused(UsageError, *words):
        workers(lambda: start()[0].evaluate(lambda x, y: {"a": (1.0, weight)}, examples()), 1)


def test_evaluate_refuses_a_name_that_some_batches_lack_and_leaves_out_those_of_weight_0() -> None:
    def main() -> dict[str, float]:
        run, _ = start()
        even = [(x, y.new_tensor(i)) for i, (x, y) in enumerate(examples())]
        words = ("returned 'a' for 6 of 12 batches", "not for batch 1", "over all of them", "weight 0")
        with refused(UsageError, *words):
            run.evaluate(lambda x, y: {"b": 1.0} | ({"a": 1.0} if y[0] % 4 == 0 else {}), even)
        return run.evaluate(lambda x, y: {"a": (y[0], 2) if y[0] % 4 == 0 else (math.nan, 0)}, even)

    for count in (1, 2):
        assert workers(main, count) == [{"a": 10.0}] * count


def test_values_of_evaluate_without_a_mean_have_none() -> None:
    def main() -> float:
        run, _ = start()
        return run.evaluate(lambda x, y: {"a": math.inf if y[0] % 2 else -math.inf}, examples())["a"]

    assert all(math.isnan(value) for value in workers(main, 2))


def test_evaluate_and_predict_refuse_what_they_cannot_count(tmp_path) -> None:
    class Sharded(Stream):
        def shard(self, v: int, n: int) -> "Sharded":
            return self

        def state_dict(self) -> dict[str, int]:
            return {}

        def load_state_dict(self, state: object) -> None:
            pass

    def main() -> None:
        run, _ = start()
        with refused(DataError, "an iterable source", "once, by its index", "map-style"):
            run.evaluate(lambda x, y: {"a": 1.0}, Sharded())
        with refused(UsageError, "returned a float", "scalars by name", "Return a dict"):
            run.evaluate(lambda x, y: 1.0, examples())  # type: ignore[arg-type,return-value]
        with refused(UsageError, "for 'loss'", "one number", "Reduce it"):
            run.evaluate(lambda x, y: {"loss": x}, examples())
        with refused(UsageError, "returned shape ()", "first axis", "one row for each"):
            run.predict(lambda x, y: x.sum(), examples())

    workers(main, 1)


def test_an_error_of_the_data_set_names_virtual_node_step_and_indices() -> None:
    class Bad(list):  # type: ignore[type-arg]
        def __getitem__(self, index: int) -> object:  # type: ignore[override]
            if index == 13:
                raise OSError("a bad file")
            return super().__getitem__(index)

    def main() -> None:
        run, model = start(Net())
        for step in run.steps(Bad(examples()), shuffle=False):
            take_step(step, model)

    with pytest.raises(OSError, match="a bad file") as caught:
        workers(main, 1)
    (note,) = caught.value.__notes__
    assert "virtual node 2 in step 1 of epoch 0" in note
    assert "12, 13" in note
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (
            lambda run: run.evaluate(5, examples()),
            ("run.evaluate was given 5 as its function", "the function first"),
        ),
        (
            lambda run: run.predict(5, examples()),
            ("run.predict was given 5 as its function", "the function first"),
        ),
        (
            lambda run: run.predict("model", examples(), out="never"),
            ("run.predict was given 'model' as its function", "the function first"),
        ),
        (
            lambda run: run.share({1, 2}),
            ("run.share was given {1, 2}, which JSON cannot hold", "for example a list"),
        ),
        (lambda run: run.path_for(5), ("run.path_for was given 5", "a text or a Path")),
    ],
)
def test_arguments_of_another_kind_are_refused_before_anything_is_written(
    wrong, words, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def main() -> None:
        run, _ = start()
        wrong(run)

    with refused(UsageError, *words):
        workers(main, 1)
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize("call", ["evaluate", "predict"])
def test_an_error_of_the_function_given_to_evaluate_or_predict_names_the_examples(call: str) -> None:
    def fail(x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        assert not (y == 3).any(), "no such class"
        return {"y": y if call == "predict" else y.mean()}

    def main() -> None:
        run, _ = start(Net())
        getattr(run, call)(fail, examples())

    with pytest.raises(AssertionError, match="no such class") as caught:
        workers(main, 1)
    (note,) = caught.value.__notes__
    assert "examples 2 to 3 of the source" in note
