"""Wrong use of the loop: a sentence each; and what a loss that is not a number does."""

import math

import pytest
import torch
from wrong_use import Net, examples, loss_of, refused, start, take_step, train, workers

import holdtrue as ht
from holdtrue.errors import CallMismatchError, HoldtrueError, NonFiniteError, UsageError, WorkerLostError
from holdtrue.record import read_run

# ---- passes and updates ----


def test_a_second_backward_in_a_pass_is_refused_by_virtual_node_and_step() -> None:
    def main() -> None:
        run, model = start()
        for step in run.steps(examples()):
            for batch in step:
                step.backward(loss_of(model, batch))
                if step.index == 1:
                    step.backward(loss_of(model, batch))
            step.update()

    with refused(UsageError, "twice in the pass of virtual node 0 (step 1)", "one loss", "Add the losses"):
        workers(main, 1)


def test_a_pass_without_backward_is_refused_by_virtual_node_and_step() -> None:
    def main() -> None:
        run, model = start()
        for step in run.steps(examples()):
            for i, batch in enumerate(step):
                if i != 3:
                    step.backward(loss_of(model, batch))
            step.update()

    words = ("virtual node 3 in step 0 ended without step.backward", "left out", "not loss.backward()")
    with refused(UsageError, *words):
        workers(main, 1)


def test_backward_outside_a_pass_is_refused() -> None:
    def main() -> None:
        run, model = start()
        for step in run.steps(examples()):
            step.backward(model.line.weight.sum())

    with refused(UsageError, "step.backward came outside a pass", "into the loop", "for x, y in step"):
        workers(main, 1)


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda loss: loss.detach(), "a tensor of shape ()"),
        (lambda loss: loss.repeat(2), "a tensor of shape (2,)"),
        (lambda loss: loss.item(), "a float"),
    ],
)
def test_a_loss_that_is_not_one_number_with_a_gradient_is_refused(loss, words: str) -> None:
    def main() -> None:
        run, model = start()
        for step in run.steps(examples()):
            for batch in step:
                step.backward(loss(loss_of(model, batch)))

    with refused(UsageError, words, "step 0", "one number with a gradient", "Pass the mean loss"):
        workers(main, 1)


@pytest.mark.parametrize(
    ("weight", "shown"),
    [
        (-1, "-1"),
        (math.nan, "nan"),
        (math.inf, "inf"),
        ("3", "'3'"),
        (torch.tensor(-2.0), "-2.0"),
        (torch.ones(2), "a tensor of shape (2,)"),
    ],
)
def test_a_weight_that_is_no_number_of_items_is_refused(weight: object, shown: str) -> None:
    def main() -> None:
        run, model = start()
        for step in run.steps(examples()):
            for batch in step:
                step.backward(loss_of(model, batch), weight=weight)  # type: ignore[arg-type]

    with refused(
        UsageError,
        f"weight of virtual node 0 in step 0 is {shown};",
        "0 or more",
        "Pass the number of examples",
    ):
        workers(main, 1)


@pytest.mark.parametrize(
    ("value", "shown"), [("x", "'x'"), (torch.ones(3), "a tensor of shape (3,)"), (None, "None"), (1j, "1j")]
)
def test_what_is_not_one_number_is_neither_added_nor_logged(value: object, shown: str) -> None:
    def main(*, is_logged: bool) -> None:
        run, model = start()
        for step in run.steps(examples()):
            for batch in step:
                step.backward(loss_of(model, batch))
                step.sum(right=torch.ones(1), b=True)
                if not is_logged:
                    step.sum(a=value)  # type: ignore[arg-type]
            step.update()
            run.log(right=torch.ones(1), a=value)

    for call, is_logged in (("step.sum", False), ("run.log", True)):
        with refused(UsageError, f"{call} was given {shown} for 'a'", "one element", "Pass one number"):
            workers(lambda is_logged=is_logged: main(is_logged=is_logged), 1)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("run.steps", lambda run: run.steps(examples())),
        ("run.evaluate", lambda run: run.evaluate(lambda x, y: {"a": 1.0}, examples())),
        ("run.predict", lambda run: run.predict(lambda x, y: x, examples())),
        ("run.share", lambda run: run.share(1)),
    ],
)
def test_a_call_after_close_is_refused_and_what_is_here_can_still_be_read(name: str, call) -> None:
    def main() -> None:
        run, model = start()
        for step in run.steps(examples()):
            take_step(step, model)
        before = run.digest()
        run.close()
        with refused(UsageError, f"{name} came after run.close", "left its group", "holdtrue.init"):
            call(run)
        assert run.digest() == before

    workers(main)


