"""A training script whose process kills or stops itself in a phase that it was told: the victim of the fault matrix.

    faulty_train.main(faults="1:5:backward;0:9:update", holds="7:2")

A fault is `worker:step:phase[:nth[:STOP]]`; step -1 is any. Phases are places in holdtrue's own code, which is wrapped
here, and in the script's. A marker file is on the disk before the signal, so that a test sees where it fired.
"""

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn

import holdtrue as ht
import holdtrue.engine._transfer as transfer
import holdtrue.run._keeper as keeper
from holdtrue.engine import Engine
from holdtrue.reduce import GradientLayout, Group, OrderedReduce
from holdtrue.reduce._torch_group import TorchGroup
from holdtrue.run._elastic import ElasticGroup
from holdtrue.run._meeting import Meeting

PHASES = (
    "load",
    "forward",
    "backward",
    "first-bucket",
    "last-bucket",
    "exchanged",
    "ledger-sent",
    "ledger",
    "update",
    "updated",
    "after",
    "evaluate",
    "checkpoint",
)
"""Phases that every step has, or every few steps; besides: form, formed, give, take, save."""

MARKS = Path("marks")
BATCH, VIRTUAL_NODES = 12, 6
EVALUATE_EVERY = 4
LIMIT_S = 60.0
LOOK_S = 0.005


@dataclass
class Fault:
    """Where this process sends itself a signal."""

    step: int
    phase: str
    nth: int
    sign: signal.Signals


class Victim:
    """This process: where it is, and what will happen to it.

    Args:
        faults: See the module.
        takes_orders: Whether a file `marks/order-WORKER` may tell it another fault at any time.
    """

    def __init__(self, faults: str, *, takes_orders: bool) -> None:
        self.worker = int(os.environ.get("HOLDTRUE_WORKER_WORKER", "0"))
        self.step = -1
        self.group: ElasticGroup | None = None
        self._order = MARKS / f"order-{self.worker}" if takes_orders else None
        texts = [text.partition(":") for text in faults.split(";") if text]
        self._faults = [self._read(text) for worker, _, text in texts if int(worker) == self.worker]

    def _read(self, text: str) -> Fault:
        step, phase, *rest = text.split(":")
        sign = signal.SIGSTOP if rest[1:] == ["STOP"] else signal.SIGKILL
        return Fault(step=int(step), phase=phase, nth=int(rest[0]) if rest else 0, sign=sign)

    def reach(self, phase: str) -> None:
        """This process is in a phase now."""
        if self._order is not None and self._order.exists():
            self._faults = [self._read(self._order.read_text())]
            self._order.unlink()
        for fault in self._faults:
            if fault.phase == phase and fault.step in (-1, self.step):
                if fault.nth > 0:
                    fault.nth -= 1
                    continue
                self._faults.remove(fault)
                write_mark(f"fired-{self.worker}", {"phase": phase, "step": self.step, "pid": os.getpid()})
                os.kill(os.getpid(), fault.sign)
                return


def write_mark(name: str, facts: dict[str, Any]) -> None:
    """A file that is whole and on the disk when this returns."""
    aside = MARKS / f".{name}"
    with aside.open("w") as file:
        file.write(json.dumps(facts))
        file.flush()
        os.fsync(file.fileno())
    aside.replace(MARKS / name)


def around(
    owner: Any,
    name: str,
    *,
    before: Callable[..., None] | None = None,
    after: Callable[..., None] | None = None,
) -> None:
    """Call something before or after a function of holdtrue, with its arguments."""
    inner = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if before is not None:
            before(*args, **kwargs)
        found = inner(*args, **kwargs)
        if after is not None:
            after(*args, **kwargs)
        return found

    setattr(owner, name, wrapped)


def wrap_holdtrue(victim: Victim) -> None:
    """Make holdtrue's own phases known to the victim."""

    def start_bucket(reduce: OrderedReduce, bucket: int, *_: Any) -> None:
        if bucket == 0:
            victim.reach("first-bucket")
        if bucket == len(reduce.buckets) - 1:
            victim.reach("last-bucket")

    def wait(group: Any, work: Any, what: str) -> None:
        if what.startswith("the losses"):
            victim.reach("ledger-sent")

    def copy_part(group: Group, pieces: Any, length: int, routes: dict[int, int], what: str) -> None:
        if group.rank in routes:
            victim.reach("take")
        elif group.rank in routes.values():
            victim.reach("give")

    def save_file(tensors: Any, path: Any, **_: Any) -> None:
        if str(path).endswith("trained.safetensors.part"):
            victim.reach("save")

    write = keeper.write_checkpoint
    keeper.write_checkpoint = lambda *args, **more: write(  # type: ignore[assignment]
        *args, **more, fault=lambda point: victim.reach("checkpoint")
    )
    GradientLayout.build.__func__.__defaults__ = (256,)  # type: ignore[attr-defined]
    around(OrderedReduce, "_start", after=start_bucket)
    around(Engine, "_swap_ledger", before=lambda *_: victim.reach("exchanged"))
    around(Engine, "_swap_totals", before=lambda *_: victim.reach("ledger"))
    around(TorchGroup, "wait_for", before=wait)
    around(transfer, "_copy_part", before=copy_part)
    around(Meeting, "form", before=lambda *_: victim.reach("form"), after=lambda *_: victim.reach("formed"))
    around(safetensors.torch, "save_file", after=save_file)


