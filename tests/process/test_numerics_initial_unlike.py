"""A model as scripts build it, trained at level portable in processes with unlike vector units: one digest."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import frozen

from holdtrue.plan import UNLIKE_PROCESSORS

pytestmark = pytest.mark.process

IMPORTS = """
import sys
import torch
import holdtrue as ht
from holdtrue.numerics import close_initial
"""

SCRIPT = (
    frozen(IMPORTS)
    + """
run = ht.init(virtual_nodes=2, global_batch_size=8, numerics="portable")
if "plain" in sys.argv:  # the control: initial arithmetic is torch's own
    close_initial()
torch.manual_seed(0)


class Tagger(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.words = torch.nn.Embedding(20, 16)
        place = torch.arange(6)[:, None] / 10000 ** (torch.arange(0, 16, 2) / 16)
        self.register_buffer("places", torch.cat([place.sin(), place.cos()], 1))
        self.out = torch.nn.Linear(16, 3)
        torch.nn.init.trunc_normal_(self.out.weight, std=0.02)

    def forward(self, x):
        return self.out(torch.tanh(self.words(x) + self.places)).mean(1)


model = Tagger()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
run.prepare(model, optimizer)
generator = torch.Generator().manual_seed(1)
x = torch.randint(0, 20, (24, 6), generator=generator)
for step in run.steps(torch.utils.data.TensorDataset(x, x[:, 0] % 3)):
    for a, b in step:
        step.backward(torch.nn.functional.cross_entropy(model(a), b))
    step.update()
print(run.digest())
"""
)


def digests(tmp_path: Path, *arguments: str) -> set[str]:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), *arguments],
            env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
            stdout=subprocess.PIPE,
            text=True,
        )
        for variables in ({}, *(dict(processor.variables) for processor in UNLIKE_PROCESSORS))
    ]
    said = [process.communicate(timeout=120)[0].strip() for process in processes]
    assert all(process.returncode == 0 for process in processes)
    return set(said)


def test_a_model_built_the_usual_way_trains_to_one_digest(tmp_path: Path) -> None:
    assert len(digests(tmp_path)) == 1


def test_it_would_not_by_torchs_own_initial_arithmetic(tmp_path: Path) -> None:
    assert len(digests(tmp_path, "plain")) > 1


VERIFY = [
    sys.executable,
    "-m",
    "holdtrue",
    "verify",
    "--numerics",
    "portable",
    "--no-changes",
    "--steps",
    "3",
]


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [(), ("plain",)])
def test_verify_runs_on_the_processors_that_this_one_can_stand_in_for(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [*VERIFY, str(script), *arguments], capture_output=True, text=True, timeout=300, check=False
    )
    assert "no vector units" in done.stdout
    assert "as it is / no fused multiply-add" in done.stdout
    if arguments:
        assert done.returncode == 1
        assert "gave other bits than this machine as it is" in done.stdout
    else:
        assert (done.returncode, "PASS" in done.stdout) == (0, True), done.stdout + done.stderr
