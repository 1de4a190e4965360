"""Lightning's Trainer on virtual nodes: the bits on 1, 2 and 3 workers, and what a step means."""

import contextlib
import csv
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from commands import holdtrue

from holdtrue.errors import UsageError
from holdtrue.record import compare_runs, read_run

pytestmark = [
    pytest.mark.process,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"),
]

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/lit/digits.py"


def test_a_module_has_the_same_bits_logs_and_checkpoints_on_1_2_and_3_workers(tmp_path: Path) -> None:
    said, logs, saved = [], [], []
    for workers in ("1", "2", "3"):
        options = f"--device cpu --workers {workers} --run-dir run-{workers} --digest-every 1".split()
        words = ("run", *options, str(EXAMPLE), "--output-dir", f"out-{workers}")
        done = holdtrue(*words, cwd=tmp_path, env={"PYTHONWARNINGS": "default"})
        assert done.status == 0, done.text
        said.append(done.out)
        logs.append((tmp_path / f"out-{workers}/log/version_0/metrics.csv").read_text())
        saved.append(torch.load(tmp_path / f"out-{workers}/last.ckpt", weights_only=True)["state_dict"])
    first = read_run(tmp_path / "run-1")
    assert len(first.steps) == 28
    for i, workers in enumerate(("2", "3"), start=1):
        assert compare_runs(first, read_run(tmp_path / f"run-{workers}")).equal
        assert said[i] == said[0]
        assert logs[i] == logs[0], "every scalar, once for the job"
        assert all(torch.equal(saved[i][n], saved[0][n]) for n in saved[0])
    (accuracy,) = re.findall(r"^accuracy ([\d.]+)$", said[0], re.M)
    assert float(accuracy) > 0.8


@pytest.fixture
def lit() -> Iterator[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import lightning
    yield lightning
    lightning.fabric.utilities.rank_zero.rank_zero_only.rank = 0


def make_module(lit: Any, **changes: Any) -> Any:
    class Module(lit.LightningModule):  # type: ignore[misc, name-defined]  # lightning is loaded late
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(3)
            self.net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
            self.seen: list[float] = []

        def training_step(self, batch: Any, _: int) -> Any:
            loss = F.mse_loss(self.net(batch[0]), batch[1])
            self.log("train_loss", loss)
            return loss

        def on_train_batch_end(self, outputs: Any, *_: Any) -> None:
            self.seen.append(float(self.trainer.callback_metrics["train_loss"]))

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)]

    for name, value in changes.items():
        setattr(Module, name, value)
    return Module()


def loader(shuffle: bool = False) -> Any:
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    return torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(x, x.sum(1, keepdim=True).sin()), batch_size=20, shuffle=shuffle
    )


def trainer_of(lit: Any, folder: Path, **options: Any) -> Any:
    """A quiet Trainer of four epochs on one CPU that logs every step."""
    return lit.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        devices=1,
        max_epochs=4,
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def fit(lit: Any, folder: Path, module: Any, *, strategy: Any = "auto", **options: Any) -> Any:
    path = options.pop("ckpt_path", None)
    trainer = trainer_of(lit, folder, strategy=strategy, gradient_clip_val=0.1, logger=False, **options)
    trainer.fit(module, loader(shuffle=strategy != "auto" and "callbacks" in options), ckpt_path=path)
    return module


def strategy_of(**changes: Any) -> Any:
    from holdtrue.integrations.lightning import VirtualNodeStrategy

    return VirtualNodeStrategy(**{"virtual_nodes": 3, "global_batch_size": 20} | changes)


