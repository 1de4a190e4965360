"""A script may end while its loop is still open."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

SCRIPT = """
import torch
import holdtrue as ht

def main():
    run = ht.init(virtual_nodes=2, global_batch_size=4, seed=0)
    model = torch.nn.Linear(3, 3)
    run.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    for step in run.steps(torch.utils.data.TensorDataset(torch.randn(16, 3))):
        for (x,) in step:
            step.backward(model(x).sum())
        step.update()
        yield step.index

steps = main()
print("reached step", next(steps), flush=True)
"""


def test_a_loop_that_is_open_when_the_script_ends_does_not_abort_the_process(tmp_path: Path) -> None:
    script = tmp_path / "open_loop.py"
    script.write_text(SCRIPT)
    ended = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert "reached step 0" in ended.stdout
    assert ended.returncode == 0, ended.stderr[-800:]
