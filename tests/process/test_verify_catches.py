"""`holdtrue verify` on real training: a script that holds true, and ones that break the promise in every way we know.

The command runs on some of them (on most in the slow tier); all are judged by its own rules on runs in this process.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from commands import Ended, holdtrue, write_script

import holdtrue as ht
from elastic_job import ElasticJob, Fault
from holdtrue.cli._trials import changing_trials, explain_difference, judge_reference, judge_trial, trials_of
from holdtrue.record import RunRecord, read_run
from holdtrue.testing import run_in_process

# ---- the command ----

SCRIPT = """
run, model = start(virtual_nodes=2, global_batch_size=6)
for step in run.steps(examples(), epochs=2):
    for batch in step:
        step.backward(loss_of(model, batch) + EXTRA)
    step.update()
"""
RANDOM = "model.line.weight.sum() * int.from_bytes(os.urandom(2), 'big') / 65536"


def verify(
    tmp_path: Path, extra: str, *options: str, steps: int = 3, script: str = SCRIPT, warnings: str = "error"
) -> Ended:
    write_script(tmp_path, script.replace("EXTRA", extra))
    own = {"TMPDIR": str(tmp_path), "PYTHONWARNINGS": warnings}
    return holdtrue(
        "verify", "--device", "cpu", "--steps", str(steps), *options, "train.py", cwd=tmp_path, env=own
    )


@pytest.mark.process
def test_a_script_that_holds_true_passes_with_status_0(tmp_path) -> None:
    ended = verify(tmp_path, "0", steps=6)
    assert ended.status == 0, ended.text
    assert "PASS  8 runs of 6 steps on 2 virtual nodes: the same bits after every step." in ended.out
    rows = [line.split() for line in ended.out.splitlines() if line.startswith(("resize", "kill", "joiner"))]
    assert [row[0] for row in rows] == ["resize", "kill", "joiner"]
    assert [row[-1] for row in rows] == ["equal"] * 3, ended.out


COMPILED = """
run, model = start(virtual_nodes=2, global_batch_size=6)
model.line = torch.compile(model.line)
for step in run.steps(examples(), epochs=2):
    for batch in step:
        step.backward(loss_of(model, batch))
    step.update()
"""


@pytest.mark.slow
@pytest.mark.process
def test_a_compiled_model_is_resized_killed_and_joined_with_the_same_bits(tmp_path) -> None:
    ended = verify(tmp_path, "", steps=6, script=COMPILED, warnings="ignore")  # torch.compile has its own
    assert ended.status == 0, ended.text
    rows = [line.split() for line in ended.out.splitlines() if line.startswith(("resize", "kill", "joiner"))]
    assert [row[-1] for row in rows] == ["equal"] * 3, ended.out


UNREGISTERED = """
run, model = start(virtual_nodes=2, global_batch_size=6)
average = torch.zeros(())
for step in run.steps(examples(), epochs=2):
    for batch in step:
        step.backward(loss_of(model, batch) + average * model.line.weight.sum())
    step.update()
    average = 0.9 * average + 0.1 * model.line.weight.detach().sum()
