"""Scripts in processes of their own: `python SCRIPT` and `holdtrue run SCRIPT`, with their ends."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HOLDTRUE = str(Path(sys.executable).with_name("holdtrue"))
LIMIT_S = 300.0
"""Bound of every wait for a process: far beyond what it takes."""


def frozen(imports: str) -> str:
    """Lines of a script that import, and torch's compiler, as optimizers do: the collector passes over what they bring.

    To look through it takes much of the time of a short process.
    """
    return f"import gc\ngc.disable()\n{imports}\nimport torch._dynamo\ngc.freeze()\ngc.enable()\n"


IMPORTS = """
import os, pathlib, signal, sys, time
import torch, torch.nn.functional as F
import holdtrue as ht
"""

PREAMBLE = (
    frozen(IMPORTS)
    + """
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.line = torch.nn.Linear(3, 1)
    def forward(self, x):
        return self.line(x).squeeze(-1)

def examples(count=24):
    g = torch.Generator().manual_seed(7)
    return [(torch.randn(3, generator=g), torch.tensor(float(i % 5))) for i in range(count)]

def start(model=None, **init):
    run = ht.init(**{"virtual_nodes": 4, "global_batch_size": 8} | init)
    model = model or Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.prepare(model, optimizer)
    return run, model

def loss_of(model, batch):
    return F.mse_loss(model(batch[0]).reshape(batch[1].shape), batch[1])

def take_step(step, model):
    for batch in step:
        step.backward(loss_of(model, batch))
    step.update()
"""
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A process that ended."""

    status: int
    out: str
    err: str
    seconds: float

    @property
    def text(self) -> str:
        """Everything that it said."""
        return self.out + self.err


def write_script(folder: Path, body: str) -> Path:
    """A script with `PREAMBLE` before `body`."""
    script = folder / "train.py"
    script.write_text(PREAMBLE + textwrap.dedent(body))
    return script


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of the tests without settings of their own."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("HOLDTRUE_")}
    return own | {"PYTHONWARNINGS": "error", "OMP_NUM_THREADS": "1"} | dict(extra or {})


def begin(command: list[str], *, cwd: Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Start a process in a session of its own."""
    return subprocess.Popen(
        command,
        cwd=cwd,
        env=environment(env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], started_s: float) -> Ended:
    """Wait for the end of a process; one that does not end is killed with all that it started."""
    try:
        out, err = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return Ended(status=process.returncode, out=out, err=err, seconds=time.monotonic() - started_s)


def call(command: list[str], *, cwd: Path, env: Mapping[str, str] | None = None) -> Ended:
    """Run a process to its end."""
    started_s = time.monotonic()
    return finish(begin(command, cwd=cwd, env=env), started_s)


def python(script: Path, *arguments: str, env: Mapping[str, str] | None = None) -> Ended:
    """`python SCRIPT`."""
    return call([sys.executable, str(script), *arguments], cwd=script.parent, env=env)


def holdtrue(*words: str, cwd: Path, env: Mapping[str, str] | None = None) -> Ended:
    """`holdtrue WORDS`."""
    return call([HOLDTRUE, *words], cwd=cwd, env=env)
