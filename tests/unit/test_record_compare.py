"""Where two runs part."""

import math
from dataclasses import replace

from holdtrue.plan import Plan
from holdtrue.record import (
    Comparison,
    Conflict,
    DigestRecord,
    EventRecord,
    RunRecord,
    StepRecord,
    compare_runs,
)

PLAN = Plan(virtual_nodes=3, global_batch_size=6)
ENTRIES = {
    "weights/layer.2.bias": "a",
    "weights/layer.10.bias": "b",
    "buffers/mean": "c",
    "optimizer/0/x/exp_avg": "d",
    "position/epoch": "e",
}


def run(steps: int = 4, *, name: str = "A", traced: bool = True, every: int = 1) -> RunRecord:
    """A run of `steps` steps with a digest after every `every` of them, and before the first."""
    lines = {
        i: StepRecord(step=i, epoch=0, loss=1.0 / (i + 1), seconds=0.1, generation=0) for i in range(steps)
    }
    digests = {
        i: DigestRecord(
            step=i,
            digest=f"digest {i}",
            entries=ENTRIES,
            losses=(0.5, None, 0.25) if traced and i >= 0 else None,
            inputs=("x", None, "z") if traced and i >= 0 else None,
        )
        for i in (-1, *range(every - 1, steps, every))
    }
    return RunRecord(
        name=name, plan=PLAN, environment={"torch": {"threads": 1}}, steps=lines, digests=digests
    )


def part_at(
    record: RunRecord,
    step: int,
    *,
    names: tuple[str, ...] = ("weights/layer.10.bias",),
    inputs: tuple[str | None, ...] | None = None,
    losses: tuple[float | None, ...] | None = None,
) -> RunRecord:
    """The run with other state from `step` on, and other traces at `step`."""
    digests = {
        i: line
        if i < step
        else replace(line, digest="other", entries={**line.entries, **dict.fromkeys(names, "!")})
        for i, line in record.digests.items()
    }
    if inputs is not None:
        digests[step] = replace(digests[step], inputs=inputs)
    if losses is not None:
        digests[step] = replace(digests[step], losses=losses)
    return replace(record, name="B", digests=digests)


def with_loss(record: RunRecord, step: int, loss: float | None) -> RunRecord:
    return replace(record, name="B", steps={**record.steps, step: replace(record.steps[step], loss=loss)})


def text(comparison: Comparison) -> str:
    return " ".join(comparison.sentences)


def test_equal_runs_are_said_to_be_equal_with_what_was_compared() -> None:
    comparison = compare_runs(run(), run(name="B"))
    assert comparison.equal
    assert comparison.sentences == ("The runs are equal: 4 losses and 4 digests of the state.",)
    assert (comparison.first_step, comparison.entries, comparison.phase) == (None, (), None)
    one = replace(run(), steps={0: run().steps[0]}, digests={0: run().digests[0]})
    assert text(compare_runs(one, one)) == "The runs are equal: 1 loss and 1 digest of the state."


def test_the_first_step_and_the_first_entries_are_named_in_the_order_of_families_and_numbers() -> None:
    names = (
        "position/epoch",
        "optimizer/0/x/exp_avg",
        "weights/layer.10.bias",
        "weights/layer.2.bias",
        "own/new",
    )
    comparison = compare_runs(run(), part_at(run(), 2, names=names))
    assert not comparison.equal
    assert comparison.first_step == 2
    assert comparison.entries == (
        "weights/layer.2.bias",
        "weights/layer.10.bias",
        "optimizer/0/x/exp_avg",
        "position/epoch",
        "own/new",
    )
    assert comparison.sentences[0] == "The training state after step 2 is the first that differs."
    assert "5 entries of the training state differ after step 2: weights/layer.2.bias," in text(comparison)


def test_many_entries_are_counted_and_the_first_five_named() -> None:
    names = tuple(f"weights/{i}" for i in range(12))
    sentences = text(compare_runs(run(), part_at(run(), 0, names=names)))
    assert "12 entries of the training state differ after step 0: weights/0, weights/1, " in sentences
    assert "weights/4 and 7 more." in sentences


def test_other_inputs_point_at_the_data() -> None:
    other = part_at(run(), 1, inputs=("x", None, "?"), losses=(0.5, None, 9.0))
    comparison = compare_runs(run(), other)
    assert (comparison.phase, comparison.virtual_node) == ("inputs", 2)
    assert (
        "Virtual node 2 is the first that differs. The inputs differ: look at the order of the data"
        in text(comparison)
    )