"""


@pytest.mark.slow
@pytest.mark.process
def test_state_that_a_new_worker_lacks_is_caught_by_the_resize_row_and_named(tmp_path) -> None:
    ended = verify(tmp_path, "", steps=6, script=UNREGISTERED)
    assert ended.status == 1, ended.text
    verdicts = {line.split("  ")[0]: line.split()[-1] for line in ended.out.splitlines() if line}
    assert [verdicts[row] for row in ("1, again", "2")] == ["equal", "equal"], ended.out
    assert [verdicts[row] for row in ("resize", "kill", "joiner")] == ["different", "equal", "different"]
    flat = " ".join(ended.out.split())
    assert "FAIL a run with the change `resize`" in flat
    assert "weights/line.weight" in flat
    assert "run.register" in flat


@pytest.mark.slow
@pytest.mark.process
def test_a_script_that_does_not_repeat_itself_fails_with_status_1_and_where_to_look(tmp_path) -> None:
    ended = verify(tmp_path, RANDOM, "--no-changes")
    assert ended.status == 1, ended.text
    flat = " ".join(ended.out.split())
    for words in (
        "FAIL The same mapping run twice gave different bits",
        "The training state after step 0 is the first that differs.",
        "weights/line.weight",
        "The inputs are equal and the loss differs: look at the forward pass",
        "holdtrue compare",
        "The runs are kept in",
    ):
        assert words in flat, ended.out


@pytest.mark.slow
@pytest.mark.process
def test_a_script_that_depends_on_the_mapping_fails_with_status_1_and_where_to_look(tmp_path) -> None:
    ended = verify(tmp_path, "model.line.weight.sum() * run.mapping.world_size", "--no-changes")
    assert ended.status == 1, ended.text
    flat = " ".join(ended.out.split())
    assert "FAIL 2 workers gave other bits than 1 worker, which repeats itself." in flat
    assert "weights/line.weight" in flat


# ---- its rules, on runs in this process ----


def _noise() -> float:
    return int.from_bytes(os.urandom(2), "big") / 65536


class Doubtful(torch.autograd.Function):
    """The identity with a gradient that is another each time."""

    @staticmethod
    def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
        return x * 1.0

    @staticmethod
    def backward(ctx: object, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * (1 + _noise())


class Data(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Examples with seeded noise, and with `augment` of one's own."""

    def __init__(self, augment: Callable[[], float]) -> None:
        generator = torch.Generator().manual_seed(7)
        self.x, self.y = torch.randn(24, 3, generator=generator), torch.randn(24, generator=generator)
        self.augment = augment

    def __len__(self) -> int:
        return 24

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.x[i] + 0.1 * torch.rand(()) + self.augment(), self.y[i]


def train(folder: Path, mapping: str = "0-3", **breaks: Callable[..., object]) -> RunRecord:
    """A run with one thing broken, recorded as `verify` does."""

    def main() -> None:
        torch.manual_seed(1)
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Dropout(0.2), torch.nn.Linear(4, 1))
        breaks.get("initial", lambda m: None)(model)
        run = ht.init(virtual_nodes=4, global_batch_size=8, run_dir=str(folder))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        run.prepare(model, optimizer)
        for step in run.steps(Data(breaks.get("augment", lambda: 0.0))):  # type: ignore[arg-type]
            for x, y in step:
                out = breaks.get("out", lambda out: out)(model(x).squeeze(-1))
                factor = breaks.get("factor", lambda run: 1.0)(run)
                step.backward(F.mse_loss(out, y) * factor)  # type: ignore[arg-type,operator]
            step.update()
            breaks.get("after", lambda m, step: None)(model, step)
        run.close()

    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("DIGEST_EVERY", "1"), ("TRACE", "1"), ("CHECKPOINT_EVERY", "0")):
            patch.setenv(f"HOLDTRUE_{name}", value)
        run_in_process(main, mapping=mapping)
    return read_run(folder)


def _unseeded(model: torch.nn.Module) -> None:
    generator = torch.Generator()
    generator.seed()
    with torch.no_grad():
        model[0].weight.normal_(generator=generator)  # type: ignore[index,operator,union-attr]


def _late(model: torch.nn.Module, step: ht.Step) -> None:
    if step.index == 1:
        with torch.no_grad():
            model[2].bias += _noise()  # type: ignore[index,operator]


BROKEN: dict[str, tuple[dict[str, Callable[..., object]], tuple[str, ...]]] = {
    "initial weights from a generator without the run's seed": (
        {"initial": _unseeded},
        ("before the first step", "weights/0.weight"),
    ),
    "augmentation from the system's entropy": ({"augment": _noise}, ("after step 0", "inputs")),
    "a backward that is another each time": (
        {"out": Doubtful.apply},
        ("after step 0", "Inputs and losses are equal", "look at the backward pass"),
    ),
    "a loss that depends on the clock": (
        {"factor": lambda run: 1 + time.perf_counter() % 1.0},
        ("after step 0", "The inputs are equal and the loss differs", "the clock"),
    ),
    "weights changed at random after an update": (
        {"after": _late},
        ("after step 1", "1 entry", "weights/2.bias", "the code after step.update"),
    ),
}


