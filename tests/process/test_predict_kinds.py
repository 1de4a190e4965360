"""One prediction by workers with unlike vector units: at level portable the files of one worker, at exact each its own bits."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.process, pytest.mark.slow]

MODEL = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.a, self.b = torch.nn.Linear(30, 60), torch.nn.Linear(60, 5)
    def forward(self, x):
        return torch.softmax(self.b(torch.nn.functional.gelu(self.a(x))), -1)
"""


def predict(folder: Path, out: str, numerics: str, capabilities: tuple[str, ...]) -> dict[str, bytes]:
    """Files of a prediction by workers with these vector units."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": str(len(capabilities)), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"HOLDTRUE_NUMERICS": numerics, "HOLDTRUE_TIMEOUT_S": "60", "OMP_NUM_THREADS": "1"}
    words = ["predict", "net.py:Net", "x.npy", "--out", out, "--pass-size", "2", "--weights", "w.safetensors"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "holdtrue.inference", *words],
            cwd=folder,
            env={**os.environ, **shared, "RANK": str(rank), "ATEN_CPU_CAPABILITY": capability},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, capability in enumerate(capabilities)
    ]
    said = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), said
    return {p.name: p.read_bytes() for p in sorted((folder / out).iterdir())}


@pytest.mark.parametrize("numerics", ["portable", "exact"])
def test_unlike_workers_predict_one_answer_at_level_portable_and_their_own_at_exact(
    numerics: str, tmp_path: Path
) -> None:
    import safetensors.torch

    names: dict[str, type] = {}
    exec(MODEL, names)
    (tmp_path / "net.py").write_text(MODEL)
    safetensors.torch.save_file(
        names["Net"]().state_dict(), tmp_path / "w.safetensors"
    )  # as trained ones are
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(900, 30)))
    one = predict(tmp_path, "one", numerics, ("avx2",))
    two = predict(tmp_path, "two", numerics, ("avx2", "default"))
    assert one.keys() == two.keys()
    assert (two == one) == (numerics == "portable")
    # Files of the first worker are those of one worker at every level.
    assert sum(two[name] == one[name] for name in one) >= len(one) // 2
