"""Lightning, transformers and `holdtrue predict` at level portable: one digest for one and two workers and unlike processors."""

from pathlib import Path

import numpy as np
import pytest
from commands import holdtrue

from holdtrue.plan import UNLIKE_PROCESSORS
from holdtrue.record import compare_runs, read_run

pytestmark = [pytest.mark.process, pytest.mark.slow]

QUIET = {"PYTHONWARNINGS": "default"}
"""Warnings of Lightning, transformers and torch about one another are not ours."""
UNLIKE = {processor.name: dict(processor.variables) for processor in UNLIKE_PROCESSORS}

LIGHTNING = """
import warnings
warnings.simplefilter("ignore")
import lightning as L
import torch
from holdtrue.integrations.lightning import VirtualNodeStrategy


class Net(L.LightningModule):
    def configure_model(self):  # in the run: its initial weights have one answer
        self.net = torch.nn.Sequential(
            torch.nn.Linear(8, 32), torch.nn.BatchNorm1d(32), torch.nn.GELU(), torch.nn.Dropout(0.1), torch.nn.Linear(32, 1)
        )

    def training_step(self, batch, _):
        loss = torch.nn.functional.mse_loss(self.net(batch[0]), batch[1])
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch, _):
        self.log("val_loss", torch.nn.functional.mse_loss(self.net(batch[0]), batch[1]))

    def on_train_epoch_end(self):  # weights that follow the last bits of what validation gave
        for group in self.optimizers().param_groups:
            group["weight_decay"] = 0.1 * float(self.trainer.callback_metrics["val_loss"])

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def main():
    L.seed_everything(1, verbose=False)
    x = (torch.arange(130 * 8) % 97).reshape(130, 8) / 64 - 0.75
    data = torch.utils.data.TensorDataset(x, x[:, :1] * x[:, 1:2])
    trainer = L.Trainer(
        accelerator="cpu", devices=1, strategy=VirtualNodeStrategy(virtual_nodes=5, global_batch_size=20, seed=1),
        max_epochs=4, gradient_clip_val=0.3, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )
    train = torch.utils.data.DataLoader(data, batch_size=20, shuffle=True)
    trainer.fit(Net(), train, torch.utils.data.DataLoader(data, batch_size=50))
    trainer.strategy.run.print(trainer.callback_metrics["val_loss"].item().hex())


if __name__ == "__main__":
    main()
"""

TRANSFORMERS = f"""
import sys, warnings
warnings.simplefilter("ignore")
from transformers import TrainingArguments
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from transformers_programs import collate, lines_of, make_model
from holdtrue.integrations.transformers import Trainer


def main():
    arguments = TrainingArguments(
        output_dir="out", per_device_train_batch_size=3, gradient_accumulation_steps=7, per_device_eval_batch_size=4,
        logging_steps=1, save_strategy="no", max_grad_norm=0.5, seed=11, report_to="none", disable_tqdm=True, max_steps=8,
        lr_scheduler_type="cosine", warmup_steps=2, learning_rate=5e-3, eval_strategy="steps", eval_steps=4, use_cpu=True,
    )
    trainer = Trainer(
        model_init=lambda: make_model(),  # in the run: its initial weights have one answer
        args=arguments, data_collator=collate, train_dataset=lines_of(45), eval_dataset=lines_of(13),
    )
    trainer.train()
    trainer.run.print([entry["eval_loss"].hex() for entry in trainer.state.log_history if "eval_loss" in entry])


main()
"""


def run(
    folder: Path,
    name: str,
    *,
    numerics: str = "portable",
    workers: int = 1,
    env: dict[str, str] | None = None,
) -> str:
    """The last line that the folder's script says in a run of that name; transformers' own have times in them."""
    options = f"--numerics {numerics} --device cpu --workers {workers} --digest-every 1 --run-dir"
    done = holdtrue("run", *options.split(), name, "train.py", cwd=folder, env={**QUIET, **(env or {})})
    assert done.status == 0, done.text
    return done.out.splitlines()[-1]


@pytest.mark.parametrize("script", [LIGHTNING, TRANSFORMERS], ids=["lightning", "transformers"])
def test_a_trainer_has_one_digest_on_two_workers_and_on_unlike_processors(
    script: str, tmp_path: Path
) -> None:
    pytest.importorskip("lightning" if script is LIGHTNING else "transformers")
    (tmp_path / "train.py").write_text(script)
    said = run(tmp_path, "base")
    base = read_run(tmp_path / "base")
    assert len(base.digests) >= 8
    others = {"two": (2, {})} | {name: (1, variables) for name, variables in UNLIKE.items()}
    for name, (workers, variables) in others.items():
        assert run(tmp_path, name, workers=workers, env=variables) == said, name
        assert compare_runs(base, read_run(tmp_path / name)).equal, name
    for name, variables in (("plain", {}), ("unlike", UNLIKE["no vector units"])):
        run(tmp_path, name, numerics="exact", env=variables)
    plain, unlike = (read_run(tmp_path / name) for name in ("plain", "unlike"))
    assert not compare_runs(plain, unlike).equal, "the control: ordinary arithmetic has other bits there"


MODEL = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.first = torch.nn.Linear(4, 16)
        self.middle = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.last = torch.nn.GRU(16, 3, batch_first=True)

    def forward(self, x):
        return self.last(self.middle(torch.tanh(self.first(x))))[0]
"""


def test_predictions_have_one_answer_on_two_workers_and_on_unlike_processors(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(MODEL)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(60, 5, 4)))

    def predicted(name: str, level: str, workers: int, env: dict[str, str]) -> bytes:
        words = f"predict net.py:Net x.npy --numerics {level} --workers {workers} --device cpu --pass-size 7 --out {name}.npy"
        done = holdtrue(*words.split(), cwd=tmp_path, env={**QUIET, **env})
        assert done.status == 0, done.text
        return np.load(tmp_path / f"{name}.npy").tobytes()

    base = predicted("base", "portable", 1, {})
    assert predicted("two", "portable", 2, {}) == base
    for i, variables in enumerate(UNLIKE.values()):
        assert predicted(f"unlike{i}", "portable", 1, variables) == base
    control = {
        predicted(f"exact{i}", "exact", 1, env) for i, env in enumerate(({}, UNLIKE["no vector units"]))
    }
    assert len(control) == 2, "ordinary arithmetic has other bits there"
