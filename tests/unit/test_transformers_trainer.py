"""transformers' Trainer on virtual nodes: its own semantics, and the same bits on any mapping."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import GPT2Config, GPT2LMHeadModel, TrainerCallback, TrainingArguments

from holdtrue.errors import UsageError
from holdtrue.integrations.transformers import Seq2SeqTrainer, Trainer
from holdtrue.mapping import order_by_worker
from holdtrue.record import read_run
from holdtrue.testing import run_in_process
from transformers_programs import lines_of, make_model, make_trainer

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*pin_memory.*:UserWarning",
    "ignore:.*(sched|lr_scheduler).*:UserWarning",
    "ignore::FutureWarning",
    "ignore::DeprecationWarning",
)

UNEVEN = "0-2/4/3,5-6"


class Watch(TrainerCallback):
    """Writes down the digest after every update, and every event by name."""

    def __init__(self) -> None:
        self.digests: list[str] = []
        self.events: list[str] = []
        self.trainer: Any = None

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.digests.append(self.trainer.run.digest())

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("on_") and name not in ("on_init_end", "on_prediction_step"):
            object.__getattribute__(self, "events").append(name)
        return object.__getattribute__(self, name)


def trained(folder: Path, **changes: Any) -> dict[str, Any]:
    """What a training run shows."""
    watch = Watch()
    trainer = make_trainer(Trainer, folder, callbacks=[watch], **changes)
    watch.trainer = trainer
    output = trainer.train()
    shown = {
        "digests": watch.digests,
        "events": watch.events,
        "loss": output.training_loss,
        "history": [strip(entry) for entry in trainer.state.log_history],
        "weights": trainer.run.digest("weights"),
        "flos": trainer.state.total_flos,
        "best": trainer.state.best_global_step,
    }
    trainer.run.close()
    return shown


def strip(entry: dict[str, Any]) -> dict[str, Any]:
    return {n: v for n, v in entry.items() if not n.endswith(("runtime", "per_second", "preparation_time"))}


EVERYTHING: dict[str, Any] = {
    "max_steps": 5,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "save_strategy": "steps",
    "save_steps": 2,
    "save_total_limit": 1,
    "load_best_model_at_end": True,
    "label_smoothing_factor": 0.1,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 1,
    "include_num_input_tokens_seen": "all",
}


def test_digests_logs_and_metrics_are_those_of_one_worker_after_every_step(tmp_path: Path) -> None:
    (alone,) = run_in_process(lambda: trained(tmp_path / "a", **EVERYTHING))
    together = run_in_process(lambda: trained(tmp_path / "b", **EVERYTHING), mapping=UNEVEN)
    assert len(alone["digests"]) == 5
    assert len(set(alone["digests"])) == 5
    assert any("eval_loss" in entry for entry in alone["history"])
    assert alone["best"] is not None
    for worker in together:
        substeps = [worker["events"].pop(worker["events"].index("on_substep_end"))]
        while "on_substep_end" in worker["events"]:
            substeps.append(worker["events"].pop(worker["events"].index("on_substep_end")))
        assert {n: v for n, v in worker.items() if n != "events"} == {
            n: v for n, v in alone.items() if n != "events"
        }
        assert worker["events"] == [e for e in alone["events"] if e != "on_substep_end"]


def test_bfloat16_autocast_has_the_same_bits_on_any_mapping(tmp_path: Path) -> None:
    (alone,) = run_in_process(lambda: trained(tmp_path, max_steps=2, bf16=True, use_cpu=True))
    (full,) = run_in_process(lambda: trained(tmp_path, max_steps=2))
    halves = run_in_process(lambda: trained(tmp_path, max_steps=2, bf16=True, use_cpu=True), mapping=UNEVEN)
    assert [worker["digests"] for worker in halves] == [alone["digests"]] * 3
    assert alone["digests"] != full["digests"]


def test_adding_worker_by_worker_differs(tmp_path: Path) -> None:
    (alone,) = run_in_process(lambda: trained(tmp_path / "a", max_steps=2))
    wrong = run_in_process(
        lambda: trained(tmp_path / "b", max_steps=2), mapping=UNEVEN, order=order_by_worker
    )
    assert wrong[0]["digests"] != alone["digests"]


def by_transformers(
    kind: type, folder: Path, **changes: Any
) -> tuple[list[dict[str, Any]], list[torch.Tensor]]:
    """The history and the weights of a training without randomness."""
    trainer = make_trainer(
        kind,
        folder,
        dropout=0.0,
        train_sampling_strategy="sequential",
        max_steps=6,
        learning_rate=1e-2,
        optim="sgd",
        **changes,
    )
    trainer.train()
    weights = [p.detach().clone() for p in trainer.model.parameters()]
    if hasattr(trainer, "run"):
        trainer.run.close()
    return trainer.state.log_history, weights


def test_losses_and_weights_are_those_of_transformers_own_trainer(tmp_path: Path) -> None:
    """Token-weighted loss, accumulation, clipping and schedule mean what they mean there."""
    theirs, their_weights = by_transformers(transformers.Trainer, tmp_path / "theirs")
    ((ours, our_weights),) = run_in_process(lambda: by_transformers(Trainer, tmp_path / "ours"))
    assert [entry["epoch"] for entry in ours] == [entry["epoch"] for entry in theirs]
    for mine, other in zip(ours[:-1], theirs[:-1], strict=True):
        assert mine == pytest.approx(other, rel=2e-5)
    for mine, other in zip(our_weights, their_weights, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_a_mean_over_passes_would_not_be_their_loss(tmp_path: Path) -> None:
    """The control of the test above: lines differ in length, so weights matter."""
    theirs, _ = by_transformers(transformers.Trainer, tmp_path / "theirs")

    def unweighted() -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Trainer, "loss_is_scaled_for_ga", False, raising=False)
            return by_transformers(Trainer, tmp_path / "ours")

    ((ours, _),) = run_in_process(unweighted)
    assert ours[1]["loss"] != pytest.approx(theirs[1]["loss"], rel=2e-5)


def test_evaluation_and_prediction_are_those_of_transformers_and_need_no_training(tmp_path: Path) -> None:
    def main(kind: type) -> Any:
        trainer = make_trainer(kind, tmp_path / kind.__module__, compute_metrics=count_hits)
        metrics = strip(trainer.evaluate())
        predicted = trainer.predict(lines_of(11))
        if hasattr(trainer, "run"):
            trainer.run.close()
        return metrics, predicted.predictions, predicted.label_ids, strip(predicted.metrics)

    theirs = main(transformers.Trainer)
    for ours in run_in_process(lambda: main(Trainer), mapping=UNEVEN):
        assert ours[0] == pytest.approx(theirs[0], rel=1e-5)
        assert torch.equal(torch.from_numpy(ours[2]), torch.from_numpy(theirs[2]))
        torch.testing.assert_close(torch.from_numpy(ours[1]), torch.from_numpy(theirs[1]))
        assert ours[3] == pytest.approx(theirs[3], rel=1e-5)


def count_hits(prediction: Any) -> dict[str, float]:
    right = prediction.predictions[:, :-1].argmax(-1) == prediction.label_ids[:, 1:]
    return {"hits": float(right.sum()), "rows": float(len(prediction.label_ids))}


def test_an_evaluation_before_training_changes_no_bit_of_it(tmp_path: Path) -> None:
    def evaluated_first() -> str:
        trainer = make_trainer(Trainer, tmp_path / "a", max_steps=2)
        trainer.evaluate()
        trainer.train()
        found: str = trainer.run.digest("weights")
        trainer.run.close()
        return found

    (plain,) = run_in_process(lambda: trained(tmp_path / "b", max_steps=2))
    assert run_in_process(evaluated_first, mapping=UNEVEN) == [plain["weights"]] * 3


def test_what_is_saved_loads_in_transformers_with_the_same_bits_and_arguments(tmp_path: Path) -> None:
    def main() -> Any:
        trainer = make_trainer(Trainer, tmp_path / "out", max_steps=2)
        trainer.train()
        trainer.save_model()
        trainer.run.close()
        return {n: t.clone() for n, t in trainer.model.state_dict().items()}

    states = run_in_process(main, workers=2)
    loaded = GPT2LMHeadModel.from_pretrained(tmp_path / "out").state_dict()
    assert set(loaded) == set(states[0])
    assert all(torch.equal(loaded[n], states[0][n]) for n in loaded)
    arguments = torch.load(tmp_path / "out/training_args.bin", weights_only=False)
    assert type(arguments) is TrainingArguments
    assert arguments.max_steps == 2


def test_going_on_from_a_checkpoint_of_transformers_has_the_bits_of_an_undisturbed_run(
    tmp_path: Path,
) -> None:
    saving = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2}
    (whole,) = run_in_process(lambda: trained(tmp_path / "out", **saving))

    def resumed() -> tuple[int, str]:
        watch = Watch()
        trainer = make_trainer(Trainer, tmp_path / "out", callbacks=[watch], **saving)
        watch.trainer = trainer
        trainer.train(resume_from_checkpoint=str(tmp_path / "out/checkpoint-4"))
        trainer.run.close()
        return len(watch.digests), trainer.run.digest("weights")

    assert run_in_process(resumed, mapping=UNEVEN) == [(2, whole["weights"])] * 3


class Killed(BaseException):
    """Stands for SIGKILL."""


class Killer(TrainerCallback):
    """Ends the program in the middle of a step, as a kill does."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.trainer: Any = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.at:
            self.trainer.run._core.has_failed = True  # a killed process closes no loop and writes nothing
            raise Killed


