"""Lightning: a LightningModule learns handwritten digits, on virtual nodes by its Trainer's strategy alone.

The module, its loaders, callbacks and logger are as they would be without.
"""

import argparse

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

from holdtrue.integrations.lightning import VirtualNodeStrategy


class Digits(L.LightningModule):
    """A small network with dropout and batch norm."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps
        self.net = torch.nn.Sequential(
            torch.nn.Linear(64, 48),
            torch.nn.BatchNorm1d(48),
            torch.nn.ReLU(),
            torch.nn.Dropout(0.2),
            torch.nn.Linear(48, 10),
        )

    def training_step(self, batch, batch_idx):
        """The loss of one batch."""
        x, y = batch
        logits = self.net(x)
        loss = F.cross_entropy(logits, y)
        self.log("train_loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        self.log("train_accuracy", (logits.argmax(-1) == y).float().mean())
        return loss

    def validation_step(self, batch, batch_idx):
        """Accuracy on what was not trained on."""
        x, y = batch
        self.log("accuracy", (self.net(x).argmax(-1) == y).float().mean(), prog_bar=True)

    def configure_optimizers(self):
        """AdamW, with a schedule that is stepped each batch."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=5e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--output-dir", default="digits-output")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--resume", default=None)
    options = parser.parse_args()
    L.seed_everything(1, verbose=False)
    digits = load_digits()
    x = torch.tensor(digits.data / 16, dtype=torch.float32)
    y = torch.tensor(digits.target)
    train_set, test_set = TensorDataset(x[:1400], y[:1400]), TensorDataset(x[1400:], y[1400:])
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        strategy=VirtualNodeStrategy(virtual_nodes=7, global_batch_size=105, seed=1),
        max_epochs=options.epochs,
        gradient_clip_val=1.0,
        log_every_n_steps=1,
        logger=CSVLogger(options.output_dir, name="log", version=0, flush_logs_every_n_steps=1),
        callbacks=[
            ModelCheckpoint(options.output_dir, monitor="accuracy", mode="max", save_last=True),
            LearningRateMonitor("step"),
        ],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = Digits(steps=options.epochs * 14)
    loader = DataLoader(train_set, batch_size=105, shuffle=True)
    trainer.fit(module, loader, DataLoader(test_set, batch_size=100), ckpt_path=options.resume)
    best = trainer.validate(module, DataLoader(test_set, batch_size=100), ckpt_path="best", verbose=False)
    trainer.strategy.run.print("accuracy", best[0]["accuracy"])
    trainer.strategy.run.print("digest", trainer.strategy.run.digest("weights"))


if __name__ == "__main__":
    main()
