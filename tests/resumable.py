"""Training scripts with all that a resume must bring back; they run in the tests' process and as `python resumable.py`.

`moment` is called wherever a run may be cut; a test sets `on_moment`, a process reads KILL_AT=NAME:STEP.
"""

import atexit
import copy
import gc
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

import holdtrue as ht

FEATURES = 6


def pass_by(name: str, step: int) -> None:
    """Cut nothing."""


on_moment: Callable[[str, int], None] = pass_by


def moment(name: str, step: int) -> None:
    """Somewhere that the run may be cut."""
    on_moment(name, step)


def kill_everything(name: str, step: int) -> None:
    """SIGKILL the launcher, whose workers die with it, and this process, if KILL_AT names this moment."""
    if os.environ.get("KILL_AT") == f"{name}:{step}":
        Path(os.environ["KILLED"]).write_text(f"{name}:{step}")
        if "HOLDTRUE_WORKER_WORKER" in os.environ:
            os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)


class Ema:
    """A moving average of the weights, and a patience that counts."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.values = [p.detach().clone() for p in model.parameters()]
        self.worse = 0

    def update(self, model: torch.nn.Module, *, is_worse: bool) -> None:
        for value, p in zip(self.values, model.parameters(), strict=True):
            value.mul_(0.9).add_(p.detach(), alpha=0.1)
        self.worse += is_worse

    def state_dict(self) -> dict[str, Any]:
        return {"values": copy.deepcopy(self.values), "worse": self.worse}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.values, self.worse = copy.deepcopy(list(state["values"])), state["worse"]


class Noisy(torch.utils.data.Dataset[Any]):
    """Examples with random augmentation from each of the host's streams."""

    def __init__(self, count: int) -> None:
        generator = torch.Generator().manual_seed(3)
        self.x = torch.randn(count, FEATURES, generator=generator)
        self.y = torch.randint(0, 3, (count,), generator=generator)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        noise = torch.rand(()) + random.random() + float(np.random.rand())
        return self.x[i] + 0.1 * noise, self.y[i]


class Stream:
    """An iterable source; shards are of unlike lengths, and each has a position."""

    def __init__(self, count: int, first: int = 0, every: int = 1) -> None:
        self.count, self.first, self.every, self.at, self.epoch = count, first, every, 0, 0

    def shard(self, v: int, n: int) -> "Stream":
        found = Stream(self.count, v, n)
        found.epoch = self.epoch
        return found

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        mine = list(range(self.first, self.count, self.every))
        if self.first == 0:
            mine += mine[:5]  # this shard is longer
        while self.at < len(mine):
            i = mine[self.at]
            self.at += 1
            generator = torch.Generator().manual_seed(100 * self.epoch + i)
            yield torch.randn(FEATURES, generator=generator) + torch.rand(()), torch.tensor(i % 3)

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at = state["at"]


def build() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """A small net with batch norm and dropout, and AdamW."""
    torch.manual_seed(1)
    model = torch.nn.Sequential(
        torch.nn.Linear(FEATURES, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.3), torch.nn.Linear(8, 3)
    )
    return model, torch.optim.AdamW(model.parameters(), lr=0.05)


def everything(run_dir: str | None) -> dict[str, Any]:
    """Several loops with evaluations in and between them, EMA, scaler, scheduler, a generator, the user's streams."""
    run = ht.init(virtual_nodes=5, global_batch_size=13, seed=4, run_dir=run_dir)
    model, optimizer = build()
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=9)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=2)  # overflows at first
    ema, generator = Ema(model), torch.Generator().manual_seed(8)
    run.prepare(model, optimizer, scheduler, scaler)
    run.register("ema", ema)
    run.register("generator", generator)
    loader = torch.utils.data.DataLoader(Noisy(49), batch_size=4, shuffle=True)
    seen: list[float] = []

    def accuracy() -> float:
        return run.evaluate(lambda x, y: {"accuracy": (model(x).argmax(-1) == y).float().mean()}, Noisy(17))[
            "accuracy"
        ]

    best = 0.0
    for epoch in range(3):
        for step in run.steps(loader, drop_last=False):
            for x, y in step:
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    loss = 8 * F.cross_entropy(model(x), y)
                moment("pass", step.index)
                step.backward(loss)
            moment("passes done", step.index)
            step.update(max_grad_norm=1.0)
            own = (
                torch.rand((), generator=generator)
                + torch.rand(())
                + random.random()
                + float(np.random.randn())
            )
            with torch.no_grad():
                model[0].bias += 1e-3 * own
            ema.update(model, is_worse=step.loss > 8.0)
            if step.index % 3 == 2:
                accuracy()
            moment("updated", step.index)
        seen.append(accuracy())
        moment("between", epoch)
        best = max(best, seen[-1])
    return {"digest": run.digest(), "best": best, "seen": seen, "run": run}


def streaming(run_dir: str | None) -> dict[str, Any]:
    """Iterable sources in several epochs and calls, a data set between them."""
    run = ht.init(virtual_nodes=3, global_batch_size=9, seed=4, run_dir=run_dir)
    model, optimizer = build()
    run.prepare(model, optimizer)
    counts = []

    def train(source: Any, epochs: int) -> None:
        count = 0
        for step in run.steps(source, epochs=epochs, drop_last=False):
            for x, y in step:
                moment("pass", step.index)
                step.backward(F.cross_entropy(model(x), y))
            step.update()
            count += 1
            moment("updated", step.index)
        counts.append(count)

    model[1].eval()  # a shard may leave one example
    train(Stream(32), 2)
    moment("between", 0)
    train(Noisy(20), 1)
    moment("between", 1)
    train(Stream(20), 2)
    return {"digest": run.digest(), "run": run}


def breaking(run_dir: str | None) -> dict[str, Any]:
    """Loops that are left by break, before and after an update, and one that is stopped."""
    run = ht.init(virtual_nodes=4, global_batch_size=8, seed=4, run_dir=run_dir)
    model, optimizer = build()
    run.prepare(model, optimizer)

    def train(breaks: Callable[[int, bool], bool], epochs: int, first: int) -> None:
        for step in run.steps(Noisy(24), epochs=epochs):
            if breaks(step.index, False):
                break
            for x, y in step:
                moment("pass", step.index)
                step.backward(F.cross_entropy(model(x), y))
            step.update()
            moment("updated", step.index)
            if breaks(step.index, True):
                break
            if step.index == 12:
                run.stop("enough")
        moment("between", first)
        run.evaluate(lambda x, y: {"loss": F.cross_entropy(model(x), y)}, Noisy(9))
        moment("evaluated", first)

    train(lambda index, is_after: is_after and index == 3, 2, 0)
    train(lambda index, is_after: not is_after and index == 6, 3, 1)
    train(lambda index, is_after: is_after and index == 8, 1, 2)  # the end of an epoch too
    train(lambda index, is_after: False, 5, 3)
    train(lambda index, is_after: False, 1, 4)
    return {"digest": run.digest(), "run": run}


SCRIPTS: dict[str, Callable[[str | None], dict[str, Any]]] = {
    "everything": everything,
    "streaming": streaming,
    "breaking": breaking,
}

if __name__ == "__main__":
    atexit.register(gc.freeze)  # or the collector looks through all of torch at the end
    on_moment = kill_everything
    result = SCRIPTS[sys.argv[1]](None)
    result["run"].print("digest", result["digest"])