def test_a_loop_that_goes_on_after_close_is_refused() -> None:
    def main() -> None:
        run, model = start()
        for step in run.steps(examples()):
            take_step(step, model)
            run.close()

    with refused(UsageError, "came after run.close", "left its group", "Close the run after it"):
        workers(main, 1)


@pytest.mark.parametrize("path", [5, "", "."])
def test_a_model_is_saved_to_the_path_of_a_file(path: object) -> None:
    with refused(UsageError, f"run.save was given {path!r}", "the path of a file", "model.safetensors"):
        workers(lambda: start()[0].save(path), 1)  # type: ignore[arg-type]


def test_an_update_before_the_passes_or_among_them_or_twice_is_refused() -> None:
    def before() -> None:
        run, _ = start()
        for step in run.steps(examples()):
            step.update()

    def among() -> None:
        run, model = start()
        for step in run.steps(examples()):
            for batch in step:
                step.backward(loss_of(model, batch))
                step.update()

    def twice() -> None:
        run, model = start()
        for step in run.steps(examples()):
            take_step(step, model)
            step.update()

    def after_break() -> None:
        run, model = start()
        for step in run.steps(examples()):
            for batch in step:
                step.backward(loss_of(model, batch))
                break
            step.update()

    rule = ("whole global batch", "without break")
    with refused(UsageError, "before its passes in step 0", *rule):
        workers(before, 1)
    with refused(UsageError, "in the middle of its passes in step 0", *rule):
        workers(among, 1)
    with refused(UsageError, "again without passes in between in step 0", *rule):
        workers(twice, 1)
    with refused(UsageError, "in the middle of its passes in step 0", *rule):
        workers(after_break, 1)


@pytest.mark.parametrize("where", ["in a pass", "before the update", "after the update"])
def test_an_optimizers_own_step_in_a_step_is_refused_and_outside_of_steps_it_is_the_scripts(
    where: str,
) -> None:
    def main() -> None:
        run = ht.init(virtual_nodes=4, global_batch_size=8)
        model = Net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        run.prepare(model, optimizer)
        optimizer.step()
        for step in run.steps(examples()):
            for batch in step:
                step.backward(loss_of(model, batch))
                if where == "in a pass" and step.index == 1:
                    optimizer.step()
            if where == "before the update" and step.index == 1:
                optimizer.step()
            step.update()
            if where == "after the update" and step.index == 1:
                optimizer.step()

    with refused(
        UsageError, "SGD.step() was called in step 1", "whole global batch", "Leave optimizer.step() out"
    ):
        workers(main)


@pytest.mark.parametrize("where", ["before the update", "after the update", "between the steps", "by metric"])
def test_a_schedulers_own_step_in_a_step_is_refused_and_outside_of_steps_it_is_the_scripts(
    where: str,
) -> None:
    def main() -> None:
        run = ht.init(virtual_nodes=4, global_batch_size=8)
        model = Net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=50)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        run.prepare(model, optimizer, schedule, plateau)
        for _ in range(2):
            for step in run.steps(examples()):
                for batch in step:
                    step.backward(loss_of(model, batch))
                if where == "before the update" and step.index == 1:
                    schedule.step()
                step.update()
                if where == "after the update" and step.index == 1:
                    schedule.step()
                if where == "by metric":
                    plateau.step(step.loss)
            if where == "between the steps":
                schedule.step()

    if where in ("between the steps", "by metric"):
        workers(main, 1)
        return
    with refused(
        UsageError, "LinearLR.step() was called in step 1", "twice as fast", "Leave scheduler.step() out"
    ):
        workers(main)


def test_two_loops_over_the_passes_of_one_step_without_update_are_refused() -> None:
    def main() -> None:
        run, model = start()
        for step in run.steps(examples()):
            for batch in step:
                step.backward(loss_of(model, batch))
            for batch in step:
                step.backward(loss_of(model, batch))

    with refused(UsageError, "a second loop over step 0", "added to the first", "Call step.update"):
        workers(main, 1)


def test_values_of_the_whole_step_are_refused_before_its_passes_are_done() -> None:
    def main() -> None:
        run, model = start()
        for step in run.steps(examples()):
            for name in ("loss", "totals"):
                with refused(UsageError, f"step.{name} was read in step", "whole step", "after the"):
                    getattr(step, name)
            with refused(UsageError, "step.sum came outside a pass", "into the loop", "for x, y in step"):
                step.sum(a=1)
            take_step(step, model)

    workers(main, 1)


