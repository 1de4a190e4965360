"""Wrong use of models, optimizers, their update and buffers: a sentence each; and every rule for buffers at work."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from wrong_use import FEATURES, Net, examples, loss_of, refused, start, take_step, train, workers

import holdtrue as ht
from holdtrue.errors import DivergenceError, NumericsError, UsageError


def test_synchronised_batch_norm_is_refused_by_module_name_with_the_way_out() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(FEATURES, 2), torch.nn.SyncBatchNorm(2))
    with refused(NumericsError, "'1' is SyncBatchNorm", "all virtual nodes at once", "Use BatchNorm"):
        workers(lambda: start(model), 1)


def test_an_embedding_with_sparse_gradients_is_refused_by_module_name_with_the_way_out() -> None:
    model = torch.nn.Sequential(torch.nn.Embedding(5, 2, sparse=True))
    with refused(NumericsError, "'0' has sparse gradients", "dense", "sparse=False"):
        workers(lambda: start(model), 1)


@pytest.mark.parametrize("virtual_nodes", [1, 4])
def test_a_sparse_gradient_from_a_function_is_refused_by_parameter_name(virtual_nodes: int) -> None:
    class Looking(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Parameter(torch.ones(3, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.embedding((x[:, 0] > 0).long(), self.table, sparse=True).squeeze(-1)

    with refused(NumericsError, "'table' is sparse", "dense", "sparse=False"):
        workers(lambda: train(Looking(), virtual_nodes=virtual_nodes), 1)


def test_an_optimizer_over_parameters_of_no_prepared_model_is_refused() -> None:
    def main() -> None:
        run = ht.init(virtual_nodes=2, global_batch_size=4)
        model, other = Net(), Net()
        run.prepare(model, torch.optim.SGD([*model.parameters(), *other.parameters()], lr=0.1))
        run.steps(examples())

    words = (
        "optimizer 0 (SGD)",
        "2 parameter(s) of shape (1, 3), (1,)",
        "without being reduced",
        "Prepare the model",
    )
    with refused(UsageError, *words):
        workers(main, 1)


@pytest.mark.parametrize("norm", [-1.0, 0, math.nan, "1"])
def test_a_largest_norm_that_is_not_above_0_is_refused(norm: Any) -> None:
    def main() -> None:
        run, model = start()
        for step in run.steps(examples()):
            for batch in step:
                step.backward(loss_of(model, batch))
            step.update(max_grad_norm=norm)

    with refused(UsageError, f"max_grad_norm is {norm!r}", "above 0", "Leave it out"):
        workers(main, 1)


def test_gradients_cleared_after_the_passes_are_refused() -> None:
    def main(is_cleared: bool) -> None:
        run, model = start()
        for step in run.steps(examples()):
            for batch in step:
                step.backward(loss_of(model, batch))
            if is_cleared:
                model.zero_grad()
            step.update()

    with refused(
        UsageError, "no parameter of SGD has a gradient any more in step 0", "optimizer.zero_grad()"
    ):
        workers(lambda: main(True), 1)
    workers(lambda: main(False), 1)


def test_an_optimizer_for_which_the_passes_left_no_gradient_is_updated_all_the_same() -> None:
    def main() -> None:
        run, model = start()
        unused = torch.nn.Linear(2, 1)
        run.prepare(unused, torch.optim.SGD(unused.parameters(), lr=0.1))
        for step in run.steps(examples()):
            for batch in step:
                step.backward(loss_of(model, batch))
            unused.zero_grad()
            step.update()

    workers(main, 1)


def test_an_optimizer_that_was_not_prepared_is_refused_at_the_update() -> None:
    def main() -> None:
        run, model = start()
        other = torch.optim.Adam(model.parameters())
        for step in run.steps(examples()):
            for batch in step:
                step.backward(loss_of(model, batch))
            step.update(other)

    with refused(UsageError, "Adam that was not prepared", "lost on resume", "Pass it to run.prepare"):
        workers(main, 1)


def test_what_prepare_and_register_cannot_take_is_refused_with_the_way_out() -> None:
    def refusals() -> None:
        run, model = start()
        with refused(UsageError, "was given a list", "models, optimizers", "run.register"):
            run.prepare([1, 2])
        with refused(UsageError, "was given nothing", "models", "Pass them"):
            run.prepare()
        with refused(UsageError, "the same Net twice", "once", "Leave it out"):
            run.prepare(model)
        with refused(UsageError, "LBFGS", "once", "no closure"):
            run.prepare(torch.optim.LBFGS(model.parameters()))
        with refused(UsageError, "register('count'", "int without state_dict", "Give it these two methods"):
            run.register("count", 3)
        run.register("noise", torch.Generator())
        with refused(UsageError, "'noise' is registered already", "its own", "another"):
            run.register("noise", torch.Generator())
        for step in run.steps(examples()):
            take_step(step, model)
        with refused(UsageError, "prepare was called after the first run.steps", "fixed", "before"):
            run.prepare(Net())
        with refused(UsageError, "register('late') was called after the first run.steps", "fixed", "before"):
            run.register("late", torch.Generator())
        with refused(UsageError, "digest was asked for 'loss'", "'all' and 'weights'", "one of them"):
            run.digest("loss")

    workers(refusals, 1)


def test_steps_without_a_model_or_an_optimizer_are_refused() -> None:
    def main(*, has_model: bool) -> None:
        run = ht.init(virtual_nodes=2, global_batch_size=4)
        if has_model:
            run.prepare(Net())
        run.steps(examples())

    with refused(
        UsageError, "before a model was prepared", "trains a model", "run.prepare(model, optimizer)"
    ):
        workers(lambda: main(has_model=False), 1)
    with refused(UsageError, "before an optimizer was prepared", "through an optimizer", "run.prepare"):
        workers(lambda: main(has_model=True), 1)


# ---- replicas ----


def test_an_initial_model_that_differs_between_workers_is_refused_by_worker_and_tensor() -> None:
    seeds = iter((11, 12))

    def main() -> None:
        model = Net()
        with torch.no_grad():
            model.line.bias.normal_(generator=torch.Generator().manual_seed(next(seeds)))
        train(model)

    words = (
        "worker 1 differs from worker 0's before the first step",
        "weights/line.bias",
        "(1 of ",
        "every bit",
    )
    with refused(DivergenceError, *words, "without the run's seed", is_wrong_use=False):
        workers(main)


def test_a_replica_that_is_changed_by_one_worker_alone_stops_the_run_by_step_and_tensor(monkeypatch) -> None:
    monkeypatch.setenv("HOLDTRUE_DIGEST_EVERY", "1")

    def main() -> None:
        run, model = start()
        for step in run.steps(examples()):
            take_step(step, model)
            if step.index == 1 and not run.is_main:
                with torch.no_grad():
                    model.line.weight[0, 0] += 1e-6

    with refused(
        DivergenceError, "worker 1", "before step 2", "weights/line.weight", "every bit", is_wrong_use=False
    ):
        workers(main)


# ---- buffers ----


class Counted(Net):
    """A net with one buffer that each pass changes by a value of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += x.detach()[0, :2]
        return super().forward(x)


