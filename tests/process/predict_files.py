"""A model and rows for `holdtrue predict`, in a folder."""

from pathlib import Path

import numpy as np

MODEL = """
import os, time
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.a, self.b = torch.nn.Linear(4, 16), torch.nn.Linear(16, 3)
    def forward(self, x):
        return self.b(torch.tanh(self.a(x)))
class Other(Net):
    def forward(self, x):
        return self.b(self.a(x))
class Slow(Net):
    def forward(self, x):
        if os.path.exists("slow"):  # until all that a test does is through
            time.sleep(0.04)
        return super().forward(x)
"""


def write_files(folder: Path, rows: int) -> Path:
    """Writes `net.py` and `x.npy`, rows of 4 numbers; the folder."""
    (folder / "net.py").write_text(MODEL)
    np.save(folder / "x.npy", np.random.default_rng(0).normal(size=(rows, 4)))
    return folder