def test_a_job_that_was_killed_goes_on_with_trainer_callbacks_and_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopping = {"max_steps": 7, "eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "loss"}
    (whole,) = run_in_process(lambda: trained(tmp_path / "whole", **stopping))
    monkeypatch.setenv("HOLDTRUE_RUN_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("HOLDTRUE_CHECKPOINT_EVERY", "2")

    def killed() -> None:
        killer = Killer(at=5)
        killer.trainer = make_trainer(Trainer, tmp_path / "out", callbacks=[killer], **stopping)
        with pytest.raises(Killed):
            killer.trainer.train()
        killer.trainer.run.close()

    run_in_process(killed)
    monkeypatch.setenv("HOLDTRUE_RESUME", "1")
    for worker in run_in_process(lambda: trained(tmp_path / "out", **stopping), mapping=UNEVEN):
        assert len(worker["digests"]) == 3, "steps 4, 5 and 6"
        for name in ("weights", "history", "loss", "flos", "best"):
            assert worker[name] == whole[name], name


def test_every_scalar_is_recorded_once_for_the_job_and_does_not_depend_on_the_mapping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = []
    for i, mapping in enumerate(("0-6", UNEVEN)):
        folder = tmp_path / f"run-{i}"
        monkeypatch.setenv("HOLDTRUE_RUN_DIR", str(folder))
        run_in_process(lambda: trained(tmp_path / "out", max_steps=3), mapping=mapping)
        metrics.append([(m.step, m.values) for m in read_run(folder).metrics])
    assert metrics[0] == metrics[1]
    assert [step for step, _ in metrics[0]] == [0, 1, 2, 2]
    assert {"loss", "grad_norm", "learning_rate"} <= set(metrics[0][0][1])


class Logger(TrainerCallback):
    """Asks what transformers' loggers ask before they write."""

    def __init__(self) -> None:
        self.writes: list[bool] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.writes.append(state.is_world_process_zero)

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.writes.append(state.is_world_process_zero)


@pytest.mark.parametrize("is_trial", [False, True])
def test_loggers_write_but_in_a_run_of_verify(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_trial: bool
) -> None:
    if is_trial:
        monkeypatch.setenv("HOLDTRUE_TRACE", "1")
    logger = Logger()
    trainer = make_trainer(Trainer, tmp_path / "out", callbacks=[logger], max_steps=1)
    trainer.train()
    trainer.run.close()
    assert logger.writes == [not is_trial] * 3
    assert trainer.is_world_process_zero() is not is_trial


REFUSED: list[tuple[Callable[[Path], Any], str]] = [
    (lambda out: make_trainer(Trainer, out, auto_find_batch_size=True), "auto_find_batch_size"),
    (lambda out: make_trainer(Trainer, out, dataset=iter_only(), max_steps=1).train(), "without a length"),
    (lambda out: train_twice(out), "train\\(\\) was called a second time"),
    (lambda out: make_trainer(Trainer, out, callbacks=[EpochStopper()]).train(), "should_epoch_stop"),
]


@pytest.mark.parametrize(("use", "words"), REFUSED, ids=[words[:20] for _, words in REFUSED])
def test_wrong_use_is_refused_in_a_sentence(use: Callable[[Path], Any], words: str, tmp_path: Path) -> None:
    def main() -> None:
        with pytest.raises(UsageError, match=words) as error:
            use(tmp_path)
        assert str(error.value).endswith(".")

    run_in_process(main)


def iter_only() -> Any:
    class Stream(torch.utils.data.IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(lines_of(9))

    return Stream()


def train_twice(out: Path) -> None:
    trainer = make_trainer(Trainer, out, max_steps=1)
    trainer.train()
    trainer.train()


class EpochStopper(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_epoch_stop = True


def test_processes_of_torchrun_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrainingArguments, "world_size", 2)
    with pytest.raises(UsageError, match="holdtrue run --workers 2"):
        make_trainer(Trainer, tmp_path)


def test_a_trainer_of_ones_own_keeps_its_loss(tmp_path: Path) -> None:
    class Doubled(Trainer):
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **more: Any) -> Any:
            loss = 2 * super().compute_loss(model, inputs, **more)
            return (loss, None) if return_outputs else loss

    def main(kind: type) -> float:
        trainer = make_trainer(kind, tmp_path, max_steps=1)
        trainer.train()
        trainer.run.close()
        return float(trainer.state.log_history[0]["loss"])

    assert run_in_process(lambda: main(Doubled))[0] == pytest.approx(
        2 * run_in_process(lambda: main(Trainer))[0]
    )


def test_a_sequence_model_is_evaluated_by_what_it_generates(tmp_path: Path) -> None:
    def main() -> Any:
        config = transformers.T5Config(
            vocab_size=30, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0
        )
        torch.manual_seed(0)
        trainer = Seq2SeqTrainer(
            model=transformers.T5ForConditionalGeneration(config),
            args=transformers.Seq2SeqTrainingArguments(
                output_dir=str(tmp_path),
                max_steps=2,
                per_device_train_batch_size=7,
                per_device_eval_batch_size=3,
                predict_with_generate=True,
                generation_max_length=6,
                report_to="none",
                disable_tqdm=True,
                save_strategy="no",
            ),
            train_dataset=[pairs(i) for i in range(21)],
            eval_dataset=[pairs(i) for i in range(8)],
            compute_metrics=lambda p: {"sum": float(p.predictions.sum())},
        )
        trainer.train()
        found = strip(trainer.evaluate()), trainer.run.digest("weights")
        trainer.run.close()
        return found

    (alone,) = run_in_process(main)
    assert "eval_sum" in alone[0]
    assert run_in_process(main, mapping="1-3/0") == [alone, alone]


def pairs(i: int) -> dict[str, Any]:
    ids = [(i * k) % 28 + 2 for k in range(1, 6)]
    return {"input_ids": ids, "attention_mask": [1] * 5, "labels": ids[::-1]}


def test_the_configuration_of_a_model_is_left_readable(tmp_path: Path) -> None:
    def main() -> None:
        trainer = make_trainer(Trainer, tmp_path, max_steps=1)
        trainer.train()
        trainer.save_model()
        trainer.run.close()

    run_in_process(main)
    assert GPT2Config.from_pretrained(tmp_path).n_embd == make_model().config.n_embd
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "gpt2"