def test_a_buffer_that_passes_change_in_unlike_ways_is_refused_by_name_with_the_rules() -> None:
    for count in (1, 2, 3):
        with refused(
            NumericsError, "in step 0", "1 buffer(s)", "seen", "a rule", "buffers={'seen': RULE}", "per_node"
        ):
            workers(lambda: train(Counted()), count)


def test_a_buffer_that_appears_in_passes_with_unlike_values_is_refused_by_name() -> None:
    class Appearing(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.register_buffer("late", x.detach()[0].clone(), persistent=False)
            return super().forward(x)

    for count in (1, 2):
        with refused(NumericsError, "late", "a rule", "RULE"):
            workers(lambda: train(Appearing()), count)


def _first_examples(step: int) -> torch.Tensor:
    """Features 0 and 1 of the first example of each virtual node: 8 examples a step, 2 for each of 4."""
    return torch.stack([examples()[8 * step + 2 * v][0][:2] for v in range(4)])


def _expected(rule: str) -> torch.Tensor:
    seen = torch.zeros(2)
    for step in range(3):
        after = seen + _first_examples(step)
        if rule == "sum":
            seen = (seen.double() + (after.double() - seen.double()).sum(0)).float()
        elif rule == "mean":
            seen = after.double().mean(0).float()
        else:
            seen = {"max": after.amax(0), "min": after.amin(0), "first": after[0]}[rule]
    return seen


@pytest.mark.parametrize("rule", ["mean", "sum", "max", "min", "first"])
def test_a_rule_makes_one_value_of_what_passes_left_in_a_buffer(rule: str) -> None:
    def main() -> tuple[list[float], str]:
        run, model = start(Counted(), buffers={"se*": rule})
        for step in run.steps(examples(), shuffle=False):
            take_step(step, model)
        return model.seen.tolist(), run.digest()

    (alone,) = workers(main, 1)
    torch.testing.assert_close(torch.tensor(alone[0]), _expected(rule), rtol=1e-6, atol=1e-6)
    for mapping in ("0-1/2-3", "3/0,2/1", "0-3/"):
        assert set(map(str, workers(main, mapping=mapping))) == {str(alone)}


def test_a_buffer_per_node_is_each_virtual_nodes_own_from_step_to_step() -> None:
    def main() -> tuple[dict[int, list[float]], str]:
        found: dict[int, list[float]] = {}
        run, model = start(Counted(), buffers={"seen": "per_node"})
        order = {tuple(x.tolist()): i for i, (x, _) in enumerate(examples())}
        for step in run.steps(examples(), shuffle=False):
            for x, y in step:
                node = order[tuple(x[0].tolist())] % 8 // 2
                step.backward(loss_of(model, (x, y)))
                found[node] = model.seen.tolist()
            step.update()
        return found, run.digest()

    ((alone, digest),) = workers(main, 1)
    own = sum(_first_examples(step) for step in range(3))
    torch.testing.assert_close(torch.tensor([alone[v] for v in range(4)]), own)
    for mapping in ("0-1/2-3", "3/0,2/1"):
        results = workers(main, mapping=mapping)
        merged = {v: value for found, _ in results for v, value in found.items()}
        assert merged == alone
        assert {other for _, other in results} == {digest}


def test_a_buffer_per_node_survives_a_resume_on_another_number_of_workers(tmp_path, monkeypatch) -> None:
    def main(folder: str) -> str:
        run, model = start(Counted(), buffers={"seen": "per_node"}, run_dir=folder)
        for step in run.steps(examples(), epochs=2):
            take_step(step, model)
        digest = run.digest()
        run.close()
        return digest

    (whole,) = workers(lambda: main(str(tmp_path / "whole")), 1)
    folder = tmp_path / "cut"
    monkeypatch.setenv("HOLDTRUE_MAX_STEPS", "4")
    assert workers(lambda: main(str(folder)), 2) != [whole] * 2
    monkeypatch.delenv("HOLDTRUE_MAX_STEPS")
    monkeypatch.setenv("HOLDTRUE_RESUME", "1")
    assert workers(lambda: main(str(folder)), 3) == [whole] * 3
