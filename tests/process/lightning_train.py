"""A LightningModule whose later steps depend on what it logged before: for jobs that grow, shrink and lose workers.

    python lightning_train.py --epochs 40 [--cut 0.6] [--max-steps 100] [--check 0.5] [--forget results] [--hold 3]

Steps are slow until the file `go` is there, from the step `--slow-from` on. `--check` validates in the middle of epochs: after
a part of one (0.5), or after so many steps whatever the epoch (5). `--forget` leaves out a part of what a joiner is given: the
control.
"""

# ruff: noqa: E402 - warnings of Lightning about torch come when it is imported
import argparse
import json
import time
import warnings
from pathlib import Path

warnings.simplefilter("ignore")

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, TensorDataset

from holdtrue.integrations.lightning import VirtualNodeStrategy
from holdtrue.integrations.lightning._record import LoopRecord

SLOW_S = 0.3
"""What a step waits for the file at most; with `--hold K` batch K of each epoch does, for ten times as long."""


class Net(L.LightningModule):
    """Dropout, a schedule by epochs, one by a metric, and a learning rate that follows the mean loss of an epoch."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Linear(8, 16), torch.nn.BatchNorm1d(16), torch.nn.Dropout(0.1), torch.nn.Linear(16, 1)
        )

    def training_step(self, batch, batch_idx):
        loss = F.mse_loss(self.net(batch[0]), batch[1])
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", F.mse_loss(self.net(batch[0]), batch[1]))

    def on_train_epoch_end(self):
        for group in self.optimizers().param_groups:
            group["lr"] *= 1.0 - 0.01 * float(self.trainer.callback_metrics["train_loss_epoch"])

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.9, patience=0)
        return [optimizer], [
            {"scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.999), "interval": "epoch"},
            {"scheduler": plateau, "interval": "epoch", "monitor": "val_loss"},
        ]


class Said(Callback):
    """Writes down which epochs and batches this worker saw, and is slow until it need not be."""

    def __init__(self, hold, slow_from):
        self.lines, self.hold, self.slow_from = [], hold, slow_from

    def on_train_epoch_start(self, trainer, module):
        self.lines.append(["epoch", trainer.current_epoch, trainer.global_step])

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.lines.append(["batch", trainer.current_epoch, batch_idx, float(outputs["loss"])])
        slow_s = SLOW_S if self.hold is None else 10 * SLOW_S if self.hold == batch_idx else 0.0
        if trainer.global_step < self.slow_from:
            return
        until_s = time.monotonic() + slow_s
        while not Path("go").exists() and time.monotonic() < until_s:
            time.sleep(0.01)

    def on_train_end(self, trainer, module):
        if trainer.strategy.run.is_main:
            Path("said.json").write_text(json.dumps(self.lines))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--cut", type=float, default=1.0)
    parser.add_argument("--max-steps", type=int, default=-1)
    parser.add_argument("--check", default="1.0")
    parser.add_argument("--folder", default="out")
    parser.add_argument("--forget", default="")
    parser.add_argument("--hold", type=int, default=None)
    parser.add_argument("--slow-from", type=int, default=0)
    options = parser.parse_args()
    of_epoch = "." in options.check
    if options.forget == "results":
        LoopRecord._load_result = lambda self, key, values: None
    L.seed_everything(1, verbose=False)
    x = torch.randn(130, 8)
    data = TensorDataset(x, x.sum(1, keepdim=True).sin())
    checkpoints = ModelCheckpoint(
        options.folder, monitor="val_loss", save_top_k=2, save_last=True, filename="{epoch}-{step}"
    )
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        strategy=VirtualNodeStrategy(virtual_nodes=5, global_batch_size=20, seed=1),
        max_epochs=None if options.max_steps > 0 else options.epochs,
        max_steps=options.max_steps,
        limit_train_batches=options.cut,
        val_check_interval=float(options.check) if of_epoch else int(options.check),
        check_val_every_n_epoch=1 if of_epoch else None,
        gradient_clip_val=1.0,
        log_every_n_steps=1,
        logger=CSVLogger("log", name="net", flush_logs_every_n_steps=1),
        callbacks=[
            checkpoints,
            EarlyStopping("val_loss", patience=1000),
            Said(options.hold, options.slow_from),
        ],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = Net()
    trainer.fit(module, DataLoader(data, batch_size=20, shuffle=True), DataLoader(data, batch_size=50))
    run = trainer.strategy.run
    run.print("steps", trainer.global_step, "epoch", trainer.current_epoch)
    run.print("best", f"{float(checkpoints.best_model_score):.9g}", Path(checkpoints.best_model_path).name)
    run.print("digest", run.digest())


if __name__ == "__main__":
    main()
