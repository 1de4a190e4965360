"""How a script ends: while its loop is still open, or with an error of torch that says little of virtual nodes."""

import subprocess
import sys
from pathlib import Path

import pytest
from commands import python, write_script

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


def test_a_norm_layer_with_one_value_per_channel_is_a_sentence_and_wrong_use(tmp_path: Path) -> None:
    body = """
    run, model = start(torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)), virtual_nodes=8)
    for step in run.steps(examples()):
        for x, y in step:
            step.backward(model(x).mean())
        step.update()
    """
    ended = python(write_script(tmp_path, body))
    assert ended.status == 2, ended.text
    assert "Traceback" not in ended.err
    (sentence,) = (line for line in ended.err.splitlines() if line.startswith("holdtrue: "))
    assert sentence.startswith(
        "holdtrue: a norm layer got input size torch.Size([1, 2]) in the pass of virtual node 0, step 0: examples "
    )
    assert sentence.endswith("fewer virtual_nodes, a larger global_batch_size, or drop_last=True.")
    assert "step.backward(model(x).mean())" in ended.err, "the line of the script"