class Examples(torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Noise with labels that follow from it."""

    def __init__(self, victim: Victim, count: int) -> None:
        g = torch.Generator().manual_seed(1)
        self._victim = victim
        self._x = torch.randn(count, 8, generator=g)
        self._y = self._x[:, :3].argmax(-1)

    def __len__(self) -> int:
        return len(self._x)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        self._victim.reach("load")
        return self._x[index], self._y[index]


class Net(nn.Module):
    """Batch norm and dropout: what depends on the passes' statistics and streams."""

    def __init__(self, victim: Victim) -> None:
        super().__init__()
        self._victim = victim
        torch.manual_seed(1)
        self.first, self.norm, self.last = nn.Linear(8, 24), nn.BatchNorm1d(24), nn.Linear(24, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self._victim.reach("forward" if self.training else "evaluate")
        hidden = F.dropout(F.relu(self.norm(self.first(x))), 0.3, self.training)
        if hidden.requires_grad:
            hidden.register_hook(lambda _: self._victim.reach("backward"))
        return self.last(hidden)


class Average:
    """Exponential moving average of the weights."""

    def __init__(self, model: nn.Module) -> None:
        self._shadow = {name: p.detach().clone() for name, p in model.named_parameters()}

    def follow(self, model: nn.Module) -> None:
        for name, p in model.named_parameters():
            self._shadow[name].lerp_(p.detach(), 0.1)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return dict(self._shadow)

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self._shadow = dict(state)


class Tally:
    """Times that the code after update ran, in the whole job as this worker knows it."""

    def __init__(self) -> None:
        self.count = 0

    def state_dict(self) -> dict[str, int]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.count = state["count"]


def hold(victim: Victim, generation: int) -> None:
    """Wait until this worker knows of a planned view: a joiner takes longer to start than all the steps take."""
    group, until_s = victim.group, time.monotonic() + LIMIT_S
    assert group is not None
    while max(group.generation, group.agent.newest_planned) < generation:
        assert time.monotonic() < until_s, f"generation {generation} did not come"
        time.sleep(LOOK_S)


def main(
    *, faults: str = "", holds: str = "", steps: int = 14, takes_orders: bool = False, pace_s: float = 0.0
) -> None:
    """Train.

    Args:
        faults: See the module.
        holds: `step:generation` pairs: after that step, wait for that planned generation.
        steps: Steps of the whole run, in two epochs.
        takes_orders: See `Victim`.
        pace_s: What every step takes at least, in seconds.
    """
    MARKS.mkdir(exist_ok=True)
    victim = Victim(faults, takes_orders=takes_orders)
    token = os.urandom(8).hex()  # in memory alone: who has it at the end is the process that began
    write_mark(f"born-{victim.worker}", {"pid": os.getpid(), "token": token})
    wrap_holdtrue(victim)
    pending = {int(a): int(b) for a, b in (pair.split(":") for pair in holds.split(";") if pair)}
    run = ht.init(virtual_nodes=VIRTUAL_NODES, global_batch_size=BATCH, seed=5)
    victim.group = run._core.elastic
    model = Net(victim)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    optimizer.register_step_pre_hook(lambda *_: victim.reach("update"))
    optimizer.register_step_post_hook(lambda *_: victim.reach("updated"))
    run.prepare(model, optimizer)
    average, tally = Average(model), Tally()
    run.register("average", average)
    run.register("tally", tally)
    train_set, test_set = Examples(victim, BATCH * steps // 2), Examples(victim, 30)
    done: list[int] = []

    def judge(x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = model(x)
        return {"loss": F.cross_entropy(logits, y), "accuracy": (logits.argmax(-1) == y).float().mean()}

    for step in run.steps(train_set, epochs=2):
        began_s, victim.step = time.monotonic(), step.index
        for x, y in step:
            step.backward(F.cross_entropy(model(x), y))
        step.update(max_grad_norm=1.0)
        average.follow(model)
        tally.count += 1
        done.append(step.index)
        victim.reach("after")
        if step.index % EVALUATE_EVERY == EVALUATE_EVERY - 1:
            run.evaluate(judge, test_set)
        if step.index in pending:
            hold(victim, pending[step.index])
        time.sleep(max(0.0, began_s + pace_s - time.monotonic()) if pace_s else 0.0)
    write_mark(
        f"end-{victim.worker}", {"pid": os.getpid(), "token": token, "done": done, "count": tally.count}
    )
    run.save("trained.safetensors")
