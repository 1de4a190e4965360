"""Two processes with unlike vector units, standing in for two types of device, train one model."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

SCRIPT = """
import sys
import torch
import holdtrue as ht
from holdtrue.run import _unlike

if sys.argv[1] == "own":  # the control: each worker keeps its own update
    _unlike.Unlike.unify_update = lambda self, norm: norm
run = ht.init(virtual_nodes=5, global_batch_size=40, seed=1)
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(30, 60), torch.nn.GELU(), torch.nn.Linear(60, 5))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
run.prepare(model, optimizer)
generator = torch.Generator().manual_seed(2)
x = torch.randn(40 * 20, 30, generator=generator)
data = torch.utils.data.TensorDataset(x, x[:, :5].argmax(-1))
for step in run.steps(data, epochs=5):
    for a, b in step:
        step.backward(torch.nn.functional.cross_entropy(model(a), b))
    step.update(max_grad_norm=1.0)
print(torch.backends.cpu.get_cpu_capability(), step.index + 1, run.digest())
"""


def train(tmp_path: Path, capabilities: tuple[str, str], how: str) -> list[subprocess.CompletedProcess[str]]:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"HOLDTRUE_DIGEST_EVERY": "1", "HOLDTRUE_TIMEOUT_S": "60", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), how],
            env={**os.environ, **shared, "RANK": str(rank), "ATEN_CPU_CAPABILITY": capability},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, capability in enumerate(capabilities)
    ]
    said = [process.communicate(timeout=120) for process in processes]
    return [
        subprocess.CompletedProcess(process.args, process.returncode, out, err)
        for process, (out, err) in zip(processes, said, strict=True)
    ]


def test_replicas_with_unlike_vector_units_are_equal_after_each_of_a_hundred_steps(tmp_path: Path) -> None:
    first, second = train(tmp_path, ("avx2", "default"), "leader's")
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    (one, steps, digest), (other, _, same) = first.stdout.split(), second.stdout.split()
    assert (one, other, steps) == ("AVX2", "DEFAULT", "100")
    assert digest == same
    assert "devices of 2 kinds" in first.stderr
    assert "updates are those of CPU with AVX2" in first.stderr


@pytest.mark.slow
def test_they_drift_where_each_worker_computes_its_own_update(tmp_path: Path) -> None:
    ended = train(tmp_path, ("avx2", "default"), "own")
    assert all(process.returncode != 0 for process in ended)
    assert any("worker 1 differs from worker 0's" in process.stderr for process in ended)