def test_losses_and_weights_are_those_of_lightning_itself(lit: Any, tmp_path: Path) -> None:
    """Clipping, logged means, epoch schedules and short last batches mean what they mean there."""
    theirs = fit(lit, tmp_path, make_module(lit), enable_checkpointing=False)
    strategy = strategy_of()
    ours = fit(lit, tmp_path, make_module(lit), strategy=strategy, enable_checkpointing=False)
    strategy.run.close()
    assert len(theirs.seen) == 12
    assert ours.seen == pytest.approx(theirs.seen, rel=1e-5)
    assert theirs.seen[-3] < theirs.seen[0]
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("step", [4, 6])
def test_going_on_from_a_checkpoint_has_the_bits_of_an_undisturbed_run(
    lit: Any, tmp_path: Path, step: int
) -> None:
    from lightning.pytorch.callbacks import ModelCheckpoint

    def saving() -> Any:
        return ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=2, save_top_k=-1)

    strategy = strategy_of()
    whole = fit(lit, tmp_path, make_module(lit), strategy=strategy, callbacks=[saving()])
    strategy.run.close()
    again = strategy_of()
    path = tmp_path / f"step={step}.ckpt"
    resumed = fit(lit, tmp_path, make_module(lit), strategy=again, callbacks=[saving()], ckpt_path=path)
    again.run.close()
    assert len(resumed.seen) == 12 - step
    assert resumed.seen == whole.seen[step:]
    for mine, other in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_who_goes_on_writes_on_in_the_first_log_and_nobody_else_opens_it(lit: Any, tmp_path: Path) -> None:
    from lightning.pytorch.loggers import CSVLogger

    from holdtrue.integrations.lightning._loggers import share_places

    first, again, other = (CSVLogger(str(tmp_path), name="net") for _ in range(3))
    first.log_metrics({'loss, the "mean"': 1.0, "lr": 0.5}, 0)
    first.save()
    assert again.version == 1
    again.log_hyperparams({"width": 3})
    share_places([again], lambda own: first.version, is_main=True)
    share_places([other], lambda own: first.version, is_main=False)
    assert (other.version, other._experiment) == (0, None)
    again.log_metrics({'loss, the "mean"': 2.0, "lr": 0.25, "new": 1.0}, 1)
    again.save()
    with (tmp_path / "net" / "version_0" / "metrics.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [
            {'loss, the "mean"': "1.0", "lr": "0.5", "new": "", "step": "0"},
            {'loss, the "mean"': "2.0", "lr": "0.25", "new": "1.0", "step": "1"},
        ]


