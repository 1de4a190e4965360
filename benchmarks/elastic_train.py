"""The training script of elastic.py: one model, by holdtrue or by DistributedDataParallel with checkpoints.

Every process appends to a file of its own when a step starts and ends, on the machine's monotonic clock.

    python benchmarks/elastic_train.py holdtrue|ddp|bandwidth --model big|small --folder FOLDER
"""

import argparse
import contextlib
import faulthandler
import os
import signal
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import TensorDataset

import holdtrue

VIRTUAL_NODES, BATCH, EXAMPLES, FEATURES, CLASSES = 4, 32, 2048, 784, 10
WIDTHS = {"big": [2048, 2048, 2048], "small": [64]}
CHECKPOINT_EVERY = 10
COPIES = 5


def build(name: str) -> nn.Module:
    """A plain perceptron; big has 10.0 million parameters."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    width = FEATURES
    for wide in WIDTHS[name]:
        layers += [nn.Linear(width, wide), nn.ReLU()]
        width = wide
    return nn.Sequential(*layers, nn.Linear(width, CLASSES))


def state_bytes(name: str) -> int:
    """Parameters and both moments of AdamW."""
    return 3 * sum(p.numel() * p.element_size() for p in build(name).parameters())


def examples() -> TensorDataset:
    """64 global batches."""
    torch.manual_seed(1)
    return TensorDataset(torch.randn(EXAMPLES, FEATURES), torch.randint(0, CLASSES, (EXAMPLES,)))


class Stamps:
    """Lines `kind step seconds` in a file of this process."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(folder / f"stamps-{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def put(self, kind: str, step: int) -> None:
        os.write(self._fd, f"{kind} {step} {time.monotonic():.6f}\n".encode())


def by_holdtrue(name: str, folder: Path) -> None:
    """Until it is stopped."""
    run = holdtrue.init(virtual_nodes=VIRTUAL_NODES, global_batch_size=BATCH, seed=0)
    model = build(name)
    model, _ = run.prepare(model, torch.optim.AdamW(model.parameters()))
    stamps = Stamps(folder)
    for step in run.steps(examples(), epochs=100_000):
        stamps.put("start", step.index)
        for x, y in step:
            step.backward(F.cross_entropy(model(x), y))
        step.update()
        stamps.put("end", step.index)


def by_ddp(name: str, folder: Path) -> None:
    """Until it is stopped; from the checkpoint, where there is one."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    model = build(name)
    optimizer = torch.optim.AdamW(model.parameters())
    step, path = 0, folder / "checkpoint.pt"
    if path.exists():
        saved = torch.load(path, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        step = saved["step"]
    wrapped = DistributedDataParallel(model)
    data, size, passes = examples().tensors, BATCH // VIRTUAL_NODES, VIRTUAL_NODES // world_size
    stamps = Stamps(folder)
    while True:
        stamps.put("start", step)
        for i in range(passes):
            at = (step * BATCH + (rank * passes + i) * size) % EXAMPLES
            x, y = (t[at : at + size] for t in data)
            with wrapped.no_sync() if i < passes - 1 else contextlib.nullcontext():
                (F.cross_entropy(wrapped(x), y) / passes).backward()
        optimizer.step()
        optimizer.zero_grad()
        stamps.put("end", step)
        step += 1
        if step % CHECKPOINT_EVERY == 0 and rank == 0:
            saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            torch.save(saved, path.with_suffix(".part"))
            path.with_suffix(".part").rename(path)
            stamps.put("saved", step)


def measure_bandwidth(name: str, folder: Path) -> None:
    """Bytes a second from rank 0 to rank 1 in messages of 64 MiB, each buffer written to before; rank 1 prints them."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    parts = [torch.zeros(64 * 2**20, dtype=torch.uint8) for _ in range(2)]
    for i in range(1 + COPIES):
        dist.barrier()
        began = time.monotonic()
        for part in parts:
            dist.send(part, 1) if dist.get_rank() == 0 else dist.recv(part, 0)
        if dist.get_rank() == 1 and i:
            print(sum(map(len, parts)) / (time.monotonic() - began), flush=True)


def main() -> None:
    """What the first argument names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["holdtrue", "ddp", "bandwidth"])
    parser.add_argument("--model", choices=list(WIDTHS), default="big")
    parser.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args()
    faulthandler.register(signal.SIGUSR1)  # elastic.py asks where a worker hangs
    act = {"holdtrue": by_holdtrue, "ddp": by_ddp, "bandwidth": measure_bandwidth}[options.what]
    act(options.model, options.folder)


if __name__ == "__main__":
    main()