@pytest.mark.parametrize("name", list(BROKEN))
def test_a_training_that_does_not_repeat_itself_is_found_with_where_to_look(name: str, tmp_path) -> None:
    breaks, words = BROKEN[name]
    first = train(tmp_path / "first", **breaks)
    assert judge_reference(first).verdict == "reference"
    finding = judge_trial(first, train(tmp_path / "again", **breaks))
    assert finding.verdict == "different"
    said = " ".join(finding.sentences)
    for word in words:
        assert word in said, said


@pytest.mark.parametrize("mapping", ["0-3", "0-1/2-3", "0-1/2/3", "0,3/1/2"])
def test_the_same_training_unbroken_is_found_equal(mapping: str, tmp_path) -> None:
    first = train(tmp_path / "first")
    assert judge_trial(first, train(tmp_path / "again", mapping)).verdict == "equal"


def test_a_training_that_depends_on_the_mapping_is_told_apart_from_one_that_does_not_repeat_itself(
    tmp_path,
) -> None:
    def by_workers(run: ht.Run) -> float:
        return float(run.mapping.world_size)

    first = train(tmp_path / "first", factor=by_workers)
    verdicts = {}
    for number, trial in enumerate(trials_of(4)):
        found = judge_trial(first, train(tmp_path / str(number), trial.mapping or "0-3", factor=by_workers))
        verdicts[trial.label] = found.verdict
        said = " ".join((explain_difference(trial), *found.sentences))
        assert ("weights/0.weight" in said) == (trial.workers > 1), said
    assert verdicts == {
        "1, again": "equal",
        "2": "different",
        "3, uneven": "different",
        "3, interleaved": "different",
    }
    assert explain_difference(trial) == f"{trial.title} gave other bits than 1 worker, which repeats itself."


def grown(folder: Path, *, registers: bool, resizes: bool) -> RunRecord:
    """A run whose script keeps a moving average beside the training state; a second worker may come in mid-run."""

    class Average:
        value = torch.zeros(())

        def state_dict(self) -> dict[str, torch.Tensor]:
            return {"value": self.value}

        def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
            self.value = state["value"]

    def main() -> None:
        torch.manual_seed(1)
        model, average = torch.nn.Linear(3, 1), Average()
        run = ht.init(virtual_nodes=4, global_batch_size=8, run_dir=str(folder))
        run.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
        if registers:
            run.register("average", average)
        for step in run.steps(Data(lambda: 0.0), epochs=2):
            for x, y in step:
                loss = F.mse_loss(model(x).squeeze(-1), y)
                step.backward(loss + average.value * model.weight.sum())
            step.update()
            average.value = 0.9 * average.value + 0.1 * model.weight.detach().sum()
            job.at(0, step.index, "updated")
        run.close()

    change = Fault(worker=0, step=1, phase="updated", act=lambda job: job.resize(2))
    job = ElasticJob(main, workers=1, faults=[change] if resizes else [])
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("DIGEST_EVERY", "1"), ("TRACE", "1"), ("CHECKPOINT_EVERY", "0")):
            patch.setenv(f"HOLDTRUE_{name}", value)
        job.run()
    return read_run(folder)


def test_state_that_a_new_worker_lacks_is_found_where_it_is_not_registered(tmp_path) -> None:
    (trial, *_) = changing_trials(6)
    for registers, verdict in ((True, "equal"), (False, "different")):
        first = grown(tmp_path / f"alone-{registers}", registers=registers, resizes=False)
        second = grown(tmp_path / f"grown-{registers}", registers=registers, resizes=True)
        assert {step.generation for step in second.steps.values()} > {1}, "nobody came"
        assert judge_trial(first, second).verdict == verdict
    assert "run.register" in explain_difference(trial)