def test_who_goes_on_writes_on_in_the_first_ones_folder_of_tensorboard(lit: Any, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from lightning.pytorch.loggers import TensorBoardLogger

    from holdtrue.integrations.lightning._loggers import share_places

    first, again = (TensorBoardLogger(str(tmp_path), name="net") for _ in range(2))
    first.log_metrics({"loss": 1.0}, 0)
    first.finalize("success")
    assert again.version == 1
    _ = again.experiment  # opened, as Lightning does before the first step
    share_places([again], lambda own: first.version, is_main=True)
    again.log_metrics({"loss": 0.5}, 1)
    again.finalize("success")
    assert len(list((tmp_path / "net" / "version_0").glob("events.*"))) == 2
    assert not (tmp_path / "net" / "version_1").exists(), "nothing of an empty second log"


def validating(lit: Any) -> Any:
    def validation_step(self: Any, batch: Any, _: int) -> None:
        self.log("val", F.mse_loss(self.net(batch[0]), batch[1]))

    return make_module(lit, validation_step=validation_step)


def test_a_run_of_verify_writes_into_its_own_folder_and_has_a_best_checkpoint_at_its_end(
    lit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.loggers import CSVLogger

    mine, trial = tmp_path / "mine", tmp_path / "trial"
    (mine / "net/version_0").mkdir(parents=True)
    (mine / "net/version_0/metrics.csv").write_text("of an earlier run")
    for name, value in (("TRACE", "1"), ("RUN_DIR", str(trial)), ("MAX_STEPS", "2")):
        monkeypatch.setenv(f"HOLDTRUE_{name}", value)
    strategy = strategy_of()
    trainer = lit.Trainer(
        default_root_dir=mine,
        accelerator="cpu",
        devices=1,
        strategy=strategy,
        max_steps=100,  # without a number of epochs: the end is the trial's
        log_every_n_steps=1,
        logger=CSVLogger(str(mine), name="net", version=0, flush_logs_every_n_steps=1),
        callbacks=[ModelCheckpoint(mine / "best", monitor="val")],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = validating(lit)
    trainer.fit(module, loader(), loader())
    assert trainer.global_step == 2
    assert Path(trainer.checkpoint_callback.best_model_path).is_relative_to(trial)
    trainer.save_checkpoint(mine / "end.ckpt")
    for path in ("best", mine / "end.ckpt"):
        assert "val" in trainer.validate(module, loader(), ckpt_path=path, verbose=False)[0]
    strategy.run.close()
    files = {path.relative_to(mine) for path in mine.rglob("*") if path.is_file()}
    assert files == {Path("net/version_0/metrics.csv")}
    assert (mine / "net/version_0/metrics.csv").read_text() == "of an earlier run"


def test_a_run_that_a_callback_stops_ends_without_empty_epochs(lit: Any, tmp_path: Path) -> None:
    class Stopper(lit.Callback):  # type: ignore[misc, name-defined]  # lightning is loaded late
        epochs = 0

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == 3:
                trainer.strategy.run.stop("enough")  # agreed in the next step

        def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
            self.epochs += 1

    strategy, stopper = strategy_of(), Stopper()
    module = fit(lit, tmp_path, make_module(lit), strategy=strategy, callbacks=[stopper])
    strategy.run.close()
    assert (len(module.seen), stopper.epochs) == (4, 2)


@pytest.mark.parametrize("version", [None, 0], ids=["a new version", "a version of its own"])
def test_a_run_that_goes_on_after_a_kill_has_each_row_of_its_log_once(
    lit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int | None
) -> None:
    from lightning.pytorch.loggers import CSVLogger

    class Killed(lit.Callback):  # type: ignore[misc, name-defined]  # lightning is loaded late
        """A batch that does not come back, three steps beyond the newest checkpoint."""

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == 8:
                trainer.loggers[0].save()
                raise KeyboardInterrupt

    def run(folder: str, callbacks: list[Any]) -> list[dict[str, str]]:
        strategy = strategy_of()
        logger = CSVLogger(str(tmp_path / folder), name="net", version=version, flush_logs_every_n_steps=1)
        trainer = trainer_of(
            lit, tmp_path, strategy=strategy, logger=logger, callbacks=callbacks, enable_checkpointing=False
        )
        with contextlib.suppress(KeyboardInterrupt, SystemExit, UsageError):
            trainer.fit(validating(lit), loader(), loader())
        with contextlib.suppress(UsageError):  # of the step that the kill left open
            strategy.run.close()
        (path,) = (tmp_path / folder / "net").glob("version_0/metrics.csv")
        with path.open(newline="") as file:
            return list(csv.DictReader(file))

    whole = run("whole", [])
    for name, value in (("RUN_DIR", str(tmp_path / "run")), ("CHECKPOINT_EVERY", "5")):
        monkeypatch.setenv(f"HOLDTRUE_{name}", value)
    assert len([row for row in run("log", [Killed()]) if row["train_loss"]]) == 7
    monkeypatch.setenv("HOLDTRUE_RESUME", "1")
    assert run("log", []) == whole


def test_a_callback_whose_state_cannot_travel_is_named_where_it_is_needed(lit: Any, tmp_path: Path) -> None:
    class Odd(lit.Callback):  # type: ignore[misc, name-defined]  # lightning is loaded late
        def state_dict(self) -> dict[str, Any]:
            return {"seen": {1, 2}}

    strategy = strategy_of()
    fit(lit, tmp_path, make_module(lit), strategy=strategy, callbacks=[Odd()], enable_checkpointing=False)
    state = strategy.record.state_dict()  # training went well
    with pytest.raises(UsageError, match=r"Odd cannot go to another worker: seen is a builtins.set"):
        strategy.record.load_state_dict(state)
    strategy.run.close()


def logs_an_object(self: Any, batch: Any, _: int) -> Any:
    self.log("metric", {"a": 1})
    return self.net(batch[0]).mean()


REFUSED = {
    "automatic_optimization=False": ({"automatic_optimization": False}, {}),
    "accumulate_grad_batches is 2": ({}, {"accumulate_grad_batches": 2}),
    "training_step logged a dict": ({"training_step": logs_an_object}, {}),
    "training_step returned None": ({"training_step": lambda self, batch, _: None}, {}),
    "overrides on_before_batch_transfer": ({"on_before_batch_transfer": lambda self, batch, _: batch}, {}),
}


@pytest.mark.parametrize("words", REFUSED)
def test_wrong_use_is_refused_in_a_sentence(lit: Any, tmp_path: Path, words: str) -> None:
    module, options = REFUSED[words]
    if "automatic_optimization=False" in words:
        options = {"gradient_clip_val": None}
    strategy = strategy_of()
    with pytest.raises(UsageError, match=re.escape(words)) as error:
        fit_plain(lit, tmp_path, make_module(lit, **module), strategy, options)
    assert str(error.value).endswith(".")
    with contextlib.suppress(UsageError):  # of the step that the error left open
        strategy.run.close()


def test_a_validation_by_the_clock_is_refused(lit: Any, tmp_path: Path) -> None:
    strategy = strategy_of()
    with pytest.raises(UsageError, match="val_check_interval is a time; workers' clocks"):
        fit_plain(lit, tmp_path, validating(lit), strategy, {"val_check_interval": "00:00:00:10"})
    strategy.run.close()


def fit_plain(lit: Any, folder: Path, module: Any, strategy: Any, options: dict[str, Any]) -> None:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lit.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        devices=1,
        strategy=strategy,
        max_epochs=1,
        **quiet,
        **options,
    )
    trainer.fit(module, loader())