def test_evaluate_predict_and_steps_within_the_passes_are_refused() -> None:
    def main() -> None:
        run, model = start()
        for step in run.steps(examples()):
            for batch in step:
                for name, call in (
                    ("evaluate", lambda: run.evaluate(lambda x, y: {"a": 1.0}, examples())),
                    ("predict", lambda: run.predict(lambda x, y: x, examples())),
                    ("steps", lambda: run.steps(examples())),
                ):
                    with refused(
                        UsageError, f"run.{name} was called", "step 0", "every worker makes it once", "after"
                    ):
                        call()
                step.backward(loss_of(model, batch))
            step.update()
            break

    workers(main, 1)


def test_a_loop_over_steps_within_another_is_refused() -> None:
    def main() -> None:
        run, model = start()
        for step in run.steps(examples()):
            take_step(step, model)
            for inner in run.steps(examples()):
                take_step(inner, model)

    with refused(
        UsageError, "run.steps (call 1) began while another", "position of a run is one", "Let the first"
    ):
        workers(main, 1)


# ---- a step left without its update ----

LEFT = ("without step.update", "its gradient would be lost", "Call step.update")


@pytest.mark.parametrize("at", [0, 2])
def test_a_step_left_without_update_is_refused_the_last_one_too(at: int) -> None:
    def main() -> None:
        run, model = start()
        for step in run.steps(examples()):
            for batch in step:
                step.backward(loss_of(model, batch))
            if step.index != at:
                step.update()

    with refused(UsageError, f"step {at} was left", *LEFT):
        workers(main, 1)


def test_a_step_left_without_its_passes_is_refused() -> None:
    def main() -> None:
        run, _ = start()
        for _step in run.steps(examples()):
            pass

    with refused(UsageError, "step 0 was left", *LEFT):
        workers(main, 1)


@pytest.mark.parametrize("call", ["steps", "evaluate", "predict", "digest", "save", "close"])
def test_a_loop_left_by_break_with_an_open_step_is_refused_by_the_next_call(call: str, tmp_path) -> None:
    def main() -> None:
        run, model = start()
        for step in run.steps(examples()):
            for batch in step:
                step.backward(loss_of(model, batch))
            break
        {
            "steps": lambda: run.steps(examples()),
            "evaluate": lambda: run.evaluate(lambda x, y: {"a": 1.0}, examples()),
            "predict": lambda: run.predict(lambda x, y: x, examples()),
            "digest": run.digest,
            "save": lambda: run.save(str(tmp_path / "model.safetensors")),
            "close": run.close,
        }[call]()

    with refused(UsageError, "step 0 was left", *LEFT):
        workers(main, 1)


def test_a_loop_left_by_break_after_an_update_or_before_any_pass_goes_on_counting() -> None:
    def main(*, breaks_before: bool) -> tuple[list[int], str]:
        seen = []
        run, model = start()
        for step in run.steps(examples()):
            if breaks_before and step.index == 2:
                break
            take_step(step, model)
            seen.append(step.index)
            if not breaks_before and step.index == 1:
                break
        for step in run.steps(examples()):
            take_step(step, model)
            seen.append(step.index)
        return seen, run.digest()

    ((seen, digest),) = workers(lambda: main(breaks_before=False), 1)
    assert seen == [0, 1, 2, 3, 4]
    assert workers(lambda: main(breaks_before=True), 2) == [(seen, digest)] * 2


# ---- one worker alone ----


def test_one_worker_leaving_the_loop_alone_is_an_error_that_names_both() -> None:
    def leaves(*, rank: int, then_evaluates: bool) -> None:
        run, model = start()
        for step in run.steps(examples()):
            take_step(step, model)
            if step.index == 1 and run.is_main == (rank == 0):
                break
        if then_evaluates:
            run.evaluate(lambda x, y: {"a": 1.0}, examples())

    for rank in (0, 1):
        words = ("worker 0", "worker 1", "same calls in the same order")
        with refused(CallMismatchError, *words, is_wrong_use=False):
            workers(lambda rank=rank: leaves(rank=rank, then_evaluates=True))
        with pytest.raises(WorkerLostError, match=f"worker {rank} left before"):
            workers(lambda rank=rank: leaves(rank=rank, then_evaluates=False))


def test_workers_at_unlike_calls_are_named_with_their_calls() -> None:
    def main() -> None:
        run, model = start()
        if run.is_main:
            run.evaluate(lambda x, y: {"a": 1.0}, examples())
        for step in run.steps(examples()):
            take_step(step, model)

    words = (
        "worker 0 and worker 1 differ in kind",
        "'evaluate' and 'steps'",
        "same order",
        "same everywhere",
    )
    with refused(CallMismatchError, *words, is_wrong_use=False):
        workers(main)