def test_equal_inputs_and_another_loss_point_at_the_forward_pass() -> None:
    comparison = compare_runs(run(), part_at(run(), 1, losses=(0.5, None, 0.75)))
    assert (comparison.phase, comparison.virtual_node) == ("forward", 2)
    assert "look at the forward pass" in text(comparison)


def test_equal_losses_and_another_state_point_at_backward_and_update() -> None:
    comparison = compare_runs(run(), part_at(run(), 1))
    assert (comparison.phase, comparison.virtual_node) == ("update", None)
    assert "look at the backward pass" in text(comparison)


def test_a_virtual_node_that_is_absent_in_one_run_differs() -> None:
    comparison = compare_runs(run(), part_at(run(), 1, inputs=("x", "y", "z")))
    assert (comparison.phase, comparison.virtual_node) == ("inputs", 1)


def test_other_initial_states_are_told_apart_from_the_steps() -> None:
    comparison = compare_runs(run(), part_at(run(), -1))
    assert (comparison.first_step, comparison.phase) == (-1, "initial")
    assert "The models were different before the first step: look at the code before run.prepare" in text(
        comparison
    )
    assert "differs before the first step: weights/layer.10.bias" in text(comparison)


def test_without_digests_at_every_step_the_interval_of_the_cause_is_given() -> None:
    a, b = run(8, every=4, traced=False), part_at(with_loss(run(8, every=4, traced=False), 6, 0.5), 7)
    comparison = compare_runs(a, b)
    assert comparison.first_step == 6
    assert comparison.phase is None
    assert comparison.sentences[0].startswith(
        "The loss of step 6 is the first that differs: 0.14285714285714285 "
    )
    assert "last seen equal after step 3: the cause lies between" in text(comparison)
    assert "were not traced" in text(comparison)


def test_without_an_equal_state_before_it_an_earlier_difference_is_not_ruled_out() -> None:
    a = replace(run(), digests={})
    assert "it may have differed earlier" in text(compare_runs(a, with_loss(a, 0, 9.0)))


def test_equal_losses_without_digests_are_not_called_equal() -> None:
    comparison = compare_runs(replace(run(), digests={}), replace(run(), digests={}))
    assert not comparison.equal
    assert comparison.first_step is None
    assert "equality of the weights is not shown" in text(comparison)


def test_digests_in_the_step_lines_count_as_digests() -> None:
    def record(digest: str) -> RunRecord:
        line = StepRecord(step=0, epoch=0, loss=1.0, seconds=0.1, generation=0, digest=digest)
        return replace(run(), steps={0: line}, digests={})

    assert compare_runs(record("a"), record("a")).equal
    assert compare_runs(record("a"), record("b")).first_step == 0


def test_runs_without_a_common_step_are_not_equal() -> None:
    comparison = compare_runs(run(), run(0, name="B"))
    assert not comparison.equal
    assert comparison.sentences[0] == "No step is in both runs: nothing was compared."


def test_a_shorter_run_is_said_and_is_no_difference() -> None:
    comparison = compare_runs(run(4), run(2, name="B"))
    assert comparison.equal
    assert "B ends after step 1 and A after step 3; only steps of both were compared." in comparison.sentences


def test_losses_are_compared_by_their_bits() -> None:
    a = with_loss(run(), 1, math.nan)
    assert compare_runs(a, with_loss(run(), 1, -math.nan)).equal
    assert compare_runs(with_loss(run(), 1, 0.0), with_loss(run(), 1, -0.0)).first_step == 1
    assert compare_runs(a, with_loss(run(), 1, None)).first_step == 1


def test_differences_of_plan_and_environment_are_named_with_both_values() -> None:
    b = replace(
        run(), plan=Plan(virtual_nodes=3, global_batch_size=6, seed=5), environment={"torch": {"threads": 2}}
    )
    comparison = compare_runs(run(), b)
    assert [str(d) for d in comparison.plan_differences] == ["seed: 0 against 5"]
    assert [str(d) for d in comparison.environment_differences] == ["torch.threads: 1 against 2"]
    assert "The environments differ: torch.threads: 1 against 2." in comparison.sentences


def test_conflicts_and_resumes_elsewhere_are_said() -> None:
    event = EventRecord(
        kind="resumed",
        step=None,
        reason="",
        details={"environment": {"device": ["cpu", "cuda"]}},
        time_s=0,
        generation=1,
    )
    b = replace(
        run(name="B"), conflicts=(Conflict(step=2, what="loss", first="1.0", last="2.0"),), events=(event,)
    )
    comparison = compare_runs(run(), b)
    assert "B computed step 2 twice, with the loss 1.0 and then 2.0" in text(comparison)
    assert "B was resumed in another environment: device: cpu against cuda." in text(comparison)
