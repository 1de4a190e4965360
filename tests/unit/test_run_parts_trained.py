"""What a script trains, freezes, averages or steps beside the plain loop: the same bits everywhere, or a sentence."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from wrong_use import Net, examples, loss_of, refused, start, take_step, workers

import holdtrue as ht
from holdtrue.errors import CheckpointError, NumericsError, UsageError
from holdtrue.run import Run
from holdtrue.testing import run_in_process

MAPPINGS = ("0-1/2-6", "0,3,5/1,6/2,4")
X = torch.randn(45, 6, generator=torch.Generator().manual_seed(1))
DATA = torch.utils.data.TensorDataset(X, X.argmax(-1))


def begin(*modules: nn.Module, lr: float = 0.1) -> tuple[Run, list[torch.optim.Optimizer]]:
    """A run of 7 virtual nodes, with an optimizer for each of the models."""
    run = ht.init(virtual_nodes=7, global_batch_size=15, seed=3)
    optimizers = [torch.optim.SGD(m.parameters(), lr=lr) for m in modules]
    run.prepare(*modules, *optimizers)
    return run, optimizers


def is_equal_on_every_mapping(main: Callable[[], list[str]]) -> list[str]:
    """What `main` returns on one worker; it must be the same on every worker of every mapping."""
    (alone,) = run_in_process(main)
    for mapping in MAPPINGS:
        assert all(found == alone for found in run_in_process(main, mapping=mapping))
    return alone


@pytest.mark.parametrize("order", ["maker first", "judge first"])
def test_models_that_are_frozen_in_each_others_rounds_have_the_same_bits_on_every_mapping(order: str) -> None:
    def main() -> list[str]:
        torch.manual_seed(0)
        maker, judge = nn.Linear(4, 6), nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1))
        run, (of_maker, of_judge) = begin(maker, judge)
        rounds = [(maker, judge, of_maker), (judge, maker, of_judge)]
        digests = []
        for step in run.steps(DATA, epochs=2):
            for trained, frozen, optimizer in rounds if order == "maker first" else rounds[::-1]:
                trained.requires_grad_(True)
                frozen.requires_grad_(False)
                before = [p.clone() for p in (*trained.parameters(), *frozen.parameters())]
                for x, _ in step:
                    fake = judge(maker(torch.randn(len(x), 4)))
                    sign = 1 if trained is judge else -1
                    step.backward(F.softplus(sign * fake).mean() + F.softplus(-judge(x)).mean())
                step.update(optimizer)
                after = [*trained.parameters(), *frozen.parameters()]
                moved = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
                assert moved == [p.requires_grad for p in after]
            digests.append(run.digest())
        return digests

    is_equal_on_every_mapping(main)


def test_a_layer_that_is_thawed_in_a_pass_is_refused_at_the_update() -> None:
    def main() -> None:
        run, model = start()
        model.requires_grad_(False)
        model.line.bias.requires_grad_(True)
        for step in run.steps(examples()):
            for batch in step:
                model.requires_grad_(True)
                step.backward(loss_of(model, batch))
            step.update()

    with refused(UsageError, "'line.weight' has a gradient in step 0", "frozen", "Thaw it"):
        workers(main, 1)


def test_a_parameter_of_no_model_that_comes_to_an_optimizer_in_mid_run_is_refused_at_the_update() -> None:
    def main() -> None:
        model = nn.Linear(6, 6)
        run, (optimizer,) = begin(model)
        shift = nn.Parameter(torch.zeros(1))
        for step in run.steps(DATA):
            if step.index == 1:
                optimizer.add_param_group({"params": [shift]})
            for x, y in step:
                step.backward(F.cross_entropy(model(x), y) + shift.square().sum())
            step.update()

    with refused(
        UsageError, "of shape (1,) has a gradient in step 1", "in no prepared model", "to its model"
    ):
        workers(main, 1)


@pytest.mark.parametrize("where", ["after the update", "in a pass", "registered", "on the side"])
def test_a_step_of_an_optimizer_that_was_not_prepared_is_refused_but_where_it_is_the_scripts(
    where: str,
) -> None:
    def main() -> None:
        run, model = start()
        shift = nn.Parameter(torch.zeros(1))
        own = torch.optim.Adam([shift], lr=0.1)
        if where == "registered":
            run.register("own", own)
        for step in run.steps(examples()):
            for batch in step:
                step.backward(
                    loss_of(model, batch) + (0.0 if where == "on the side" else shift.square().sum())
                )
                if where == "in a pass":
                    own.step()
            step.update()
            if where == "on the side":
                shift.square().sum().backward()
            if where != "in a pass":
                own.step()

    if where == "after the update":
        with refused(
            UsageError,
            "Adam.step() was called in step 1",
            "was not prepared",
            "the passes of step 1",
            "run.prepare",
        ):
            workers(main, 1)
    else:
        workers(main, 1)


class Counts(nn.Module):
    """Its output depends on how often it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(6, 6)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("last", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            self.calls += 1
            self.last = self.last + 1.0
        return self.line(x) * (1 + 0.1 * self.calls + self.last)


def test_what_passes_of_an_evaluation_do_to_buffers_is_not_left_behind() -> None:
    def main() -> list[str]:
        torch.manual_seed(0)
        model = Counts()
        run, _ = begin(model)
        average = torch.optim.swa_utils.AveragedModel(nn.Sequential(model, nn.BatchNorm1d(6)))
        run.register("average", average)
        last = model.last
        found = []
        for step in run.steps(DATA):
            for x, y in step:
                step.backward(F.cross_entropy(model(x), y))
            step.update()
            scores = run.evaluate(
                lambda x, y: {"a": F.cross_entropy(model(x), y), "b": F.cross_entropy(average(x), y)}, DATA
            )
            assert (model.training, average.training, model.last is last) == (True, True, True)
            found += [run.digest(), str(scores)]
        return found

    is_equal_on_every_mapping(main)


def test_statistics_of_a_registered_teacher_that_runs_in_passes_are_the_same_on_every_mapping() -> None:
    def main() -> list[str]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6))
        teacher = copy.deepcopy(model).requires_grad_(False)
        run, _ = begin(model)
        run.register("teacher", teacher)
        digests = []
        for step in run.steps(DATA):
            for x, y in step:
                step.backward(F.cross_entropy(model(x), y) + F.mse_loss(model(x), teacher(x)))
            step.update()
            assert int(teacher[1].num_batches_tracked) == step.index + 1
            digests.append(run.digest())
        return digests

    is_equal_on_every_mapping(main)


