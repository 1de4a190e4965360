"""On a GPU: the same bits for one, two and three workers that share it, and a control that differs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


def run_bits(tmp_path: Path, device: str, models: str) -> dict[str, object]:
    out = tmp_path / "bits.json"
    env = os.environ | {
        "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'benchmarks'}",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }
    command = [
        sys.executable,
        str(ROOT / "benchmarks/gpu/bits.py"),
        "--device",
        device,
        "--models",
        models,
        "--out",
        str(out),
    ]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(out.read_text())
    assert isinstance(result, dict)
    return result


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_workers_that_share_a_gpu_give_the_bits_of_one(tmp_path: Path) -> None:
    assert run_bits(tmp_path, "cuda", "cnn,transformer")["ok"]


@pytest.mark.slow
def test_the_gpu_check_itself_passes_on_cpu_through_the_same_paths(tmp_path: Path) -> None:
    assert run_bits(tmp_path, "cpu", "cnn")["ok"]