def test_one_worker_that_asks_to_stop_stops_all_at_the_same_step() -> None:
    def main() -> tuple[int, str]:
        run, model = start()
        steps = 0
        for _epoch in range(3):
            for step in run.steps(examples()):
                take_step(step, model)
                steps += 1
                if step.index == 1 and not run.is_main:
                    run.stop("seen enough")
        return steps, run.digest()

    results = workers(main)
    assert results == [results[0]] * 2
    assert results[0][0] == 3


# ---- losses that are not finite ----


def _with_bad_example(value: float) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Example 13 is virtual node 2's in step 1."""
    data = examples()
    data[13] = (data[13][0], torch.tensor(value))
    return data


def _train_on(data: object, **init: object) -> tuple[list[float], str, str]:
    run, model = start(torch.nn.Sequential(torch.nn.BatchNorm1d(3), Net()), **init)
    losses, weights = [], ""
    for step in run.steps(data, shuffle=False):
        take_step(step, model)
        losses.append(step.loss)
        weights += run.digest("weights")[:8] + " "
    digest = run.digest()
    run.close()
    return losses, weights, digest


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(("value", "shown"), [(math.nan, "nan"), (math.inf, "inf")])
def test_a_loss_that_is_not_finite_stops_the_run_by_step_and_virtual_node(count, value, shown) -> None:
    words = (
        f"the loss of step 1 is {shown} in virtual node 2",
        "stops there",
        "--non-finite skip",
        "--non-finite allow",
    )
    with refused(NonFiniteError, *words, is_wrong_use=False):
        workers(lambda: _train_on(_with_bad_example(value)), count)


def test_a_stop_at_a_loss_that_is_not_finite_changes_no_weight() -> None:
    kept: list[str] = []

    def main() -> None:
        run, model = start()
        try:
            for step in run.steps(_with_bad_example(math.nan), shuffle=False):
                take_step(step, model)
                kept.append(run.digest("weights"))
        finally:
            kept.append(run.digest("weights"))

    with pytest.raises(HoldtrueError):
        workers(main, 1)
    assert len(kept) == 2
    assert kept[0] == kept[1]


def test_skip_leaves_such_an_update_out_and_the_buffers_as_they_were(monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.setenv("HOLDTRUE_NON_FINITE", "skip")
    data = _with_bad_example(math.nan)
    data[12] = (torch.full((3,), math.nan), data[12][1])
    folder = tmp_path / "run"
    (alone,) = workers(lambda: _train_on(data, run_dir=str(folder)), 1)
    losses, weights, _ = alone
    assert [math.isnan(loss) for loss in losses] == [False, True, False]
    first, second, third = weights.split()
    assert first == second != third
    assert "the loss of step 1 is nan in virtual node 2; the update is left out." in capsys.readouterr().err
    assert [e.step for e in read_run(folder).events if e.kind == "skipped"] == [1]
    for mapping in ("0-1/2-3", "2/0,3/1"):
        again = workers(lambda: _train_on(data), mapping=mapping)
        assert {(w, d) for _, w, d in again} == {(weights, alone[2])}


def test_allow_goes_on_with_what_came_out(monkeypatch) -> None:
    monkeypatch.setenv("HOLDTRUE_NON_FINITE", "allow")
    (alone,) = workers(lambda: _train_on(_with_bad_example(math.nan)), 1)
    assert [math.isnan(loss) for loss in alone[0]] == [False, True, True]
    for _, weights, digest in workers(lambda: _train_on(_with_bad_example(math.nan)), 2):
        assert (weights, digest) == alone[1:]


def test_a_loss_that_is_not_finite_does_not_count_where_its_weight_is_0() -> None:
    def main() -> list[float]:
        run, model = start()
        losses = []
        for step in run.steps(_with_bad_example(math.nan), shuffle=False):
            for x, y in step:
                step.backward(loss_of(model, (x, y)), weight=0 if torch.isnan(y).any() else len(y))
            step.update()
            losses.append(step.loss)
        return losses

    (alone,) = workers(main, 1)
    assert all(map(math.isfinite, alone))
    assert workers(main, 2) == [alone] * 2


def test_the_right_loop_is_right() -> None:
    (alone,) = workers(train, 1)
    assert workers(train, 3) == [alone] * 3
    assert ht.Plan(virtual_nodes=4, global_batch_size=8).unit == 2.0