def test_a_parameter_group_that_a_loop_adds_is_missed_by_a_sentence_when_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def main() -> None:
        model = Net()
        model.late = nn.Linear(2, 2)
        optimizer = torch.optim.SGD(model.line.parameters(), lr=0.1)
        run = ht.init(virtual_nodes=4, global_batch_size=8, run_dir=str(tmp_path / "run"))
        run.prepare(model, optimizer)
        for step in run.steps(examples(), epochs=2):
            if step.index == 1:
                optimizer.add_param_group({"params": model.late.parameters()})
            take_step(step, model)
        run.close()

    monkeypatch.setenv("HOLDTRUE_MAX_STEPS", "3")
    workers(main, 1)
    monkeypatch.delenv("HOLDTRUE_MAX_STEPS")
    monkeypatch.setenv("HOLDTRUE_RESUME", "1")
    with refused(
        CheckpointError, "the SGD of the script", "parameter groups", "before run.steps", is_wrong_use=False
    ):
        workers(main, 1)


class Grows(nn.Module):
    """Makes its second layer when it first runs."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(6, 6)
        self.more: nn.Module | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.more = self.more or nn.Linear(6, 6)
        return self.more(self.line(x))


class Bounded(nn.Module):
    """An embedding that shortens the rows that it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(6, 6, max_norm=0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.table(x.argmax(-1))


@pytest.mark.parametrize("where", ["step", "evaluate"])
@pytest.mark.parametrize(
    ("model", "what"), [(Grows, "made parameter 'more"), (Bounded, "changed parameter 'table.weight'")]
)
def test_a_pass_that_makes_or_changes_a_parameter_is_refused_by_name(
    model: type[nn.Module], what: str, where: str
) -> None:
    def main() -> None:
        net = model()
        run, _ = begin(net)
        if where == "evaluate":
            run.evaluate(lambda x, y: {"loss": F.cross_entropy(net(x), y)}, DATA)
        for step in run.steps(DATA):
            for x, y in step:
                step.backward(F.cross_entropy(net(x), y))
            step.update()

    place = "in step 0" if where == "step" else "of evaluate or predict"
    with refused(NumericsError, place, what, ";", "before run.steps", "max_norm"):
        workers(main, 1)


def test_an_average_that_moves_in_the_loop_over_passes_is_refused() -> None:
    def main() -> None:
        model = nn.Linear(6, 6)
        run, _ = begin(model)
        average = torch.optim.swa_utils.AveragedModel(model)
        run.register("average", average)
        for step in run.steps(DATA):
            for x, y in step:
                step.backward(F.cross_entropy(model(x), y))
                average.update_parameters(model)
            step.update()

    with refused(NumericsError, "changed parameter 'registered.average.module.weight'", ";", "step.update"):
        workers(main, 1)


def test_models_without_values_and_optimizers_that_need_a_closure_are_refused() -> None:
    class Needs(torch.optim.SGD):
        def step(self, closure: Callable[[], float]) -> None:  # type: ignore[override]
            super().step(closure)

    def main() -> None:
        run, model = start()
        with torch.device("meta"):
            empty = nn.Linear(2, 2)
        with refused(UsageError, "'weight' lies on the meta device", "values", "to_empty"):
            run.prepare(empty)
        with refused(UsageError, "given Needs", "once", "no closure"):
            run.prepare(Needs(model.parameters()))
        scheduled = torch.optim.SGD(model.parameters())
        torch.optim.lr_scheduler.ExponentialLR(scheduled, 0.9)
        run.prepare(scheduled, nn.LazyLinear(2))
        with refused(UsageError, "'1.weight' of a lazy module", "equal", "Call the model"):
            run.steps(examples())

    workers(main, 1)
